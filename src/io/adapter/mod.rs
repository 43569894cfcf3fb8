//! LoRA adapters in PEFT's format: `adapter_config.json` beside `adapter_model.safetensors`.

mod config;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use config::{AdapterConfig, Modules};

use super::WeightSource;
use super::safetensors::{Checkpoint, write_tensors};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::models::llama::LlamaConfig;

/// The file that says what the adapter is.
pub const CONFIG: &str = "adapter_config.json";
/// The file of its tensors.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// A LoRA: each of some linear layers adds `scaling · B·A` to its weight.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Which layers, and how strongly.
    pub config: AdapterConfig,
    /// A `[R, in]` and B `[out, R]` in f32, by the path of the module: `model.layers.0.self_attn.q_proj`.
    pub tensors: BTreeMap<String, (Tensor, Tensor)>,
}

impl Adapter {
    /// Reads the adapter in `folder` onto `device`, and checks that it is one of `model`, whole.
    ///
    /// # Errors
    /// [`Error::File`] naming the key or the tensor: a config that is not supported (see [`AdapterConfig::read`]), a
    /// tensor that is missing, is of no module of `model`, or has not the shape that `model` and the config ask for.
    pub fn read(folder: &Path, model: &LlamaConfig, device: &Device) -> Result<Self> {
        if !folder.join(CONFIG).exists() {
            return Err(no_adapter(folder));
        }
        let config = AdapterConfig::read(folder)?;
        let in_config = |e: Error| relocate(e, &folder.join(CONFIG));
        let weights = open(folder)?;
        let mut names: BTreeSet<String> = weights.names().into_iter().collect();
        let mut tensors = BTreeMap::new();
        for (module, shape) in config.modules(model).map_err(in_config)? {
            let &[output, input] = shape.dims() else { continue };
            config.scaling(&module).map_err(in_config)?; // so that it cannot fail later, where the file is not known
            let r = config.rank(&module).map_err(in_config)?;
            let mut load = |which, shape: [usize; 2]| {
                let name = stored_name(&mut names, &module, which);
                weights.load(&name, shape.into(), DType::F32, device).map_err(|e| with_base_hint(e, &config))
            };
            let pair = (load("lora_A", [r, input])?, load("lora_B", [output, r])?);
            tensors.insert(module, pair);
        }
        match names.first() {
            Some(name) => Err(with_base_hint(unplaced(&weights, name), &config)),
            None => Ok(Self { config, tensors }),
        }
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

/// The name of a module's `lora_A` or `lora_B` in PEFT's files.
pub fn tensor_name(module: &str, which: &str) -> String {
    format!("base_model.model.{module}.{which}.weight")
}

/// Takes the name out of `names`; some tools keep the name of the adapter, `default`, in it.
fn stored_name(names: &mut BTreeSet<String>, module: &str, which: &str) -> String {
    let name = tensor_name(module, which);
    names.take(&name).or_else(|| names.take(&tensor_name(module, &format!("{which}.default")))).unwrap_or(name)
}

fn open(folder: &Path) -> Result<Checkpoint> {
    let path = folder.join(WEIGHTS);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        return Err(Error::file(path, "is missing; adapter_model.bin is a pickle, which is not read")
            .with_hint("load the adapter with PEFT and save it again with safe_serialization=True"));
    }
    Checkpoint::open(&path)
}

fn no_adapter(folder: &Path) -> Error {
    let error = Error::file(folder, format!("holds no {CONFIG}"));
    match folder.join("config.json").exists() {
        true => error.with_hint("this is a model: name it with --model, and a folder that PEFT or finetune wrote here"),
        false => error,
    }
}

fn unplaced(weights: &Checkpoint, name: &str) -> Error {
    Error::file(weights.path(), format!("{CONFIG} and the base model have no place for tensor {name}"))
}

fn with_base_hint(error: Error, config: &AdapterConfig) -> Error {
    let base = config.base_model_name_or_path.as_deref().unwrap_or("unknown");
    error.or_hint(format!("the adapter was made for base model {base:?}: is this one like it?"))
}

/// The error of a value, in the file that it is from.
fn relocate(error: Error, path: &Path) -> Error {
    let located = Error::file(path, error.to_string());
    match error.hint() {
        Some(hint) => located.with_hint(hint),
        None => located,
    }
}
