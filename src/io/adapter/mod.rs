//! LoRA adapters in PEFT's format: `adapter_config.json` beside `adapter_model.safetensors` or `adapter_model.bin`.

mod config;
mod modules;
mod names;
mod refusals;
mod stored;

use std::collections::BTreeMap;
use std::path::Path;

pub use config::AdapterConfig;
pub use modules::Modules;
pub use names::tensor_name;

use super::gguf::Gguf;
use super::json::Object;
use super::safetensors::write_tensors;
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::models::llama::LlamaConfig;
use names::lora;
use stored::Stored;

/// The file that says what the adapter is.
pub const CONFIG: &str = "adapter_config.json";
/// The file of its tensors.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// A LoRA: each of some linear layers adds `scaling · B·A` to its weight.
#[derive(Clone, Debug, Default)]
pub struct Adapter {
    /// Which layers, and how strongly.
    pub config: AdapterConfig,
    /// A `[R, in]` and B `[out, R]` in f32 on the CPU, by the path of the module: `model.layers.0.self_attn.q_proj`.
    pub tensors: BTreeMap<String, (Tensor, Tensor)>,
    /// What its files ask for that changes nothing here, in words.
    pub notes: Vec<String>,
}

impl Adapter {
    /// Reads the adapter in `folder`, and checks that it is one of `model`, whole.
    ///
    /// # Errors
    /// [`Error::File`] naming the key or the tensor: a config that is not supported (see [`AdapterConfig::read`]), a
    /// tensor that is missing, is of no module of `model`, or has not the shape that `model` and the config ask for.
    pub fn read(folder: &Path, model: &LlamaConfig) -> Result<Self> {
        let path = folder.join(CONFIG);
        if !path.exists() {
            return Err(no_adapter(folder));
        }
        let object = Object::read(&path)?;
        let config = AdapterConfig::parse(&object)?;
        let in_config = |e: Error| relocate(e, &path);
        let mut stored = Stored::open(folder, config.base_model_name_or_path.as_deref())?;
        let notes = refusals::inert(&object, stored.has_biases())?;
        let mut tensors = BTreeMap::new();
        for (module, shape) in config.modules(model).map_err(in_config)? {
            let &[output, input] = shape.dims() else { continue };
            config.scaling(&module).map_err(in_config)?; // so that it cannot fail later, where the file is not known
            let r = config.rank(&module).map_err(in_config)?;
            let a = stored.take(&lora(&module, "lora_A"), [r, input])?;
            let b = stored.take(&lora(&module, "lora_B"), [output, r])?;
            tensors.insert(module, (a, b));
        }
        let modules = model.parameters().into_iter().filter_map(|(name, _)| Some(name.strip_suffix(".weight")?.into()));
        stored.refuse_rest(&modules.collect())?;
        Ok(Self { config, tensors, notes })
    }

    /// Writes the adapter into `folder`, each file in full or not at all. Equal adapters give equal bytes.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut named = BTreeMap::new();
        for (module, (a, b)) in &self.tensors {
            named.insert(tensor_name(module, "lora_A"), a.clone());
            named.insert(tensor_name(module, "lora_B"), b.clone());
        }
        write_tensors(&folder.join(WEIGHTS), &named)?;
        self.config.write(folder)
    }
}

fn no_adapter(folder: &Path) -> Error {
    if let Ok(gguf) = Gguf::open(folder) {
        let error = Error::file(folder, "is a GGUF file, not the folder of a PEFT adapter");
        return error.with_hint(match gguf.is_adapter() {
            true => "give the folder that it was made from: adapter_config.json and adapter_model.safetensors",
            false => "this is a model: name it with --model, and a folder that PEFT or finetune wrote here",
        });
    }
    if folder.is_file() {
        return Error::file(folder, "is a file, not the folder of a PEFT adapter")
            .with_hint(format!("give the folder that holds {CONFIG} and {WEIGHTS}"));
    }
    let error = Error::file(folder, format!("holds no {CONFIG}"));
    match folder.join("config.json").exists() {
        true => error.with_hint("this is a model: name it with --model, and a folder that PEFT or finetune wrote here"),
        false => error,
    }
}

/// The error of a value, in the file that it is from.
fn relocate(error: Error, path: &Path) -> Error {
    let located = Error::file(path, error.to_string());
    match error.hint() {
        Some(hint) => located.with_hint(hint),
        None => located,
    }
}
