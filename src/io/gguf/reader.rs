//! Little-endian numbers and strings, read in order.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// A place in a file. Reading past the end is an error that names the file, what was being read, and where.
pub(super) struct Reader<'a> {
    pub path: &'a Path,
    pub file: &'a [u8],
    /// The next byte.
    pub at: usize,
    /// What is being read, for messages.
    pub place: String,
}

impl<'a> Reader<'a> {
    pub fn new(path: &'a Path, file: &'a [u8]) -> Self {
        Self { path, file, at: 0, place: "header".to_owned() }
    }

    /// An error about what is at the next byte.
    pub fn error(&self, detail: impl std::fmt::Display) -> Error {
        self.error_at(self.at, detail)
    }

    pub fn error_at(&self, at: usize, detail: impl std::fmt::Display) -> Error {
        Error::file(self.path, format!("{}, at byte {at}: {detail}", self.place))
    }

    pub fn rest(&self) -> &'a [u8] {
        self.file.get(self.at..).unwrap_or_default()
    }

    pub fn slice(&self, range: &Range<usize>) -> &'a [u8] {
        self.file.get(range.clone()).unwrap_or_default()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some(bytes) = self.rest().get(..count) else {
            return Err(self.error(format!("needs {count} bytes, but the file ends after {}", self.rest().len())));
        };
        self.at += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A 64-bit size.
    pub fn length(&mut self) -> Result<usize> {
        let at = self.at;
        let length = self.u64()?;
        usize::try_from(length).map_err(|_| self.error_at(at, format!("a size of {length} is too large")))
    }

    pub fn string(&mut self) -> Result<&'a str> {
        let length = self.length()?;
        let at = self.at;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|e| self.error_at(at, format!("a string is not UTF-8: {e}")))
    }
}
