//! A JSON object of a file, read key by key, with errors that name both.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::text;
use crate::error::{Error, Result};

/// What a value is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// An object, and where it is. A null is as good as an absent key.
#[derive(Debug)]
pub(super) struct Object {
    path: PathBuf,
    /// What comes before a key in messages: empty, or `rope_scaling.`.
    prefix: String,
    fields: Map<String, Value>,
}

impl Object {
    /// The object that is the whole of a file.
    pub fn read(path: &Path) -> Result<Self> {
        let fields = text::json(path, &text::read(path)?, 0)?;
        Ok(Self { path: path.into(), prefix: String::new(), fields })
    }

    /// The object under `key`.
    pub fn nested(&self, key: &str) -> Result<Option<Self>> {
        let fields = self.optional(key, "an object")?;
        Ok(fields.map(|fields| Self { path: self.path.clone(), prefix: format!("{}{key}.", self.prefix), fields }))
    }

    /// All of it, with another value of `key`.
    pub fn with(mut self, key: &str, value: Value) -> Value {
        self.fields.insert(key.to_owned(), value);
        Value::Object(self.fields)
    }

    /// Whether the file has the key, be it null.
    pub fn has(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether anything in it asks for something.
    pub fn asks(&self) -> bool {
        self.fields.values().any(asks)
    }

    /// Whether `key` asks for something, that is, has a value other than null, false or empty.
    pub fn asks_for(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(asks)
    }

    /// The value of `key`, which must be `what` if it is there.
    pub fn optional<T: DeserializeOwned>(&self, key: &str, what: &str) -> Result<Option<T>> {
        let Some(value) = self.fields.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        T::deserialize(value).map(Some).map_err(|_| self.refuse(key, format!("must be {what}, got {}", abridge(value))))
    }

    /// The values of `key`, which must be one or a list of them, `what` in words.
    pub fn one_or_many<T: DeserializeOwned>(&self, key: &str, what: &str) -> Result<Option<Vec<T>>> {
        Ok(self.optional(key, what)?.map(|found| match found {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        }))
    }

    /// The value of `key`, which must be there.
    pub fn required<T: DeserializeOwned>(&self, key: &str, what: &str) -> Result<T> {
        self.optional(key, what)?.ok_or_else(|| self.refuse(key, format!("must be {what}, and is missing")))
    }

    /// Refuses the first of `keys` that asks for something, that is, has a value other than null, false or empty.
    pub fn refuse_any(&self, keys: &[&str]) -> Result<()> {
        let asked = keys.iter().find_map(|&key| Some((key, self.fields.get(key).filter(|value| asks(value))?)));
        asked.map_or(Ok(()), |(key, value)| Err(self.unsupported(key, value)))
    }

    /// The error of a `key` whose value means something that is not supported.
    pub fn unsupported(&self, key: &str, value: &Value) -> Error {
        self.refuse(key, format!("is {}, which is not supported", abridge(value)))
    }

    /// The error of a `key`.
    pub fn refuse(&self, key: &str, detail: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("{}{key} {detail}", self.prefix))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

fn asks(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// Enough of a value to recognise it.
fn abridge(value: &Value) -> String {
    const CHARS: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
