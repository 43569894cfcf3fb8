//! The tensors of an adapter's file, by the place in the model that each is for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::names::{place, stored_name};
use super::refusals::MERGE;
use super::{CONFIG, WEIGHTS};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::safetensors::Checkpoint;
use crate::io::{WeightSource, pickle};
use crate::shape::Shape;

/// What is in the file and was not taken yet.
pub(super) struct Stored {
    file: Checkpoint,
    /// The name of what is at a place.
    names: BTreeMap<String, String>,
    /// The question whether the base model is the right one.
    base: String,
}

impl Stored {
    /// Opens the file in `folder` of an adapter that was made for the model called `base`.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, if it is corrupt, or if two of its tensors are for one place and not equal.
    pub fn open(folder: &Path, base: Option<&str>) -> Result<Self> {
        let (file, mut names) = (open(folder)?, BTreeMap::new());
        let load = |name: &str| file.load(name, file.shape(name)?, DType::F32, &Device::Cpu);
        for name in file.names() {
            // PEFT keeps the layer that another takes the place of beside that.
            if name.contains(".original_module.") {
                continue;
            }
            // A resized layer that was trained PEFT saves under two names.
            if let Some(other) = names.insert(place(&name), name.clone())
                && !are_equal(&load(&other)?, &load(&name)?)?
            {
                let detail = format!("tensors {other} and {name} are for one place, {}", place(&name));
                return Err(Error::file(file.path(), detail).with_hint("keep the one that counts"));
            }
        }
        let base = format!("the adapter was made for base model {:?}: is this one like it?", base.unwrap_or("unknown"));
        Ok(Self { file, names, base })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Whether there is a tensor at `place`.
    pub fn has(&self, place: &str) -> bool {
        self.names.contains_key(place)
    }

    /// How many rows the tensor at `place` has.
    pub fn rows(&self, place: &str) -> Option<usize> {
        Some(self.file.shape(self.names.get(place)?).ok()?.rows())
    }

    /// The tensor at `place`, in f32 on the CPU.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, or if it has not `shape`.
    pub fn take(&mut self, place: &str, shape: impl Into<Shape>) -> Result<Tensor> {
        let Some(name) = self.names.remove(place) else { return Err(self.missing(place)) };
        let loaded = self.file.load(&name, shape.into(), DType::F32, &Device::Cpu);
        loaded.map_err(|e| e.or_hint(&self.base))
    }

    /// The error of a place that has no tensor: says what the file has instead.
    fn missing(&self, place: &str) -> Error {
        let error = Error::file(self.file.path(), format!("has no tensor {}", stored_name(place)));
        if let Some(name) = self.names.iter().find_map(|(place, name)| is_foreign(place).then_some(name)) {
            return error.with_hint(format!("it has {name}: give the tensors the names that PEFT gives them"));
        }
        if !place.contains(".lora_") {
            return error.with_hint(format!("modules_to_save of {CONFIG} names it"));
        }
        let layer: Vec<&str> = place.split('.').take(3).collect();
        let layer = layer.join(".");
        match self.file.names().iter().any(|name| self::place(name).starts_with(&format!("{layer}."))) {
            true => error.with_hint(format!("it has others of {layer}: is it whole, and {CONFIG} the one beside it?")),
            false => error.with_hint(&self.base),
        }
    }

    /// Refuses what nobody took; `modules` are those of the base model.
    ///
    /// # Errors
    /// [`Error::File`] naming the first.
    pub fn refuse_rest(&self, modules: &BTreeSet<String>) -> Result<()> {
        let Some((place, name)) = self.names.first_key_value() else { return Ok(()) };
        let detail = format!("{CONFIG} and the base model have no place for tensor {name}");
        let error = Error::file(self.file.path(), detail);
        let module = place.rsplit_once(".lora_").map(|(module, _)| module);
        Err(if is_foreign(place) {
            error.with_hint(format!("it is no part of a plain LoRA, which PEFT alone runs: {MERGE}"))
        } else if module.is_some_and(|module| modules.contains(module)) {
            error.with_hint("target_modules does not choose its module")
        } else {
            error.with_hint(&self.base)
        })
    }
}

/// Whether a place is none that a LoRA has tensors for.
fn is_foreign(place: &str) -> bool {
    let in_llama = place.starts_with("model.") || place.starts_with("lm_head.");
    let leaf = place.rsplit_once('.').map_or("", |(_, leaf)| leaf);
    let of_lora = [".lora_A.weight", ".lora_B.weight"].iter().any(|end| place.ends_with(end));
    !in_llama || !(of_lora || !place.contains(".lora_") && ["weight", "bias"].contains(&leaf))
}

/// Whether two tensors hold the same bits.
pub(super) fn are_equal(a: &Tensor, b: &Tensor) -> Result<bool> {
    Ok(a.shape() == b.shape() && a.buffer()?.host()? == b.buffer()?.host()?)
}

/// PEFT's older files are PyTorch's; safetensors come first.
fn open(folder: &Path) -> Result<Checkpoint> {
    let (path, pickled) = (folder.join(WEIGHTS), folder.join(pickle::ADAPTER));
    Checkpoint::open(if !path.exists() && pickled.exists() { &pickled } else { &path })
}
