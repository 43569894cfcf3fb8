//! One file of weights: mapped, with the places of its tensors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::Dtype;

use super::convert::{self, Strides};
use super::mmap::MappedFile;
use super::{pickle, safetensors, text};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// A mapped file of tensors, which are read one by one.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    file: MappedFile,
    tensors: BTreeMap<String, Stored>,
}

/// How and where a tensor is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub dtype: Dtype,
    pub dims: Vec<usize>,
    /// Its place in the file.
    pub bytes: Range<usize>,
    /// How its elements lie there, if not row by row.
    pub strides: Option<Strides>,
}

/// What to do about a tensor without elements.
const ZERO: &str = "DeepSpeed's ZeRO-3 left it empty: make whole weights with its zero_to_fp32.py, or save them with \
    stage3_gather_16bit_weights_on_model_save";

impl Shard {
    /// Maps the file and reads what it says of its tensors.
    pub fn open(path: PathBuf) -> Result<Self> {
        let file = MappedFile::open(&path)?;
        let tensors = if pickle::is_pickle(&path) {
            pickle::read_tensors(&path, file.bytes())?
        } else {
            let tensors = safetensors::read_header(&path, file.bytes());
            tensors.map_err(|e| text::other_format(&path, file.bytes()).unwrap_or(e))?
        };
        Ok(Self { path, file, tensors })
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    /// How the tensor `name` is stored, if there is one.
    pub fn stored(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// The tensor `name`, stored as `stored`, converted to `dtype` while it is copied to `device`.
    pub fn load(&self, name: &str, stored: &Stored, shape: Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        let refuse = |detail: String| Error::file(&self.path, format!("tensor {name} {detail}"));
        if stored.dims != shape.dims() {
            let error = refuse(format!("must be {shape}, got {:?}", stored.dims));
            return Err(if stored.dims == [0] { error.with_hint(ZERO) } else { error });
        }
        let convert = convert::from_dtype(stored.dtype, dtype).ok_or_else(|| {
            refuse(format!("is stored as {}, which cannot be loaded as {dtype}", stored.dtype))
                .with_hint("save the model in bf16, f16 or f32")
        })?;
        let bytes = self.file.bytes().get(stored.bytes.clone()).ok_or_else(|| refuse("ends beyond the file".into()))?;
        // Straight from the file to a GPU where there is nothing to convert.
        let is_equal = matches!((stored.dtype, dtype), (Dtype::BF16, DType::Bf16) | (Dtype::F32, DType::F32));
        let tensor = if is_equal && stored.strides.is_none() && !matches!(device, Device::Cpu) {
            Tensor::from_bytes(device, dtype, shape, bytes)?
        } else {
            let mut tensor = Tensor::uninit(&Device::Cpu, dtype, shape)?;
            convert(bytes, stored.strides.as_ref(), &mut tensor)?;
            tensor.to_device(device)?
        };
        self.file.release(stored.bytes.clone());
        Ok(tensor)
    }

    /// The bytes of the tensor `name`, stored as `stored`, whatever its elements are.
    pub fn bytes(&self, name: &str, stored: &Stored) -> Result<Tensor> {
        let refuse = |detail: &str| Error::file(&self.path, format!("tensor {name} {detail}"));
        if stored.strides.is_some() {
            return Err(refuse("does not lie row by row"));
        }
        let bytes = self.file.bytes().get(stored.bytes.clone()).ok_or_else(|| refuse("ends beyond the file"))?;
        let tensor = Tensor::from_bytes(&Device::Cpu, DType::U8, [bytes.len()].into(), bytes)?;
        self.file.release(stored.bytes.clone());
        Ok(tensor)
    }
}
