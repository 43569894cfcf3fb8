//! The two forms of torch.save's files: a zip archive, and pickles in a row before their storages.

use std::path::Path;

use super::unpickle::{Pickle, unpickle};
use super::value::{Heap, Storage, Value};
use super::zip::Archive;
use super::{SAVE_AGAIN, TRUNCATED};
use crate::error::{Error, Result};

/// What torch.save wrote: the object, and where in the file each storage of its heap begins.
pub struct Saved<'a> {
    pub root: Value<'a>,
    pub heap: Heap<'a>,
    pub starts: Vec<usize>,
}

/// Reads the form since PyTorch 1.6: a zip archive with `X/data.pkl`, and each storage as `X/data/KEY`.
///
/// # Errors
/// [`Error::File`] if it is not all there, or holds what is refused.
pub fn zipped<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<Saved<'a>> {
    let archive = Archive::open(path, bytes)?;
    let folder = folder(path, &archive)?;
    let find = |name: &str| archive.find(&format!("{folder}/{name}"));
    let content = |name: &str| find(name).map(|range| range.and_then(|range| bytes.get(range)));
    match content("byteorder")? {
        None | Some(b"little") => {}
        Some(_) => return Err(big_endian(path)),
    }
    let pickle = content("data.pkl")?.unwrap_or_default();
    let Pickle { root, heap, .. } = unpickle(path, "data.pkl, ", pickle, 0)?;
    let start = |storage: &Storage| {
        let Storage { key, numel, dtype } = storage;
        let missing = || Error::file(path, format!("has no storage {key}")).with_hint(TRUNCATED);
        let range = find(&format!("data/{key}"))?.ok_or_else(missing)?;
        if storage.bytes() != Some(range.len()) {
            let detail = format!("storage {key} has {} bytes, which are not {numel} elements of {dtype}", range.len());
            return Err(Error::file(path, detail));
        }
        Ok(range.start)
    };
    let starts = heap.storages().iter().map(start).collect::<Result<_>>()?;
    Ok(Saved { root, heap, starts })
}

/// The folder in the archive that all of torch.save's entries are in.
fn folder<'a>(path: &Path, archive: &Archive<'a>) -> Result<&'a str> {
    let folders_with = |file: &'static str| {
        let names = archive.names().filter_map(move |name| str::from_utf8(name).ok()?.strip_suffix(file));
        names.filter(|folder| !folder.contains('/'))
    };
    if folders_with("/constants.pkl").next().is_some() {
        return Err(Error::file(path, "is a TorchScript archive: code, not weights alone")
            .with_hint("torch.load's jit.load reads it: save its state_dict() with torch.save"));
    }
    let mut folders = folders_with("/data.pkl");
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder),
        _ => Err(Error::file(path, "is a zip archive, but not of torch.save: no data.pkl in its folder")
            .with_hint("if the weights were packed, unpack them")),
    }
}

const MAGIC: &[u8] = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
const PROTOCOL: i64 = 1001;

/// Reads the form before PyTorch 1.6: the pickles of a magic number, a version, facts on the machine, the object and
/// the list of storages, then each storage as its length and its elements.
///
/// # Errors
/// [`Error::File`] if it is not all there, or holds what is refused.
pub fn legacy<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<Saved<'a>> {
    let read = |at| unpickle(path, "", bytes, at);
    let magic = read(0)?;
    if magic.root != Value::Long(MAGIC) {
        return Err(Error::file(path, "is a pickle, but not of torch.save").with_hint(SAVE_AGAIN));
    }
    let version = read(magic.end)?;
    if version.root != Value::Int(PROTOCOL) {
        return Err(Error::file(path, "is of a version of torch.save that is not known").with_hint(SAVE_AGAIN));
    }
    let system = read(version.end)?;
    if let Value::Dict(facts) = system.root
        && system.heap.dict(facts).contains(&(Value::Text("little_endian"), Value::Bool(false)))
    {
        return Err(big_endian(path));
    }
    let Pickle { root, heap, end } = read(system.end)?;
    let keys = read(end)?;
    let listed = if let Value::List(list) = keys.root { keys.heap.sequence(list) } else { &[] };
    let starts = places(path, bytes, keys.end, &heap, listed)?;
    Ok(Saved { root, heap, starts })
}

/// Where each storage of `heap` begins, which follow each other from `at` on in the order of `keys`.
fn places(path: &Path, bytes: &[u8], mut at: usize, heap: &Heap, keys: &[Value]) -> Result<Vec<usize>> {
    let mut starts = vec![None; heap.storages().len()];
    for key in keys {
        let Value::Text(key) = key else { return Err(Error::file(path, "its list of storages is damaged")) };
        let stray = || Error::file(path, format!("has a storage {key:.80} that no tensor is in"));
        let number = heap.storage_of(key).ok_or_else(stray)?;
        let storage = &heap.storages()[number];
        let short = || Error::file(path, format!("truncated: storage {key} is not all there")).with_hint(TRUNCATED);
        let (length, data) = bytes.get(at..).and_then(|rest| rest.split_first_chunk::<8>()).ok_or_else(short)?;
        if u64::from_le_bytes(*length) != storage.numel as u64 {
            return Err(Error::file(path, format!("storage {key} is not of the length that its pickle says")));
        }
        let size = storage.bytes().filter(|&size| size <= data.len()).ok_or_else(short)?;
        starts[number] = Some(at + 8);
        at += 8 + size;
    }
    if at != bytes.len() {
        return Err(Error::file(path, format!("has {} bytes after its last storage", bytes.len().saturating_sub(at))));
    }
    let lost = || Error::file(path, "lacks a storage that its pickle names").with_hint(TRUNCATED);
    starts.into_iter().collect::<Option<_>>().ok_or_else(lost)
}

fn big_endian(path: &Path) -> Error {
    Error::file(path, "was saved on a big-endian machine, whose byte order is not read")
        .with_hint("load it with torch.load on another machine and save it there")
}
