//! Python's `json.dumps`, as templates ask for it.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::python;

/// Returns what transformers' filter `tojson` writes: `json.dumps(value, ensure_ascii=False)`, with the options of that
/// function.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let style = Style::new(&options)?;
    options.assert_all_used()?;
    let mut text = String::new();
    style.write(value, 0, &mut text)?;
    Ok(text)
}

/// Options of `json.dumps`.
struct Style {
    ensure_ascii: bool,
    sort_keys: bool,
    /// What each level is indented by; without it all stands on one line.
    indent: Option<String>,
    between_items: String,
    after_key: String,
}

impl Style {
    fn new(options: &Kwargs) -> Result<Self, Error> {
        let flag = |name| Ok::<_, Error>(options.get::<Option<Value>>(name)?.is_some_and(|value| value.is_true()));
        let indent = match options.get::<Option<Value>>("indent")?.filter(|value| !value.is_none()) {
            Some(text) if text.as_str().is_some() => Some(text.to_string()),
            Some(width) => Some(" ".repeat(usize::try_from(i64::try_from(width)?.clamp(0, MAX_INDENT)).unwrap_or(0))),
            None => None,
        };
        let separators = options.get::<Option<Value>>("separators")?.filter(|value| !value.is_none());
        let (between_items, after_key) = match separators {
            Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        };
        Ok(Self {
            ensure_ascii: flag("ensure_ascii")?,
            sort_keys: flag("sort_keys")?,
            indent,
            between_items,
            after_key,
        })
    }

    fn write(&self, value: &Value, depth: usize, text: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => text.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), text),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items(&items, ['[', ']'], depth, text, |item, text| self.write(item, depth + 1, text))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.items(&keys, ['{', '}'], depth, text, |key, text| {
                    self.string(&self.key(key)?, text);
                    text.push_str(&self.after_key);
                    self.write(&value.get_item(key)?, depth + 1, text)
                })?;
            }
            kind => return Err(unserializable(kind)),
        }
        Ok(())
    }

    /// Writes `items` one by one between brackets.
    fn items(
        &self,
        items: &[Value],
        [open, close]: [char; 2],
        depth: usize,
        text: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        text.push(open);
        for (i, item) in items.iter().enumerate() {
            text.push_str(if i > 0 { &self.between_items } else { "" });
            self.new_line(depth + 1, text);
            write(item, text)?;
        }
        if !items.is_empty() {
            self.new_line(depth, text);
        }
        text.push(close);
        Ok(())
    }

    fn new_line(&self, depth: usize, text: &mut String) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    /// The text of a key, which Python writes as a string whatever it was.
    fn key(&self, key: &Value) -> Result<String, Error> {
        let mut text = String::new();
        match key.kind() {
            ValueKind::String => text.push_str(key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.write(key, 0, &mut text)?,
            kind => return Err(unserializable(kind)),
        }
        Ok(text)
    }

    fn string(&self, string: &str, text: &mut String) {
        text.push('"');
        for c in string.chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && !c.is_ascii() && !super::marks::is_mark(c) => escape(c, text),
                c => text.push(c),
            }
        }
        text.push('"');
    }
}

/// The most that a level is indented by, against templates that would fill the memory.
const MAX_INDENT: i64 = 64;

/// Writes `\u` and the number of each of the character's UTF-16 units.
fn escape(c: char, text: &mut String) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        // writing to a string cannot fail
        let _ = write!(text, "\\u{unit:04x}");
    }
}

fn unserializable(kind: ValueKind) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("tojson: an {kind} value is no JSON"))
}

/// Returns a number as Python's `json` writes it.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if value.is_integer() || float.is_finite() => python::text(value),
        Ok(float) if float.is_nan() => "NaN".to_owned(),
        Ok(float) => if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Err(_) => python::text(value),
    }
}
