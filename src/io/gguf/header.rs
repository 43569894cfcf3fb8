//! What stands before the data of a GGUF file: metadata by key, and where each tensor is.
//!
//! Nothing is copied but names: values are found here, checked to lie inside the file, and decoded when asked for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::encoding::Encoding;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::io::text;
use crate::shape::Shape;

const MAGIC: &[u8] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;

/// Metadata and tensors, by name.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: BTreeMap<String, Entry>,
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// Where a metadata value is.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub kind: Kind,
    /// The number of elements, if it is an array.
    pub count: Option<usize>,
    /// Its bytes in the file: of the value, or of an array's first to last element.
    pub bytes: Range<usize>,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    /// Outermost dimension first (the file has it the other way round).
    pub shape: Shape,
    /// The number of its encoding in ggml's list.
    pub encoding: u32,
    /// Which of a model's files has it.
    pub file: usize,
    /// Its bytes in the file, if its encoding is one that can be read.
    pub bytes: Range<usize>,
}

/// The type of a metadata value or of an array's elements, numbered as in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn read(reader: &mut Reader) -> Result<Self> {
        let at = reader.at;
        let number = reader.u32()?;
        let kind = Self::ALL.get(number as usize).copied();
        kind.ok_or_else(|| reader.error_at(at, format!("value type {number} is not known")))
    }

    /// Bytes of a value, unless they vary.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

impl Header {
    /// Reads the header of the file `path` that holds `file`.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(path, file);
        check_magic(&mut reader)?;
        let tensor_count = reader.u64()?;
        let metadata_count = reader.u64()?;
        let metadata = read_metadata(&mut reader, metadata_count)?;
        let alignment = read_alignment(&reader, metadata.get("general.alignment"))?;
        let tensors = read_tensors(&mut reader, tensor_count, alignment)?;
        Ok(Self { metadata, tensors })
    }
}

fn check_magic(reader: &mut Reader) -> Result<()> {
    if !reader.rest().starts_with(MAGIC) {
        let error = Error::file(reader.path, "is not a GGUF file: it does not begin with \"GGUF\"");
        return Err(text::other_format(reader.path, reader.file).unwrap_or(error));
    }
    reader.take(MAGIC.len())?;
    let at = reader.at;
    let detail = match reader.u32()? {
        2 | 3 => return Ok(()),
        version if version.swap_bytes() <= 3 => "big-endian files are not supported".to_owned(),
        version => format!("GGUF version {version} is not supported, only 2 and 3"),
    };
    Err(reader.error_at(at, detail).with_hint("convert the model again with llama.cpp"))
}

fn read_metadata(reader: &mut Reader, count: u64) -> Result<BTreeMap<String, Entry>> {
    let mut metadata = BTreeMap::new();
    for i in 0..count {
        reader.place = format!("metadata entry {i} of {count}");
        let at = reader.at;
        let key = reader.string()?.to_owned();
        reader.place = format!("metadata key {key:?}");
        let kind = Kind::read(reader)?;
        let entry = read_value(reader, kind)?;
        if metadata.insert(key, entry).is_some() {
            return Err(reader.error_at(at, "occurs twice"));
        }
    }
    Ok(metadata)
}

fn read_value(reader: &mut Reader, kind: Kind) -> Result<Entry> {
    if kind != Kind::Array {
        let start = reader.at;
        skip_values(reader, kind, 1)?;
        return Ok(Entry { kind, count: None, bytes: start..reader.at });
    }
    let kind = Kind::read(reader)?;
    let count = reader.length()?;
    let start = reader.at;
    skip_values(reader, kind, count)?;
    Ok(Entry { kind, count: Some(count), bytes: start..reader.at })
}

fn skip_values(reader: &mut Reader, kind: Kind, count: usize) -> Result<()> {
    if let Some(size) = kind.size() {
        let bytes = count.checked_mul(size).ok_or_else(|| reader.error(format!("{count} values are too many")))?;
        reader.take(bytes)?;
        return Ok(());
    }
    if kind == Kind::Array {
        return Err(reader.error("an array of arrays is not supported"));
    }
    for _ in 0..count {
        let length = reader.length()?;
        reader.take(length)?;
    }
    Ok(())
}

fn read_alignment(reader: &Reader, entry: Option<&Entry>) -> Result<u64> {
    let Some(entry) = entry else { return Ok(DEFAULT_ALIGNMENT) };
    let error = |detail: &str| Error::file(reader.path, format!("metadata key \"general.alignment\": {detail}"));
    let bytes = reader.slice(&entry.bytes).try_into().ok().filter(|_| entry.kind == Kind::U32);
    let alignment = u32::from_le_bytes(bytes.ok_or_else(|| error("must be a 32-bit number"))?);
    if !alignment.is_power_of_two() {
        return Err(error(&format!("must be a power of two, got {alignment}")));
    }
    Ok(alignment.into())
}

fn read_tensors(reader: &mut Reader, count: u64, alignment: u64) -> Result<BTreeMap<String, TensorInfo>> {
    let mut found = Vec::new();
    for i in 0..count {
        reader.place = format!("tensor {i} of {count}");
        let at = reader.at;
        let name = reader.string()?.to_owned();
        reader.place = format!("tensor {name:?}");
        found.push((name, at, read_shape(reader)?, reader.u32()?, reader.u64()?));
    }
    let data = (reader.at as u64).next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, at, shape, encoding, offset) in found {
        reader.place = format!("tensor {name:?}");
        reader.at = at;
        let bytes = locate(reader, shape, encoding, data, offset, alignment)?;
        if tensors.insert(name, TensorInfo { shape, encoding, file: 0, bytes }).is_some() {
            return Err(reader.error("occurs twice"));
        }
    }
    Ok(tensors)
}

fn read_shape(reader: &mut Reader) -> Result<Shape> {
    let at = reader.at;
    let rank = reader.u32()?;
    if rank == 0 || rank as usize > Shape::MAX_RANK {
        return Err(reader.error_at(at, format!("{rank} dimensions, must be 1 to {}", Shape::MAX_RANK)));
    }
    let mut sizes = (0..rank).map(|_| reader.length()).collect::<Result<Vec<_>>>()?;
    sizes.reverse();
    // Every product of sizes must be a number, those with a size of 0 too.
    let numel = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size.max(1)));
    if numel.is_none_or(|numel| numel > isize::MAX as usize / size_of::<f32>()) {
        return Err(reader.error_at(at, format!("its sizes {sizes:?} are too large")));
    }
    Shape::try_from(sizes.as_slice())
}

/// The bytes of a tensor in the file; empty if its encoding cannot be read.
fn locate(
    reader: &Reader,
    shape: Shape,
    encoding: u32,
    data: u64,
    offset: u64,
    alignment: u64,
) -> Result<Range<usize>> {
    let Some(kind) = Encoding::from_number(encoding) else { return Ok(0..0) };
    let (block, size) = kind.block();
    if !shape.last().is_multiple_of(block) {
        return Err(reader.error(format!("rows of {} values are not whole {kind} blocks of {block}", shape.last())));
    }
    if !offset.is_multiple_of(alignment) {
        return Err(reader.error(format!("its offset {offset} is not a multiple of the alignment {alignment}")));
    }
    let start = data.checked_add(offset).and_then(|start| usize::try_from(start).ok());
    let range = start.and_then(|start| Some(start..start.checked_add((shape.numel() / block).checked_mul(size)?)?));
    range.filter(|range| range.end <= reader.file.len()).ok_or_else(|| {
        let len = reader.file.len();
        reader.error(format!("its data, {shape} in {kind} at offset {offset}, ends past the file's {len} bytes"))
    })
}
