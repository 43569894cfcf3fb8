//! Python's `%` behind a text, which is not minijinja's.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, Value};

/// The filter that [`rewrite`] writes in the operator's place.
pub(super) const FILTER: &str = "percent";

/// What [`FILTER`] does: `text % values`.
pub(super) fn percent(text: &str, values: &Value) -> Result<String, Error> {
    let values: Vec<Value> = match values.kind() {
        _ if values.is_tuple() => values.try_iter()?.collect(),
        ValueKind::Map => {
            let fields = values.try_iter()?.map(|key| Ok((key.to_string(), values.get_item(&key)?)));
            vec![fields.collect::<Result<Kwargs, Error>>()?.into()]
        }
        _ => vec![values.clone()],
    };
    format(FormatStyle::Printf, text, &values)
}

/// Returns a template in which `'text' % values` is `'text'|percent(values)`.
pub(super) fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let close = match rest.as_bytes().get(start + 1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => "#}",
            _ => {
                out.push_str(&rest[..=start]);
                rest = &rest[start + 1..];
                continue;
            }
        };
        let (text, tag) = rest.split_at(start);
        out.push_str(text);
        let end = if close == "#}" { tag.find(close).map(|at| at + 2) } else { tag_end(tag, close) };
        let (tag, after) = tag.split_at(end.unwrap_or(tag.len()));
        match close {
            "#}" => out.push_str(tag),
            _ => rewrite_tag(tag, &mut out),
        }
        rest = after;
    }
    out + rest
}

/// Where a tag ends that begins `tag`.
fn tag_end(tag: &str, close: &str) -> Option<usize> {
    let mut at = 2;
    while at < tag.len() {
        let here = &tag[at..];
        if here.starts_with(close) {
            return Some(at + 2);
        }
        at += piece(here);
    }
    None
}

/// The length of the text in quotes, or else of the character, that begins `text`.
fn piece(text: &str) -> usize {
    let mut characters = text.char_indices();
    let Some((_, first)) = characters.next() else { return 0 };
    if !matches!(first, '\'' | '"') {
        return first.len_utf8();
    }
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => drop(characters.next()),
            c if c == first => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn rewrite_tag(tag: &str, out: &mut String) {
    let (mut at, mut is_text) = (0, false);
    while at < tag.len() {
        let here = &tag[at..];
        if is_text && here.starts_with('%') && !here.starts_with("%}") {
            let blanks = here[1..].len() - here[1..].trim_start().len();
            let operand = &here[1 + blanks..];
            let (operand, _) = operand.split_at(operand_end(operand));
            let mut inner = String::new();
            rewrite_tag(operand, &mut inner);
            out.push_str(&format!("|{FILTER}({inner})"));
            at += 1 + blanks + operand.len();
            is_text = false;
            continue;
        }
        let length = piece(here);
        let is_blank = here.starts_with(char::is_whitespace);
        is_text = if is_blank { is_text } else { here.starts_with(['\'', '"']) };
        out.push_str(&here[..length]);
        at += length;
    }
}

/// Where the value ends that begins `text`: a name, a literal or what is in brackets, with the attributes, subscripts,
/// calls and filters behind it.
fn operand_end(text: &str) -> usize {
    let mut at = 0;
    let mut wants_name = true;
    while at < text.len() {
        let here = &text[at..];
        let blanks = here.len() - here.trim_start().len();
        match here.trim_start().chars().next() {
            Some('(' | '[' | '{') if wants_name || blanks == 0 => {
                at += blanks + brackets(here.trim_start());
                wants_name = false;
            }
            Some('\'' | '"') if wants_name => {
                at += blanks + piece(here.trim_start());
                wants_name = false;
            }
            Some(c) if wants_name && (c.is_alphanumeric() || matches!(c, '_' | '-')) => {
                let word = here.trim_start();
                let end = word[1..].find(|c: char| !c.is_alphanumeric() && c != '_').map_or(word.len(), |end| end + 1);
                at += blanks + end;
                wants_name = false;
            }
            Some('.' | '|') if !wants_name => {
                at += blanks + 1;
                wants_name = true;
            }
            _ => break,
        }
    }
    at
}

/// Where the bracket closes that begins `text`.
fn brackets(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < text.len() {
        let here = &text[at..];
        depth = match here.chars().next() {
            Some('(' | '[' | '{') => depth + 1,
            Some(')' | ']' | '}') => depth.saturating_sub(1),
            _ => depth,
        };
        at += piece(here);
        if depth == 0 {
            break;
        }
    }
    at
}
