//! Files of rows: JSON lines, one JSON array, csv, or a text. What the rows mean is not known here.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::csv;
use crate::error::{Error, Result};
use crate::io::text;

/// Where a record stands: `line 7` of a file, or `record 7` of its array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: Arc<Path>,
    unit: &'static str,
    number: usize,
}

impl Place {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error that names this place.
    pub fn refuse(&self, detail: impl fmt::Display) -> Error {
        Error::file(&self.path, format!("{self}: {detail}"))
    }

    /// `error` as one that names this place.
    pub fn blame(&self, error: Error) -> Error {
        let refusal = self.refuse(&error);
        match error.hint() {
            Some(hint) => refusal.with_hint(hint),
            None => refusal,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.unit, self.number)
    }
}

/// The records of a file, each where it stands.
pub(super) type Rows = Vec<(Place, Fields)>;

/// A record as it was written: fields in their order.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, Value)>);

impl Fields {
    /// The name of the first one.
    pub fn first(&self) -> Option<&str> {
        self.0.first().map(|(name, _)| name.as_str())
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Whether there is such a field, be it null.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The field `name`, which must be text.
    pub fn text(&self, name: &str, place: &Place) -> Result<&str> {
        match self.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(value) => Err(place.refuse(format!("field {name:?} must be text, got {}", kind(value)))),
            None => Err(place.refuse(format!("field {name:?} is missing; there are {self}"))),
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
        let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "fields [{}]", names.join(", "))
    }
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
        let mut fields = Fields(Vec::new());
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if fields.has(&name) {
                return Err(A::Error::custom(format_args!("field {name:?} stands twice")));
            }
            fields.0.push((name, value));
        }
        Ok(fields)
    }
}

/// Reads the rows of a file.
pub(super) fn read(path: &Path) -> Result<Rows> {
    let text = text::read(path)?;
    let text = text.as_str();
    if text.trim().is_empty() {
        Ok(Vec::new())
    } else if has_extension(path, "txt") {
        let place = Place { path: path.into(), unit: "line", number: 1 };
        Ok(vec![(place, Fields(vec![("text".into(), text.into())]))])
    } else if has_extension(path, "csv") {
        csv_rows(path, text)
    } else if text.trim_start().starts_with('[') {
        array(path, text)
    } else {
        lines(path, text)
    }
}

fn lines(path: &Path, text: &str) -> Result<Rows> {
    let path: Arc<Path> = path.into();
    let place = |index| Place { path: path.clone(), unit: "line", number: index + 1 };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| Ok((place(index), parse(&path, line, index)?))).collect()
}

fn array(path: &Path, text: &str) -> Result<Rows> {
    let rows: Vec<Fields> = parse(path, text, 0)?;
    let path: Arc<Path> = path.into();
    let place = |index| Place { path: path.clone(), unit: "record", number: index + 1 };
    Ok(rows.into_iter().enumerate().map(|(index, fields)| (place(index), fields)).collect())
}

fn csv_rows(path: &Path, text: &str) -> Result<Rows> {
    let path: Arc<Path> = path.into();
    let place = |line| Place { path: path.clone(), unit: "line", number: line };
    let mut rows = csv::parse(text).map_err(|(line, detail)| place(line).refuse(detail))?.into_iter();
    let Some((_, header)) = rows.next() else { return Ok(Vec::new()) };
    let fields = |(line, cells): (usize, Vec<String>)| {
        if cells.len() != header.len() {
            return Err(place(line).refuse(format!("has {} cells where the header has {}", cells.len(), header.len())));
        }
        let cells = cells.into_iter().map(Value::String);
        Ok((place(line), Fields(header.iter().cloned().zip(cells).collect())))
    };
    rows.map(fields).collect()
}

/// Parses JSON that begins `skipped` lines into the file.
fn parse<T: for<'de> Deserialize<'de>>(path: &Path, text: &str, skipped: usize) -> Result<T> {
    text::json(path, text, skipped).map_err(|e| {
        e.or_hint("data is one JSON object a line, or one array of them; or a .csv, or a .txt of plain text")
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

pub(super) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}
