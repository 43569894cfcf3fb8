//! The fields of a record, and which of them were read.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::rows::Place;
use crate::error::Result;
use crate::io::json::kind;

/// A record as it was written: fields in their order. A name is found whatever its capitals and the spaces around it.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<Field>);

#[derive(Debug)]
struct Field {
    name: String,
    value: Value,
    asked: Cell<Asked>,
}

/// How a field was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Never,
    ByName,
    /// By its name in other capitals.
    BySimilarName,
}

impl Fields {
    /// Adds a field. `false` if there is one of that name.
    pub fn push(&mut self, name: String, value: Value) -> bool {
        let is_new = self.0.iter().all(|field| field.name != name);
        self.0.push(Field { name, value, asked: Cell::new(Asked::Never) });
        is_new
    }

    fn find(&self, name: &str) -> Option<(&Field, Asked)> {
        let exact = self.0.iter().find(|field| field.name == name).map(|field| (field, Asked::ByName));
        let is_similar = |field: &&Field| field.name.trim().eq_ignore_ascii_case(name);
        exact.or_else(|| self.0.iter().find(is_similar).map(|field| (field, Asked::BySimilarName)))
    }

    /// The value of the field `name`, be it null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let (field, asked) = self.find(name)?;
        field.asked.set(asked);
        Some(&field.value)
    }

    /// Whether there is such a field, be it null.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The name of the only field.
    pub fn only(&self) -> Option<&str> {
        if let [only] = &self.0[..] { Some(&only.name) } else { None }
    }

    /// The fields that nobody asked for.
    pub fn unread(&self) -> impl Iterator<Item = (&str, &Value)> {
        let unread = self.0.iter().filter(|field| field.asked.get() == Asked::Never);
        unread.map(|field| (field.name.as_str(), &field.value))
    }

    /// The names of those that were asked for in other capitals.
    pub fn respelled(&self) -> impl Iterator<Item = &str> {
        let respelled = self.0.iter().filter(|field| field.asked.get() == Asked::BySimilarName);
        respelled.map(|field| field.name.as_str())
    }

    /// The field `name`, which must be text.
    pub fn text(&self, name: &str, place: &Place) -> Result<&str> {
        match self.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(value) => Err(place.refuse(format!("field {name:?} must be text, got {}", kind(value)))),
            None => Err(place.refuse(format!("field {name:?} is missing; there are {self}"))),
        }
    }

    /// The field `name` as a template writes it, text or a number.
    pub fn written(&self, name: &str, place: &Place) -> Result<Cow<'_, str>> {
        match self.get(name) {
            Some(Value::Number(number)) => Ok(number.to_string().into()),
            _ => self.text(name, place).map(Cow::from),
        }
    }

    /// The field `name`, which may be missing or null and is empty then.
    pub fn text_or_empty(&self, name: &str, place: &Place) -> Result<&str> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(_) => self.text(name, place),
        }
    }

    /// The list in the field `name`, unless that is missing or null.
    pub fn list<T: DeserializeOwned>(&self, name: &str, what: &str, place: &Place) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        Option::deserialize(value).map_err(|e| place.refuse(format!("field {name:?} must be a list of {what}: {e}")))
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|field| shown(&field.name)).collect();
        write!(f, "fields [{}]", names.join(", "))
    }
}

/// A name for messages: one that is empty is seen.
pub(super) fn shown(name: &str) -> &str {
    if name.is_empty() { "\"\"" } else { name }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            let twice = A::Error::custom(format_args!("field {name:?} stands twice"));
            if !fields.push(name, value) {
                return Err(twice);
            }
        }
        Ok(fields)
    }
}
