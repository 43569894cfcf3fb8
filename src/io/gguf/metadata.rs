//! Metadata values, decoded when asked for. A key that is missing is `None`; one of another type is an error.

use super::Gguf;
use super::header::{Entry, Kind};
use super::reader::Reader;
use crate::error::{Error, Result};

impl Gguf {
    /// An error about the metadata key `key`.
    pub(in crate::io) fn key_error(&self, key: &str, detail: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("metadata key {key:?}: {detail}"))
    }

    /// What a key that must be there holds.
    pub(in crate::io) fn require<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.key_error(key, "is missing"))
    }

    /// A number that is not negative.
    pub(in crate::io) fn unsigned(&self, key: &str) -> Result<Option<usize>> {
        self.scalar(key, "a whole number, not negative", |entry, bytes| integer(entry.kind, bytes)?.try_into().ok())
    }

    /// A whole number.
    pub(in crate::io) fn integer(&self, key: &str) -> Result<Option<i64>> {
        self.scalar(key, "a whole number", |entry, bytes| integer(entry.kind, bytes))
    }

    /// A number.
    pub(in crate::io) fn float(&self, key: &str) -> Result<Option<f64>> {
        self.scalar(key, "a number", |entry, bytes| float(entry.kind, bytes))
    }

    /// A truth value.
    pub(in crate::io) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.scalar(key, "true or false", |entry, bytes| (entry.kind == Kind::Bool).then_some(bytes != [0]))
    }

    /// A text.
    pub(in crate::io) fn string(&self, key: &str) -> Result<Option<&str>> {
        let Some(entry) = self.header.metadata.get(key) else { return Ok(None) };
        if entry.count.is_some() || entry.kind != Kind::String {
            return Err(self.key_error(key, "must be a string"));
        }
        self.reader(key, entry).string().map(Some)
    }

    /// An array of texts.
    pub(in crate::io) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(entry) = self.header.metadata.get(key) else { return Ok(None) };
        let (Some(count), Kind::String) = (entry.count, entry.kind) else {
            return Err(self.key_error(key, "must be an array of strings"));
        };
        let mut reader = self.reader(key, entry);
        (0..count).map(|_| reader.string()).collect::<Result<_>>().map(Some)
    }

    /// An array of whole numbers.
    pub(in crate::io) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.array(key, "an array of whole numbers", integer)
    }

    /// An array of numbers.
    pub(in crate::io) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.array(key, "an array of numbers", float)
    }

    fn scalar<T>(&self, key: &str, wanted: &str, decode: impl Fn(&Entry, &[u8]) -> Option<T>) -> Result<Option<T>> {
        let Some(entry) = self.header.metadata.get(key) else { return Ok(None) };
        let bytes = self.bytes().get(entry.bytes.clone()).filter(|_| entry.count.is_none());
        let value = bytes.and_then(|bytes| decode(entry, bytes));
        value.map(Some).ok_or_else(|| self.key_error(key, format!("must be {wanted}")))
    }

    fn array<T>(&self, key: &str, wanted: &str, decode: fn(Kind, &[u8]) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(entry) = self.header.metadata.get(key) else { return Ok(None) };
        let bytes = self.bytes().get(entry.bytes.clone()).filter(|_| entry.count.is_some());
        let values = bytes.zip(entry.kind.size()).and_then(|(bytes, size)| {
            bytes.chunks_exact(size).map(|bytes| decode(entry.kind, bytes)).collect::<Option<Vec<T>>>()
        });
        values.map(Some).ok_or_else(|| self.key_error(key, format!("must be {wanted}")))
    }

    fn reader(&self, key: &str, entry: &Entry) -> Reader<'_> {
        let place = format!("metadata key {key:?}");
        Reader { path: &self.path, file: self.bytes(), at: entry.bytes.start, place }
    }
}

fn integer(kind: Kind, bytes: &[u8]) -> Option<i64> {
    Some(match kind {
        Kind::U8 => u8::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::I8 => i8::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::U16 => u16::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::I16 => i16::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::U32 => u32::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::I32 => i32::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::U64 => u64::from_le_bytes(bytes.try_into().ok()?).try_into().ok()?,
        Kind::I64 => i64::from_le_bytes(bytes.try_into().ok()?),
        Kind::F32 | Kind::F64 | Kind::Bool | Kind::String | Kind::Array => return None,
    })
}

fn float(kind: Kind, bytes: &[u8]) -> Option<f64> {
    match kind {
        Kind::F32 => Some(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::F64 => Some(f64::from_le_bytes(bytes.try_into().ok()?)),
        _ => integer(kind, bytes).map(|value| value as f64),
    }
}
