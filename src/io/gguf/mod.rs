//! GGUF, llama.cpp's file of a whole model: metadata, tokenizer and weights, often quantised.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod blocks;
mod dequantize;
mod encoding;
mod header;
mod llama;
mod metadata;
mod reader;
mod rope;
mod split;
mod super_blocks;

use std::ops::Range;
use std::path::{Path, PathBuf};

use dequantize::dequantize;
use encoding::Encoding;
use header::{Header, TensorInfo};

use super::WeightSource;
use super::mmap::MappedFile;
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::shape::Shape;

/// A GGUF file of a Llama, or the files that one is split into, mapped into memory. Its weights are dequantised tensor
/// by tensor, and go by their Hugging Face names.
#[derive(Debug)]
pub struct Gguf {
    /// The file, or the first of them.
    path: PathBuf,
    files: Vec<MappedFile>,
    /// The metadata of the first file, and the tensors of all.
    header: Header,
}

impl Gguf {
    /// Maps the file and reads what stands before its data. If it is one of several that a model is split into, maps all.
    ///
    /// # Errors
    /// [`Error::File`] if it is not a whole GGUF file of version 2 or 3; the message names the key or tensor, and the
    /// byte. Also if another of a model's files is missing, or contradicts it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_file(path.as_ref())?.with_all_parts()
    }

    fn open_file(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let header = Header::parse(path, file.bytes())?;
        Ok(Self { path: path.to_owned(), files: vec![file], header })
    }

    /// The bytes of the file with the metadata.
    fn bytes(&self) -> &[u8] {
        self.files.first().map_or(&[], MappedFile::bytes)
    }

    /// A tensor as it is stored; nothing if its encoding cannot be read.
    fn blocks(&self, info: &TensorInfo) -> &[u8] {
        self.files.get(info.file).and_then(|file| file.bytes().get(info.bytes.clone())).unwrap_or_default()
    }

    /// Whether it is a LoRA, as llama.cpp's convert_lora_to_gguf.py makes them, and no model.
    pub(in crate::io) fn is_adapter(&self) -> bool {
        self.string("general.type").is_ok_and(|kind| kind == Some("adapter"))
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        let info = llama::gguf_name(name).and_then(|name| self.header.tensors.get(&name));
        info.ok_or_else(|| self.tensor_error(name, "is missing"))
    }

    fn tensor_error(&self, name: &str, detail: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("tensor {name}: {detail}"))
    }

    fn encoding(&self, name: &str, info: &TensorInfo) -> Result<Encoding> {
        Encoding::from_number(info.encoding).ok_or_else(|| {
            let detail = format!("is stored as {}, which is not supported", encoding::name(info.encoding));
            let hint = format!("quantise the model to one of {}, or use its Hugging Face folder", Encoding::names());
            self.tensor_error(name, detail).with_hint(hint)
        })
    }
}

impl WeightSource for Gguf {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.header.tensors.keys().filter_map(|name| llama::hf_name(name)).collect();
        names.sort();
        names
    }

    fn shape(&self, name: &str) -> Result<Shape> {
        self.tensor(name).map(|info| info.shape)
    }

    fn load(&self, name: &str, shape: Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        let info = self.tensor(name)?;
        if info.shape != shape {
            return Err(self.tensor_error(name, format!("must be {shape}, is {}", info.shape)));
        }
        let (encoding, interleaved) = (self.encoding(name, info)?, self.interleaved(name, shape)?);
        let is_vector = shape.dims().len() == 1;
        if is_vector && encoding.block().0 > 1 {
            return Err(self.tensor_error(name, "is a vector, which must not be quantised"));
        }
        let width = if is_vector && interleaved.is_some() { 1 } else { shape.last() };
        let rows = Rows { encoding, blocks: self.blocks(info), width, interleaved };
        let mut tensor = Tensor::uninit(&Device::Cpu, dtype, shape)?;
        dispatch_float!("gguf", dtype, T => { rows.write(tensor.slice_mut::<T>()?); Ok(()) })?;
        if let Some(file) = self.files.get(info.file) {
            file.release(info.bytes.clone());
        }
        tensor.to_device(device)
    }
}

/// The rows of a tensor as stored.
struct Rows<'a> {
    encoding: Encoding,
    blocks: &'a [u8],
    width: usize,
    /// The rows of one head, if the two halves of each head's rows are stored interleaved.
    interleaved: Option<usize>,
}

impl Rows<'_> {
    fn write<T: Float>(&self, out: &mut [T]) {
        let width = self.width.max(1);
        host::par_rows(out, width, |first, rows| {
            for (i, row) in rows.chunks_mut(width).enumerate() {
                let stored = self.blocks.get(self.bytes_of(first + i)).unwrap_or_default();
                dequantize(self.encoding, stored, row);
            }
        });
    }

    /// Where row `row` is stored: with heads interleaved, row `half * D/2 + i` of a head comes as its row `2 * i + half`.
    fn bytes_of(&self, row: usize) -> Range<usize> {
        let stored = self.interleaved.map_or(row, |d| {
            let (head, row) = (row / d, row % d);
            let (half, i) = (row / (d / 2), row % (d / 2));
            head * d + 2 * i + half
        });
        let (block, size) = self.encoding.block();
        let row_size = self.width / block * size;
        stored * row_size..(stored + 1) * row_size
    }
}
