//! Zip archives of stored entries, as torch.save writes them: where the bytes of each are.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::{SAVE_AGAIN, TRUNCATED};
use crate::error::{Error, Result};

/// How an archive begins.
pub const MAGIC: &[u8] = b"PK\x03\x04";
const ENTRY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR64: &[u8] = b"PK\x06\x07";
/// A comment after [`END`] can be as long.
const MAX_COMMENT: usize = u16::MAX as usize;
const ZIP64: u64 = 1;
const IS_LONGER: u64 = u32::MAX as u64;

/// The entries of an archive, as its directory at the end lists them.
pub struct Archive<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    entries: BTreeMap<&'a [u8], Entry>,
}

struct Entry {
    /// Where its local header is, which the data follows.
    header: usize,
    size: usize,
    is_plain: bool,
}

impl<'a> Archive<'a> {
    /// Reads the directory.
    ///
    /// # Errors
    /// [`Error::File`] if it is cut off or damaged.
    pub fn open(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let end = find_end(bytes).ok_or_else(|| {
            Error::file(path, "truncated: the directory at the end of its zip archive is missing").with_hint(TRUNCATED)
        })?;
        let entries = directory(bytes, end).and_then(|directory| entries(bytes, directory));
        let entries = entries.ok_or_else(|| {
            Error::file(path, "the directory at the end of its zip archive is damaged").with_hint(TRUNCATED)
        })?;
        Ok(Self { path, bytes, entries })
    }

    /// The names of all entries, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        self.entries.keys().copied()
    }

    /// The place of the entry `name`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::File`] if it is compressed or not all there.
    pub fn find(&self, name: &str) -> Result<Option<Range<usize>>> {
        let Some(entry) = self.entries.get(name.as_bytes()) else { return Ok(None) };
        if !entry.is_plain {
            return Err(Error::file(self.path, format!("{name} is compressed or encrypted in its zip archive"))
                .with_hint(SAVE_AGAIN));
        }
        let start = local_data(self.bytes, entry.header);
        let range = start.and_then(|start| Some(start..start.checked_add(entry.size)?));
        let range = range.filter(|range| range.end <= self.bytes.len());
        range.map(Some).ok_or_else(|| Error::file(self.path, format!("{name} is not all there")).with_hint(TRUNCATED))
    }
}

/// The little-endian number in `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(N)?)?;
    Some(field.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

fn size<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    number::<N>(bytes, at).and_then(|n| usize::try_from(n).ok())
}

/// Where the record is that ends the archive, with no more than its comment behind it.
fn find_end(bytes: &[u8]) -> Option<usize> {
    const LENGTH: usize = 22;
    let last = bytes.len().checked_sub(LENGTH)?;
    let mut places = (last.saturating_sub(MAX_COMMENT)..=last).rev();
    places.find(|&at| {
        bytes.get(at..).is_some_and(|rest| rest.starts_with(END)) && size::<2>(bytes, at + 20) == Some(last - at)
    })
}

/// The bytes of the directory: what the end says, or its 64-bit twin before it.
fn directory(bytes: &[u8], end: usize) -> Option<&[u8]> {
    let at = |place: usize, magic| bytes.get(place..).filter(|rest| rest.starts_with(magic));
    let (length, start) = match end.checked_sub(20).filter(|&place| at(place, LOCATOR64).is_some()) {
        Some(locator) => {
            let end64 = at(size::<8>(bytes, locator + 8)?, END64)?;
            (size::<8>(end64, 40)?, size::<8>(end64, 48)?)
        }
        None => (size::<4>(bytes, end + 12)?, size::<4>(bytes, end + 16)?),
    };
    bytes.get(start..start.checked_add(length)?)
}

fn entries<'a>(bytes: &'a [u8], mut directory: &'a [u8]) -> Option<BTreeMap<&'a [u8], Entry>> {
    const LENGTH: usize = 46;
    let mut entries = BTreeMap::new();
    while !directory.is_empty() {
        let header = directory.strip_prefix(ENTRY).map(|_| directory)?;
        let [name, extra, comment] = [28, 30, 32].map(|at| size::<2>(header, at));
        let (name_end, extra_end) = (LENGTH + name?, LENGTH + name? + extra?);
        let name = header.get(LENGTH..name_end)?;
        let entry = entry(header, header.get(name_end..extra_end)?)?;
        if entry.header >= bytes.len() || entries.insert(name, entry).is_some() {
            return None;
        }
        directory = directory.get(extra_end + comment?..)?;
    }
    Some(entries)
}

/// What a header of the directory says; numbers too long for it stand in its extra fields, in this order.
fn entry(header: &[u8], extra: &[u8]) -> Option<Entry> {
    let [packed, unpacked, start] = [20, 24, 42].map(|at| number::<4>(header, at));
    let mut longer = zip64(extra);
    let mut whole = |short: u64| if short == IS_LONGER { longer.next()? } else { Some(short) };
    let (size, packed_size, header_at) = (whole(unpacked?)?, whole(packed?)?, whole(start?)?);
    let (is_encrypted, method) = (number::<2>(header, 8)? & 1 != 0, number::<2>(header, 10)?);
    Some(Entry {
        header: usize::try_from(header_at).ok()?,
        size: usize::try_from(size).ok()?,
        is_plain: !is_encrypted && method == 0 && size == packed_size,
    })
}

/// The 64-bit numbers among the extra fields of a header.
fn zip64(mut extra: &[u8]) -> impl Iterator<Item = Option<u64>> {
    let field = loop {
        let (Some(id), Some(length)) = (number::<2>(extra, 0), size::<2>(extra, 2)) else { break [].as_slice() };
        let (field, rest) = extra.split_at_checked(4 + length).unwrap_or((extra, &[]));
        if id == ZIP64 {
            break field;
        }
        extra = rest;
    };
    (0..).map(|i| number::<8>(field, 4 + 8 * i))
}

/// Where the data begins behind the local header at `at`, which has names of its own length.
fn local_data(bytes: &[u8], at: usize) -> Option<usize> {
    const LENGTH: usize = 30;
    let header = bytes.get(at..).filter(|rest| rest.starts_with(MAGIC))?;
    let data = LENGTH + size::<2>(header, 26)? + size::<2>(header, 28)?;
    at.checked_add(data)
}
