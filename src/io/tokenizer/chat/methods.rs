//! Python's methods of strings, lists and dictionaries.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Calls a method as Python does: one of this file, or one of `pycompat`'s.
pub(super) fn call(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let called = match (value.as_str(), value.kind(), name) {
        (Some(text), ..) => string(text, name, args)?,
        (None, ValueKind::Map, "copy") => {
            let fields = value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?)));
            Some(Value::from_pairs(fields.collect::<Result<Vec<_>, Error>>()?))
        }
        (None, ValueKind::Seq, "index") => {
            let (wanted,): (&Value,) = from_args(args)?;
            let place = value.try_iter()?.position(|item| item == *wanted);
            Some(place.ok_or_else(|| refused(format!("{wanted} is not in the list")))?.into())
        }
        _ => None,
    };
    called.map_or_else(|| pycompat::unknown_method_callback(state, value, name, args), Ok)
}

fn refused(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// The methods of strings that `pycompat` lacks, or knows with fewer arguments.
fn string(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match (name, args) {
        ("title", []) => title(text).into(),
        ("swapcase", []) => swapcase(text).into(),
        ("splitlines", _) => {
            let (keepends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keepends = keepends.map_or_else(|| kwargs.get::<Option<bool>>("keepends"), |keep| Ok(Some(keep)))?;
            lines(text, keepends.unwrap_or(false)).into_iter().collect()
        }
        ("partition" | "rpartition", _) => {
            let (separator,): (&str,) = from_args(args)?;
            Tuple::from(partition(text, separator, name == "rpartition").map(Value::from)).into()
        }
        ("removeprefix", _) => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        ("removesuffix", _) => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        ("split" | "rsplit", _) => split(text, name == "rsplit", args)?.into_iter().collect(),
        ("ljust" | "rjust" | "center" | "zfill", _) => pad(text, name, args)?.into(),
        ("index" | "rindex", [what, bounds @ ..]) => match find(text, name == "rindex", what, bounds)? {
            -1 => return Err(refused(format!("{name}: {what:?} is not in the text"))),
            place => place.into(),
        },
        ("find" | "rfind", [what, bounds @ ..]) if !bounds.is_empty() => {
            find(text, name == "rfind", what, bounds)?.into()
        }
        _ => return Ok(None),
    }))
}

/// Every letter after one that is none is a capital, all others are small.
fn title(text: &str) -> String {
    let mut before = ' ';
    let mut titled = String::with_capacity(text.len());
    for c in text.chars() {
        match before.is_alphabetic() {
            true => titled.extend(c.to_lowercase()),
            false => titled.extend(c.to_uppercase()),
        }
        before = c;
    }
    titled
}

fn swapcase(text: &str) -> String {
    let swapped = |c: char| match c.is_uppercase() {
        true => c.to_lowercase().to_string(),
        false => c.to_uppercase().to_string(),
    };
    text.chars().map(swapped).collect()
}

/// The lines of a text by all ends of lines that Python knows.
fn lines(text: &str, keepends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(end) = rest.find(is_end) {
        let width =
            if rest[end..].starts_with("\r\n") { 2 } else { rest[end..].chars().next().map_or(1, char::len_utf8) };
        lines.push(&rest[..if keepends { end + width } else { end }]);
        rest = &rest[end + width..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn partition<'a>(text: &'a str, separator: &'a str, from_right: bool) -> [&'a str; 3] {
    let found = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    match found {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    }
}

/// Python's `split` and `rsplit`, the most splits as the second argument or by name.
fn split<'a>(text: &'a str, from_right: bool, args: &'a [Value]) -> Result<Vec<&'a str>, Error> {
    let (separator, most, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.map_or_else(|| kwargs.get::<Option<&str>>("sep"), |separator| Ok(Some(separator)))?;
    let most = most.map_or_else(|| kwargs.get::<Option<i64>>("maxsplit"), |most| Ok(Some(most)))?;
    kwargs.assert_all_used()?;
    let pieces = usize::try_from(most.unwrap_or(-1)).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match (separator, from_right) {
        (Some(""), _) => return Err(refused("split: the separator is empty")),
        (Some(separator), false) => text.splitn(pieces, separator).collect(),
        (Some(separator), true) => text.rsplitn(pieces, separator).collect(),
        (None, false) => blanks(text, pieces),
        (None, true) => blanks_from_right(text, pieces),
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

/// The words of a text, of which the last is what is left after `pieces` - 1 of them.
fn blanks(text: &str, pieces: usize) -> Vec<&str> {
    let (mut words, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let end = rest.find(char::is_whitespace).filter(|_| words.len() + 1 < pieces).unwrap_or(rest.len());
        words.push(if words.len() + 1 < pieces { &rest[..end] } else { rest });
        rest = rest[end..].trim_start();
    }
    words
}

/// The words of a text, the last one first.
fn blanks_from_right(text: &str, pieces: usize) -> Vec<&str> {
    let (mut words, mut rest) = (Vec::new(), text.trim_end());
    while !rest.is_empty() {
        let last = rest.char_indices().rfind(|(_, c)| c.is_whitespace()).map(|(at, c)| at + c.len_utf8());
        let start = last.filter(|_| words.len() + 1 < pieces).unwrap_or(0);
        words.push(&rest[start..]);
        rest = rest[..start].trim_end();
    }
    words
}

/// The most that a text is padded to, against templates that would fill the memory.
const MAX_WIDTH: usize = 10_000;

fn pad(text: &str, name: &str, args: &[Value]) -> Result<String, Error> {
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    let missing = width.min(MAX_WIDTH).saturating_sub(text.chars().count());
    let fill = |count: usize| fill.unwrap_or(' ').to_string().repeat(count);
    Ok(match name {
        "ljust" => format!("{text}{}", fill(missing)),
        "rjust" => format!("{}{text}", fill(missing)),
        "zfill" => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        _ => {
            // as CPython: of an odd number of blanks the one more stands on the left if the width is odd
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", fill(left), fill(missing - left))
        }
    })
}

/// Where `what` stands between `bounds`, in characters; -1 if nowhere.
fn find(text: &str, from_right: bool, what: &Value, bounds: &[Value]) -> Result<i64, Error> {
    let what = what.as_str().ok_or_else(|| refused("find: what to find must be text"))?;
    let (start, end): (Option<i64>, Option<i64>) = from_args(bounds)?;
    let characters: Vec<char> = text.chars().collect();
    let length = characters.len();
    let place = |bound: i64| match usize::try_from(bound) {
        Ok(bound) => bound.min(length),
        Err(_) => length.saturating_sub(usize::try_from(bound.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let (start, end) = (place(start.unwrap_or(0)), end.map_or(length, place));
    let part: String = characters.get(start..end).unwrap_or_default().iter().collect();
    let found = if from_right { part.rfind(what) } else { part.find(what) };
    Ok(found.map_or(-1, |at| (start + part[..at].chars().count()).try_into().unwrap_or(i64::MAX)))
}
