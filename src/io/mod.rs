//! Files: Hugging Face folders, adapters, and what else models are stored in.

mod convert;
pub(crate) mod missing;
mod mmap;
mod pickle;
mod shard;
mod shards;

pub mod adapter;
pub mod atomic;
pub mod checkpoint;
pub mod companions;
pub mod config;
pub mod folder;
pub mod gguf;
pub mod hub;
pub(crate) mod json;
pub mod model;
pub mod npy;
pub mod quantized;
pub mod safetensors;
pub mod slices;
pub(crate) mod text;
pub mod tokenizer;

use std::collections::HashSet;
use std::path::Path;

use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// A file or folder that holds the weights of one model, read tensor by tensor.
pub trait WeightSource {
    /// The file or folder, for messages.
    fn path(&self) -> &Path;

    /// The file that holds the tensor `name`, for messages.
    fn file(&self, _name: &str) -> &Path {
        self.path()
    }

    /// The names of all its tensors, in Hugging Face's spelling, sorted.
    fn names(&self) -> Vec<String>;

    /// The shape of the tensor `name`.
    ///
    /// # Errors
    /// [`Error::File`] if there is none.
    fn shape(&self, name: &str) -> Result<Shape>;

    /// The narrowest of f32 and bf16 that holds all of its weights exactly.
    fn dtype(&self) -> DType {
        DType::F32
    }

    /// The tensor `name`, converted to `dtype` (f32 or bf16) while it is copied to `device`.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, if it has not `shape`, or if what it is stored as
    /// cannot be converted.
    fn load(&self, name: &str, shape: Shape, dtype: DType, device: &Device) -> Result<Tensor>;

    /// The bytes of the tensor `name` as they are stored, u8 `[bytes]` on the CPU.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, or the format has no plain tensors of bytes.
    fn bytes(&self, name: &str) -> Result<Tensor> {
        Err(Error::file(self.path(), format!("tensor {name} has no plain bytes")))
    }

    /// How many bits an integer of the tensor `name` has; `None` if it holds no integers.
    fn bits(&self, _name: &str) -> Option<usize> {
        None
    }
}

/// Refuses tensors of `source` that a model did not ask for, as signs of a config that is not theirs.
///
/// Passed over: `rotary_emb.inv_freq`, which old checkpoints store though it follows from the config, and an
/// `lm_head.weight` that repeats the embedding it is tied to.
///
/// # Errors
/// [`Error::File`] naming the first such tensor.
pub fn refuse_leftovers(source: &dyn WeightSource, asked: &HashSet<String>) -> Result<()> {
    let mut leftovers = source.names();
    leftovers.retain(|name| !asked.contains(name) && !is_derived(name));
    if leftovers.iter().any(|name| name == LM_HEAD) {
        refuse_untied(source)?;
        leftovers.retain(|name| name != LM_HEAD);
    }
    let Some(first) = leftovers.first() else { return Ok(()) };
    let detail = format!("the config has no place for tensor {first} ({} such tensors)", leftovers.len());
    Err(Error::file(source.path(), detail).with_hint("is its config.json that of this model?"))
}

/// Whether the tensor `name` is one that old checkpoints store though it follows from the config.
fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

const LM_HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

fn refuse_untied(source: &dyn WeightSource) -> Result<()> {
    let shape = source.shape(EMBEDDING)?;
    let load = |name| source.load(name, shape, source.dtype(), &Device::Cpu);
    if load(LM_HEAD)?.buffer()?.host()? == load(EMBEDDING)?.buffer()?.host()? {
        return Ok(());
    }
    Err(Error::file(source.path(), format!("{LM_HEAD} differs from {EMBEDDING}, to which the config ties it"))
        .with_hint("set tie_word_embeddings to false in config.json"))
}
