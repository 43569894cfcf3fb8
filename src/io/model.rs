//! A model's files, whatever their format: a Hugging Face folder, one safetensors file, or a GGUF.

use std::path::{Path, PathBuf};

use super::WeightSource;
use super::adapter::Adapter;
use super::config::read_config;
use super::gguf::Gguf;
use super::safetensors::Checkpoint;
use super::tokenizer::Tokenizer;
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::models::llama::{Llama, LlamaConfig};
use crate::nn::{Lora, Parameter};

/// An opened model: its shape is known, its weights are still in the file.
pub struct ModelFiles {
    path: PathBuf,
    config: LlamaConfig,
    weights: Weights,
}

enum Weights {
    Folder(Checkpoint),
    Gguf(Gguf),
}

impl ModelFiles {
    /// Opens a folder with a config.json, or a `.gguf` file.
    ///
    /// # Errors
    /// [`Error::File`] if it is neither, or holds what is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let (config, weights) = (read_config(path)?, Weights::Folder(Checkpoint::open(path)?));
            return Ok(Self { path: path.into(), config, weights });
        }
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            let gguf = Gguf::open(path)?;
            return Ok(Self { path: path.into(), config: gguf.config()?, weights: Weights::Gguf(gguf) });
        }
        let what = if path.exists() { "neither a model folder nor a .gguf file" } else { "no such file or folder" };
        Err(Error::file(path, what))
    }

    /// Where the model lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The weights, tensor by tensor.
    pub fn weights(&self) -> &dyn WeightSource {
        match &self.weights {
            Weights::Folder(checkpoint) => checkpoint,
            Weights::Gguf(gguf) => gguf,
        }
    }

    /// The tokenizer that came with the model.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.weights {
            Weights::Folder(_) => Tokenizer::from_folder(&self.path),
            Weights::Gguf(gguf) => gguf.tokenizer(),
        }
    }

    /// Loads the model.
    ///
    /// # Errors
    /// [`Error::File`] if the weights are not those that the config asks for.
    pub fn load(&self, dtype: DType, device: &Device) -> Result<Llama> {
        let (weights, mut asked) = (self.weights(), Vec::new());
        let model = Llama::new(self.config.clone(), &mut |name, shape| {
            asked.push(name.to_string());
            weights.load(name, shape, dtype, device)
        })?;
        super::refuse_leftovers(weights, &asked)?;
        Ok(model)
    }
}

/// Puts `adapter` on the linear layers that it names, as trained parameters.
///
/// # Errors
/// [`Error::File`] if it names a layer that the model does not have, or does not fit it.
pub fn attach_adapter(model: &Llama, adapter: Adapter, path: &Path) -> Result<()> {
    let (config, mut tensors, device) = (adapter.config, adapter.tensors, model.device());
    for (site, (name, linear)) in model.linears().into_iter().enumerate() {
        let Some((a, b)) = tensors.remove(&name) else { continue };
        let on_device = |t: Tensor| Ok(Parameter::new(t.to_device(&device)?.with_grad()));
        let scaling = config.scaling(&name);
        let lora = Lora { a: on_device(a)?, b: on_device(b)?, scaling, dropout: config.lora_dropout, site: site as u32 };
        linear.attach(lora).map_err(|e| Error::file(path, format!("{name}: {e}")))?;
    }
    match tensors.into_keys().next() {
        Some(name) => Err(Error::file(path, format!("the model has no linear layer {name}"))),
        None => Ok(()),
    }
}
