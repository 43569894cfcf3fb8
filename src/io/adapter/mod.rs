//! LoRA adapters in PEFT's format: `adapter_config.json` beside `adapter_model.safetensors` or `adapter_model.bin`.

mod config;
mod modules;
mod names;
mod refusals;
mod stored;
mod whole;

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

/// A LoRA: each of some linear layers adds `scaling · B·A` to its weight. Some weights it may have whole.
#[derive(Clone, Debug, Default)]
pub struct Adapter {
    /// Which layers, and how strongly.
    pub config: AdapterConfig,
    /// A `[R, in]` and B `[out, R]` in f32 on the CPU, by the path of the module: `model.layers.0.self_attn.q_proj`.
    pub tensors: BTreeMap<String, (Tensor, Tensor)>,
    /// Weights in the place of the model's, in f32 on the CPU, by their names in the model.
    pub whole: BTreeMap<String, Tensor>,
    /// What of its files counts for nothing here, and what it has unasked, in words.
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
        let mut adapter = Self { config: AdapterConfig::parse(&object)?, ..Self::default() };
        whole::resolve_tying(&mut adapter.config, model);
        let mut stored = Stored::open(folder, adapter.config.base_model_name_or_path.as_deref())?;
        adapter.whole = whole::take(&mut stored, &adapter.config, model)?;
        adapter.refuse_rows(model, stored.path())?;
        adapter.notes = refusals::inert(&object, adapter.has_biases())?;
        adapter.notes.extend(adapter.unlisted()?);
        if !adapter.has_biases() {
            adapter.config.bias = "none".into();
        }
        adapter
            .take_loras(&mut stored, model)
            .map_err(|e| if matches!(e, Error::Input { .. }) { relocate(e, &path) } else { e })?;
        let modules = model.parameters().into_iter().filter_map(|(name, _)| Some(name.strip_suffix(".weight")?.into()));
        stored.refuse_rest(&modules.collect())?;
        Ok(adapter)
    }

    fn take_loras(&mut self, stored: &mut Stored, base: &LlamaConfig) -> Result<()> {
        for (module, shape) in self.config.modules(&self.model(base))? {
            let &[output, input] = shape.dims() else { continue };
            self.config.scaling(&module)?; // so that it cannot fail later, where the file is not known
            let r = self.config.rank(&module)?;
            let a = stored.take(&lora(&module, "lora_A"), [r, input])?;
            let b = stored.take(&lora(&module, "lora_B"), [output, r])?;
            self.tensors.insert(module, (a, b));
        }
        Ok(())
    }

    fn has_biases(&self) -> bool {
        self.whole.keys().any(|name| name.ends_with(".bias"))
    }

    /// A note of the weights that it has whole though its config does not say so.
    fn unlisted(&self) -> Result<Option<String>> {
        let unlisted = self.frozen()?.into_keys().collect::<Vec<_>>();
        Ok((!unlisted.is_empty())
            .then(|| format!("has weights of its own, which it did not train: {}", unlisted.join(", "))))
    }

    /// The weights that it has whole and that training it does not train, by their names in the model.
    ///
    /// # Errors
    /// [`Error::Input`] if something in its config is not a regular expression.
    pub fn frozen(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut frozen = BTreeMap::new();
        for (name, tensor) in &self.whole {
            if !self.config.trains(name)? {
                frozen.insert(name.clone(), tensor.clone());
            }
        }
        Ok(frozen)
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
        named.extend(self.whole_by_name());
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
