//! Marks that go through a template with the text, and are taken out of what it writes.

use std::ops::Range;

use serde_json::{Map, Value};

/// Begins what `{% generation %}` encloses.
pub(super) const OPEN: char = '\u{fdd0}';
/// Ends what `{% generation %}` encloses.
pub(super) const CLOSE: char = '\u{fdd1}';
/// Stands behind the first character of a special token that a message spells.
const SPELLED: char = '\u{fdd2}';

/// Whether `c` is one of the marks. Unicode sets these characters apart for uses like this; no text has them.
pub(super) fn is_mark(c: char) -> bool {
    matches!(c, OPEN | CLOSE | SPELLED)
}

/// A text without its marks, and where in it they were.
#[derive(Debug)]
pub(super) struct Unmarked {
    pub text: String,
    /// What stood between [`OPEN`] and [`CLOSE`], in bytes of `text`.
    pub enclosed: Vec<Range<usize>>,
    spelled: Vec<usize>,
}

impl Unmarked {
    /// Takes the marks out of `marked`; `None` if some have no counterpart.
    pub fn new(marked: &str) -> Option<Self> {
        let mut unmarked =
            Self { text: String::with_capacity(marked.len()), enclosed: Vec::new(), spelled: Vec::new() };
        let mut open = Vec::new();
        for c in marked.chars() {
            let at = unmarked.text.len();
            match c {
                OPEN => open.push(at),
                CLOSE => {
                    let start = open.pop()?;
                    if open.is_empty() {
                        unmarked.enclosed.push(start..at);
                    }
                }
                SPELLED => unmarked.spelled.push(at),
                c => unmarked.text.push(c),
            }
        }
        open.is_empty().then_some(unmarked)
    }

    /// Where messages spelled one of `tokens`, in bytes of the text.
    pub fn spelled(&self, tokens: &[&str]) -> Vec<Range<usize>> {
        let token_at = |&mark: &usize| {
            let start = mark - self.text[..mark].chars().next_back()?.len_utf8();
            let here = |token: &&&str| self.text[start..].starts_with(**token);
            let longest = tokens.iter().filter(here).map(|token| token.len()).max()?;
            Some(start..start + longest)
        };
        self.spelled.iter().filter_map(token_at).collect()
    }
}

/// Returns `fields` with a mark in every one of `tokens` that a value in it spells.
pub(super) fn mark_fields(fields: &Map<String, Value>, tokens: &[&str]) -> Map<String, Value> {
    fields.iter().map(|(name, value)| (name.clone(), mark_value(value, tokens))).collect()
}

/// Returns `value` with a mark in every one of `tokens` that it spells.
pub(super) fn mark_value(value: &Value, tokens: &[&str]) -> Value {
    match value {
        Value::String(text) => Value::String(mark_text(text, tokens)),
        Value::Array(items) => items.iter().map(|item| mark_value(item, tokens)).collect(),
        Value::Object(fields) => Value::Object(mark_fields(fields, tokens)),
        other => other.clone(),
    }
}

fn mark_text(text: &str, tokens: &[&str]) -> String {
    let mut marked = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        marked.push(c);
        if tokens.iter().any(|token| text[at..].starts_with(token)) {
            marked.push(SPELLED);
        }
    }
    marked
}

/// Whether a text in `value` fulfils `test`.
pub(super) fn any_text(value: &Value, test: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => test(text),
        Value::Array(items) => items.iter().any(|item| any_text(item, test)),
        Value::Object(fields) => fields.values().any(|value| any_text(value, test)),
        _ => false,
    }
}
