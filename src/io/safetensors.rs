//! Checkpoints of weights, one file or shards beside an index; and the safetensors format, in which they are written.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde_json::Value;

use super::shard::{Shard, Stored};
use super::shards::Shards;
use super::{WeightSource, atomic, pickle};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// The name of an unsharded model in its folder.
pub const MODEL: &str = "model.safetensors";
/// The name of the list of shards of a sharded one.
pub const INDEX: &str = "model.safetensors.index.json";

/// Longer headers are refused, as other readers of the format do.
const MAX_HEADER_BYTES: usize = 100_000_000;
/// The names of a model's weights, whole and as the list of its shards, in the order in which they are looked for.
pub(super) const WEIGHTS: [(&str, &str); 2] = [(MODEL, INDEX), (pickle::MODEL, pickle::INDEX)];

const TRUNCATED: &str = "the file is incomplete: get it again";

/// The tensors of one file or of all shards of a model, mapped and read one by one.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    shards: Shards,
}

impl Checkpoint {
    /// Opens a file of safetensors or of PyTorch, or the model in a folder: `model.safetensors`, or else the shards that
    /// `model.safetensors.index.json` lists, or else `pytorch_model.bin` or its shards. Without an index the shards are
    /// those that their names number.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such model, if a shard is missing or truncated, or if a header is corrupt.
    pub fn open(path: &Path) -> Result<Self> {
        let shards = if path.is_dir() { Self::open_folder(path)? } else { Self::open_file(path)? };
        Ok(Self { path: path.into(), shards })
    }

    fn open_folder(folder: &Path) -> Result<Shards> {
        for (whole, index) in WEIGHTS {
            if folder.join(whole).exists() {
                return Self::open_file(&folder.join(whole));
            }
            if folder.join(index).exists() {
                return Shards::listed(&folder.join(index));
            }
            if let Some(shards) = Shards::numbered(folder, whole)? {
                return Ok(shards);
            }
        }
        Err(no_model(folder))
    }

    fn open_file(path: &Path) -> Result<Shards> {
        if !path.exists() {
            return Err(Error::file(path, "there is no such file or folder"));
        }
        Ok(Shards::new(vec![Shard::open(path.into())?]))
    }
}

impl WeightSource for Checkpoint {
    fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, name: &str) -> &Path {
        self.shards.find(&self.path, name).map_or(&self.path, |(shard, _)| shard.path())
    }

    fn names(&self) -> Vec<String> {
        self.shards.names().cloned().collect()
    }

    fn shape(&self, name: &str) -> Result<Shape> {
        let (shard, stored) = self.shards.find(&self.path, name)?;
        Shape::try_from(stored.dims.as_slice()).map_err(|e| Error::file(shard.path(), format!("tensor {name}: {e}")))
    }

    fn dtype(&self) -> DType {
        let is_bf16 =
            |name: &String| self.shards.find(&self.path, name).is_ok_and(|(_, stored)| stored.dtype == Dtype::BF16);
        let mut weights = self.shards.names().filter(|name| name.ends_with(".weight"));
        if weights.all(is_bf16) { DType::Bf16 } else { DType::F32 }
    }

    fn load(&self, name: &str, shape: Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        self.shards.load(&self.path, name, shape, dtype, device)
    }

    fn bytes(&self, name: &str) -> Result<Tensor> {
        let (shard, stored) = self.shards.find(&self.path, name)?;
        shard.bytes(name, stored)
    }

    fn bits(&self, name: &str) -> Option<usize> {
        let (_, stored) = self.shards.find(&self.path, name).ok()?;
        matches!(stored.dtype, Dtype::I8 | Dtype::U8 | Dtype::I16 | Dtype::I32 | Dtype::U32 | Dtype::I64)
            .then(|| stored.dtype.bitsize())
    }
}

/// The tensors that the header lists.
pub(super) fn read_header(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Stored>> {
    let (metadata, start) = read_metadata(path, bytes)?;
    let stored = |info: &TensorInfo| Stored {
        dtype: info.dtype,
        dims: info.shape.clone(),
        bytes: start + info.data_offsets.0..start + info.data_offsets.1,
        strides: None,
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, stored(info))).collect())
}

/// The header, and where the data begin: 8 bytes of its length, little-endian, JSON, then the data.
pub(super) fn read_metadata(path: &Path, bytes: &[u8]) -> Result<(Metadata, usize)> {
    let truncated = |detail: String| Error::file(path, detail).with_hint(TRUNCATED);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(truncated(format!("truncated: {} bytes are too few for a safetensors file", bytes.len())));
    };
    let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|&n| n <= MAX_HEADER_BYTES);
    let length = length.ok_or_else(|| Error::file(path, "is not a safetensors file: no header length at its start"))?;
    let Some((header, data)) = rest.split_at_checked(length) else {
        return Err(truncated(format!(
            "truncated in its header: {length} bytes were announced, {} are there",
            rest.len()
        )));
    };
    let metadata: Metadata = serde_json::from_slice(header).map_err(|e| {
        let place = culprit(header).map(|name| format!(", at tensor {name}")).unwrap_or_default();
        Error::file(path, format!("corrupt safetensors header{place}: {e}"))
    })?;
    let promised = metadata.data_len();
    if promised > data.len() {
        return Err(truncated(format!("truncated: its tensors take {promised} bytes, {} are there", data.len())));
    }
    if promised < data.len() {
        return Err(Error::file(path, format!("has {} bytes after its last tensor", data.len() - promised)));
    }
    Ok((metadata, 8 + length))
}

/// The tensor of a corrupt header that is none, or whose shape and dtype do not take the bytes it has.
fn culprit(header: &[u8]) -> Option<String> {
    let mut tensors: BTreeMap<String, Value> = serde_json::from_slice(header).ok()?;
    tensors.remove("__metadata__");
    let fits = |info: TensorInfo| {
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &size| bits.checked_mul(size));
        let (start, end) = info.data_offsets;
        bits.is_some_and(|bits| end.checked_sub(start).and_then(|bytes| bytes.checked_mul(8)) == Some(bits))
    };
    tensors.into_iter().find(|(_, info)| !TensorInfo::deserialize(info).is_ok_and(fits)).map(|(name, _)| name)
}

/// Says what is there instead, where that helps.
fn no_model(folder: &Path) -> Error {
    let names: Vec<&str> = WEIGHTS.iter().flat_map(|&(whole, index)| [whole, index]).collect();
    let error = Error::file(folder, format!("holds none of {}", names.join(", ")));
    if folder.join("adapter_config.json").exists() {
        return error.with_hint("this is an adapter: name it with --adapter, and its base model with --model");
    }
    match other_weights(folder).or_else(|| pickle::unnamed(folder)) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// What to do with the weights of `folder`, if they are a GGUF's or of Mistral's own release.
fn other_weights(folder: &Path) -> Option<String> {
    let names = std::fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let first = names.filter(|name| name.ends_with(".gguf") || name.starts_with("consolidated.safetensors")).min()?;
    Some(match first.ends_with(".gguf") {
        true => format!("a GGUF is named itself: {}", folder.join(first).display()),
        false => format!("{first} is of Mistral's own release: get the model's files in transformers' format"),
    })
}

/// Writes `path` with the tensors of `layout`, which `tensor` makes one at a time, so that no more than one is held.
///
/// Equal tensors give equal bytes: sorted as the format's own writer does (wide dtypes first, then by name), with
/// `{"format":"pt"}` as the only metadata.
///
/// # Errors
/// What `tensor` returns; [`Error::File`] if the disk fails, or a tensor is not what `layout` says.
pub fn write(
    path: &Path,
    layout: &BTreeMap<String, (DType, Shape)>,
    tensor: impl FnMut(&str) -> Result<Tensor>,
) -> Result<()> {
    write_with(path, &[], layout, tensor)
}

/// [`write()`] with more `notes` in the metadata, each a name and a text.
pub(super) fn write_with(
    path: &Path,
    notes: &[(&str, String)],
    layout: &BTreeMap<String, (DType, Shape)>,
    mut tensor: impl FnMut(&str) -> Result<Tensor>,
) -> Result<()> {
    let mut order: Vec<(&String, DType, Shape)> = layout.iter().map(|(n, &(dtype, shape))| (n, dtype, shape)).collect();
    order.sort_by_key(|&(name, dtype, _)| (std::cmp::Reverse(stored(dtype)), name));
    let header = header(path, notes, &order)?;
    atomic::write_file(path, |file| {
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(|e| Error::io(path, e));
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        for (name, dtype, shape) in order {
            let tensor = tensor(name)?.to_device(&Device::Cpu)?;
            if (tensor.dtype(), tensor.shape()) != (dtype, shape) {
                let found = format!("{} {}", tensor.dtype(), tensor.shape());
                return Err(Error::file(path, format!("tensor {name} must be {dtype} {shape}, got {found}")));
            }
            put(tensor.buffer()?.host()?)?;
        }
        Ok(())
    })
}

/// [`write()`] of tensors that are there already.
///
/// # Errors
/// [`Error::File`] if the disk fails.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let layout = tensors.iter().map(|(name, tensor)| (name.clone(), (tensor.dtype(), tensor.shape()))).collect();
    write(path, &layout, |name| Ok(tensors[name].clone()))
}

fn header(path: &Path, notes: &[(&str, String)], order: &[(&String, DType, Shape)]) -> Result<Vec<u8>> {
    let mut end = 0;
    let infos = order.iter().map(|&(name, dtype, shape)| {
        let start = end;
        end += shape.numel() * dtype.size();
        let info = TensorInfo { dtype: stored(dtype), shape: shape.dims().to_vec(), data_offsets: (start, end) };
        (name.clone(), info)
    });
    let mut metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    metadata.extend(notes.iter().map(|(name, text)| (name.to_string(), text.clone())));
    let refuse = |detail: String| Error::file(path, format!("its header cannot be written: {detail}"));
    let header = Metadata::new(Some(metadata), infos.collect()).map_err(|e| refuse(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| refuse(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
    }
}
