//! How the records of a file were read. Nothing of them is passed over that is not said or refused here.

use std::fmt;

use serde_json::Value;

use super::fields::{Fields, shown};
use super::rows::Place;
use crate::error::Result;

/// What was made of the records of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What the records were taken for, and how many.
    pub forms: Vec<(String, usize)>,
    /// The fields that nothing was learned from.
    pub unread: Vec<String>,
    /// The fields that were read though their names have other capitals.
    pub respelled: Vec<String>,
    /// What separates the cells of a csv.
    pub separator: Option<char>,
}

impl Reading {
    /// Counts a record that was taken for `form`, with what was read of it.
    ///
    /// # Errors
    /// [`Error::File`](crate::error::Error::File) if an unread field changes what is learned.
    pub(super) fn count(&mut self, form: &str, fields: &Fields, place: &Place) -> Result<()> {
        refuse_meaningful(fields, form.starts_with(TEMPLATE), place)?;
        match self.forms.iter_mut().find(|(known, _)| known == form) {
            Some((_, count)) => *count += 1,
            None => self.forms.push((form.to_owned(), 1)),
        }
        fields.unread().for_each(|(name, _)| add(&mut self.unread, name));
        fields.respelled().for_each(|name| add(&mut self.respelled, name));
        Ok(())
    }
}

fn add(names: &mut Vec<String>, name: &str) {
    if names.iter().all(|known| known != name) {
        names.push(name.to_owned());
    }
}

/// How the form begins of records that go through a template.
pub(super) const TEMPLATE: &str = "template";

const MESSAGES: &str = "write the record as messages, with all that is said before the answer, or give a --template";
const PLAIN: &str = "give a --template of the fields that make the text";

/// Fields that say how much is learned of what.
const WEIGHTS: [&str; 9] = [
    "weight",
    "weights",
    "sample_weight",
    "loss_weight",
    "loss_mask",
    "completion_mask",
    "assistant_masks",
    "mask",
    "train",
];

/// Other fields that change what is learned, and what to do about them.
const MEANINGFUL: &[(&str, &str)] = &[
    ("system", MESSAGES),
    ("system_prompt", MESSAGES),
    ("history", MESSAGES),
    ("tools", MESSAGES),
    ("functions", MESSAGES),
    ("label", PLAIN),
    ("labels", PLAIN),
    ("chosen", PLAIN),
    ("rejected", PLAIN),
    ("rejected_response", PLAIN),
    ("kto_tag", PLAIN),
    ("images", PLAIN),
    ("image", PLAIN),
    ("videos", PLAIN),
    ("audios", PLAIN),
    ("position_ids", "give each sequence a record of its own"),
    ("seq_lengths", "give each sequence a record of its own"),
];

/// Refuses a field that nothing reads though it changes what is learned. Whoever brings a template has chosen the fields,
/// but no template says how much is learned.
fn refuse_meaningful(fields: &Fields, has_template: bool, place: &Place) -> Result<()> {
    for (name, value) in fields.unread().filter(|(_, value)| asks(value)) {
        let is = |known: &str| name.trim().eq_ignore_ascii_case(known);
        let hint = if WEIGHTS.into_iter().any(is) && !is_all_ones(value) {
            "leave out the records that are not to be learned; parts of one are, as input_ids with labels of -100"
        } else {
            match MEANINGFUL.iter().find(|(known, _)| is(known) && !has_template) {
                Some((_, hint)) if !(is("position_ids") && counts_up(value)) => hint,
                _ => continue,
            }
        };
        let refusal = place.refuse(format!("field {name:?} changes what is learned, and is not read"));
        return Err(refusal.with_hint(format!("{hint}; if it means something else, rename it or leave it out")));
    }
    Ok(())
}

/// Whether a value is more than a place that was left empty.
fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

fn is_all_ones(value: &Value) -> bool {
    match value {
        Value::Bool(is_true) => *is_true,
        Value::Number(number) => number.as_f64() == Some(1.0),
        Value::String(text) => text.eq_ignore_ascii_case("true") || text.trim().parse() == Ok(1.0),
        Value::Array(items) => items.iter().all(is_all_ones),
        Value::Null | Value::Object(_) => false,
    }
}

fn counts_up(value: &Value) -> bool {
    value.as_array().is_some_and(|items| items.iter().enumerate().all(|(i, item)| item.as_u64() == Some(i as u64)))
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.forms[..] {
            [(form, _)] => write!(f, "read as {form}")?,
            forms => {
                let forms: Vec<_> = forms.iter().map(|(form, count)| format!("{count} of {form}")).collect();
                write!(f, "read as several forms: {}", forms.join(", "))?;
            }
        }
        match self.separator {
            None | Some(',') => {}
            Some('\t') => f.write_str(", separated by tabs")?,
            Some(separator) => write!(f, ", separated by {separator}")?,
        }
        if !self.unread.is_empty() {
            write!(f, "\nfields not read: {}", list(&self.unread))?;
        }
        if !self.respelled.is_empty() {
            write!(f, "\nfields read whatever their capitals: {}", list(&self.respelled))?;
        }
        Ok(())
    }
}

/// Names in a line, the first of many.
fn list(names: &[String]) -> String {
    const MOST: usize = 20;
    let mut list = names.iter().take(MOST).map(|name| shown(name)).collect::<Vec<_>>().join(", ");
    if names.len() > MOST {
        list += &format!(" and {} more", names.len() - MOST);
    }
    list
}
