//! NumPy's `.npy`: one array in row-major order, little-endian.

use std::io::Write;
use std::path::Path;

use super::atomic::write_file;
use crate::error::{Error, Result};

/// The types that are read and written: name, NumPy's `descr`, bytes. `bf16`, which NumPy lacks, is kept as `u16`.
const TYPES: &[(&str, &str, usize)] = &[
    ("f32", "<f4", 4),
    ("f64", "<f8", 8),
    ("f16", "<f2", 2),
    ("i8", "|i1", 1),
    ("u8", "|u1", 1),
    ("i16", "<i2", 2),
    ("u16", "<u2", 2),
    ("i32", "<i4", 4),
    ("u32", "<u4", 4),
    ("i64", "<i8", 8),
    ("u64", "<u8", 8),
    ("bf16", "<u2", 2),
];

/// An array as its file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Npy {
    descr: String,
    shape: Vec<usize>,
    /// The elements.
    pub data: Vec<u8>,
}

impl Npy {
    /// An array of zero bytes of the type of that name; `None` if there is none, or no machine can hold it.
    pub fn zeros(dtype: &str, shape: Vec<usize>) -> Option<Self> {
        let (_, descr, size) = TYPES.iter().find(|(name, ..)| *name == dtype)?;
        let bytes = bytes(*size, &shape)?;
        let mut data = Vec::new();
        data.try_reserve_exact(bytes).ok()?;
        data.resize(bytes, 0);
        Some(Self { descr: (*descr).into(), shape, data })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or does not hold such an array.
    pub fn read(path: &Path) -> Result<Self> {
        let file = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::parse(&file).map_err(|detail| Error::file(path, detail))
    }

    fn parse(file: &[u8]) -> Result<Self, String> {
        let rest = file.strip_prefix(b"\x93NUMPY").ok_or("is not a .npy file")?;
        let (header, data) = match rest {
            [1, _, a, b, rest @ ..] => rest.split_at_checked(u16::from_le_bytes([*a, *b]).into()),
            [2 | 3, _, a, b, c, d, rest @ ..] => rest.split_at_checked(u32::from_le_bytes([*a, *b, *c, *d]) as usize),
            _ => None,
        }
        .ok_or("its header is cut off")?;
        let header = std::str::from_utf8(header).map_err(|_| "its header is not text")?;
        let descr = value(header, "'descr':").and_then(|v| v.strip_prefix('\'')?.split('\'').next());
        let descr = descr.ok_or("its header names no type")?;
        let known = TYPES.iter().find(|(_, known, _)| *known == descr);
        let (_, _, size) = known.ok_or_else(|| format!("elements of type {descr} are not supported"))?;
        let shape = value(header, "'shape':").and_then(shape).ok_or("its header names no shape")?;
        if shape.len() > 1 && !value(header, "'fortran_order':").is_some_and(|v| v.starts_with("False")) {
            return Err("is not in row-major order".into());
        }
        let expected = bytes(*size, &shape).ok_or("its shape is too large")?;
        if data.len() != expected {
            return Err(format!("{shape:?} of {descr} needs {expected} bytes, got {}", data.len()));
        }
        Ok(Self { descr: descr.into(), shape, data: data.to_vec() })
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let sizes: String = self.shape.iter().map(|size| format!("{size}, ")).collect();
        let dict = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", self.descr, sizes.trim_end());
        let header = format!("{dict:<width$}\n", width = (dict.len() + 11).next_multiple_of(64) - 11);
        write_file(path, |out| {
            let io = |e| Error::io(path, e);
            out.write_all(b"\x93NUMPY\x01\x00").map_err(io)?;
            out.write_all(&(header.len() as u16).to_le_bytes()).map_err(io)?;
            out.write_all(header.as_bytes()).map_err(io)?;
            out.write_all(&self.data).map_err(io)
        })
    }
}

/// What stands behind `key` in the header's dictionary.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    Some(header.split_once(key)?.1.trim_start())
}

/// The numbers of a tuple.
fn shape(text: &str) -> Option<Vec<usize>> {
    let inner = text.strip_prefix('(')?.split_once(')')?.0;
    inner.split(',').map(str::trim).filter(|size| !size.is_empty()).map(|size| size.parse().ok()).collect()
}

fn bytes(size: usize, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(size, |bytes, size| bytes.checked_mul(*size)).filter(|bytes| *bytes <= isize::MAX as usize)
}
