//! Weights under other names than Llama's own: a wrapper's prefix before them, or a bare `LlamaModel` without `model.`.

use std::path::Path;

use super::super::{LM_HEAD, WeightSource};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

const OWN: &str = "model.";
const EMBEDDING: &str = "embed_tokens.weight";

/// What stands before a file's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// In the place of `model.`.
    inner: String,
    /// Before the output layer.
    outer: String,
}

impl Names {
    /// The names of `weights`, told by that of the embedding.
    ///
    /// # Errors
    /// [`Error::File`] if they are of more, or of less, than a language model.
    pub fn of(weights: &dyn WeightSource, is_tied: bool) -> Result<Self> {
        let names = weights.names();
        let prefixes = || names.iter().filter_map(|name| name.strip_suffix(EMBEDDING));
        let inner = prefixes().find(|prefix| *prefix == OWN).or_else(|| prefixes().next()).unwrap_or(OWN);
        let outer = inner.strip_suffix(OWN).unwrap_or_default();
        let found = Self { inner: inner.into(), outer: outer.into() };
        refuse_others(weights.path(), &names)?;
        let head = found.stored(LM_HEAD);
        if inner.is_empty() && !is_tied && !names.contains(&head) {
            let detail = "has no output layer for tokens: it is a bare LlamaModel, which makes embeddings of texts";
            return Err(Error::file(weights.path(), detail).with_hint("name a causal language model"));
        }
        Ok(found)
    }

    /// The file's name of the tensor `name`.
    pub fn stored(&self, name: &str) -> String {
        match name.strip_prefix(OWN) {
            Some(rest) => format!("{}{rest}", self.inner),
            None => format!("{}{name}", self.outer),
        }
    }

    /// What a person should know of names that are not Llama's own.
    pub fn note(&self) -> Option<String> {
        let inner = &self.inner;
        (inner != OWN).then(|| format!("the names of the weights begin with {inner:?} in place of {OWN:?}"))
    }

    /// Hugging Face's name of the file's tensor `name`.
    pub fn own(&self, name: &str) -> String {
        let outside = name.strip_prefix(&self.outer).filter(|rest| *rest == LM_HEAD);
        let inside = || name.strip_prefix(&self.inner).map(|rest| format!("{OWN}{rest}"));
        outside.map(str::to_string).or_else(inside).unwrap_or_else(|| name.into())
    }
}

/// Weights under Llama's own names.
pub(super) struct Renamed<'a> {
    pub weights: &'a dyn WeightSource,
    pub names: &'a Names,
}

impl WeightSource for Renamed<'_> {
    fn path(&self) -> &Path {
        self.weights.path()
    }

    fn file(&self, name: &str) -> &Path {
        self.weights.file(&self.names.stored(name))
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.weights.names().iter().map(|name| self.names.own(name)).collect();
        names.sort();
        names
    }

    fn shape(&self, name: &str) -> Result<Shape> {
        self.weights.shape(&self.names.stored(name))
    }

    fn dtype(&self) -> DType {
        self.weights.dtype()
    }

    fn load(&self, name: &str, shape: Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        self.weights.load(&self.names.stored(name), shape, dtype, device)
    }

    fn bytes(&self, name: &str) -> Result<Tensor> {
        self.weights.bytes(&self.names.stored(name))
    }

    fn bits(&self, name: &str) -> Option<usize> {
        self.weights.bits(&self.names.stored(name))
    }
}

/// Refuses what is no language model alone, by the tensor that tells.
fn refuse_others(path: &Path, names: &[String]) -> Result<()> {
    const HEADS: [&str; 6] = ["score.", "v_head.", "value_head.", "reward_head.", "classifier.", "qa_outputs."];
    let of_adapter = |name: &&String| [".lora_A.", ".lora_B.", ".base_layer."].iter().any(|part| name.contains(part));
    if let Some(name) = names.iter().find(of_adapter) {
        let error = Error::file(path, format!("holds an adapter that is not merged, with tensor {name}"));
        return Err(
            error.with_hint("merge it with PEFT's merge_and_unload() before saving, or save adapter and base apart")
        );
    }
    let of_head = |name: &&String| HEADS.iter().any(|head| name.split_inclusive('.').any(|part| part == *head));
    match names.iter().find(of_head) {
        Some(name) => {
            let detail = format!("holds {name}, the head of a classifier or reward model, which scores texts");
            Err(Error::file(path, detail).with_hint("name a causal language model, such as the one this was made from"))
        }
        None => Ok(()),
    }
}
