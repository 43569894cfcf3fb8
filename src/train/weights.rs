//! What is trained, and how it is stored: an adapter in PEFT's format, or with `--full` the model's weights.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::autograd::{Gradients, Tensor};
use crate::dtype::DType;
use crate::error::Result;
use crate::io::WeightSource;
use crate::io::adapter::{self, Adapter, AdapterConfig};
use crate::io::model::ModelFiles;
use crate::io::safetensors::{self, write_tensors};
use crate::models::llama::Llama;
use crate::nn::Parameter;
use crate::ops::elementwise::cast;
use crate::ops::grad_norm::{GradNorm, grad_norm};
use crate::optim::{self, AdamW, AdamWOptions};
use crate::parallel::{Named, Sharded, Strategy};

/// The optimizer's file in a checkpoint.
const OPTIMIZER: &str = "optimizer.safetensors";

/// All that is trained of a model.
pub(super) struct Trained<'a> {
    pub model: &'a Llama,
    /// The configuration, and what is written beside what is trained; `None` where the model itself is trained.
    pub adapter: Option<Frozen>,
    /// In the order of [`Llama::trained`], under the names they are stored with.
    pub parameters: Vec<(String, &'a Parameter)>,
    /// Where this is one of several ranks.
    pub sharded: Option<Arc<Sharded>>,
}

/// What training does not change of an adapter.
pub(super) struct Frozen {
    pub config: AdapterConfig,
    /// The weights that it has whole, by their names in the model.
    pub whole: BTreeMap<String, Tensor>,
}

impl<'a> Trained<'a> {
    pub fn new(model: &'a Llama, adapter: Option<Frozen>, sharded: Option<Arc<Sharded>>) -> Result<Self> {
        let parameters = model.trained();
        sharded.as_ref().map_or(Ok(()), |sharded| sharded.train(&parameters))?;
        Ok(Self { model, adapter, parameters, sharded })
    }

    /// This rank's place among those of which each holds only a part of the optimizer's state.
    fn parts(&self) -> Option<&Sharded> {
        self.sharded.as_deref().filter(|sharded| sharded.strategy() != Strategy::None)
    }

    /// How many numbers are trained, and how many there are.
    pub fn count(&self) -> (usize, usize) {
        let numel = |parameter: &Parameter| parameter.get().shape().numel();
        let mut all = self.model.config().parameters().iter().map(|(_, shape)| shape.numel()).sum();
        self.model.visit_adapters(&mut |_, parameter| all += numel(parameter));
        (self.parameters.iter().map(|(_, parameter)| numel(parameter)).sum(), all)
    }

    /// The gradient of each parameter, zeros where none arrived, or this rank's run of it, if it has one.
    pub fn take_gradients(&self, gradients: &mut Gradients) -> Result<Vec<Option<Tensor>>> {
        if let Some(sharded) = &self.sharded {
            let sums = sharded.sums()?;
            return match sharded.strategy() {
                Strategy::None => {
                    let whole = sharded.whole("gradients", &sums, &self.model.device())?;
                    Ok(whole.into_iter().map(Some).collect())
                }
                Strategy::Full | Strategy::GradOp => Ok(sums),
            };
        }
        let gradient = |(_, parameter): &(String, &Parameter)| {
            let weight = parameter.get();
            let none = || Tensor::zeros(&weight.device(), weight.dtype(), weight.shape());
            gradients.take(&weight).map_or_else(none, Ok).map(Some)
        };
        self.parameters.iter().map(gradient).collect()
    }

    /// The norms of what [`Trained::take_gradients`] gave.
    pub fn norm(&self, gradients: &[Option<Tensor>]) -> Result<GradNorm> {
        match self.parts() {
            Some(sharded) => sharded.norm(gradients),
            None => grad_norm(&gradients.iter().flatten().collect::<Vec<_>>()),
        }
    }

    /// The file of the weights in a folder.
    fn file(&self) -> &'static str {
        if self.adapter.is_some() { adapter::WEIGHTS } else { safetensors::MODEL }
    }

    /// Writes these values of the weights, f32, with the adapter's configuration.
    pub fn write(&self, folder: &Path, values: &[Tensor]) -> Result<()> {
        match &self.adapter {
            Some(frozen) => self.adapter(frozen, values).write(folder),
            None => self.write_as(folder, values, DType::F32),
        }
    }

    /// The values of all that is trained, in its order, which the ranks gather for the first of them; none for another.
    pub fn values(&self) -> Result<Option<Vec<Tensor>>> {
        match self.parts() {
            Some(sharded) => sharded.values(),
            None => Ok(Some(self.parameters.iter().map(|(_, parameter)| parameter.get().detach()).collect())),
        }
    }

    /// The adapter of these values.
    fn adapter(&self, Frozen { config, whole }: &Frozen, values: &[Tensor]) -> Adapter {
        let mut adapter = Adapter { config: config.clone(), whole: whole.clone(), ..Adapter::default() };
        let named: BTreeMap<&str, &Tensor> = self.names().into_iter().zip(values).collect();
        let value = |name: String| named.get(&name[..]).map(|value| (*value).clone());
        for (name, _) in self.model.linears() {
            let [a, b] = ["lora_A", "lora_B"].map(|half| value(format!("base_model.model.{name}.{half}.weight")));
            adapter.tensors.extend(a.zip(b).map(|pair| (name, pair)));
        }
        self.model.visit_weights(&mut |name, _| {
            adapter.whole.extend(value(format!("base_model.model.{name}")).map(|value| (name, value)));
        });
        adapter
    }

    fn write_as(&self, folder: &Path, values: &[Tensor], dtype: DType) -> Result<()> {
        let stored = |(name, value): (&str, &Tensor)| Ok((name.to_string(), cast(value, dtype)?));
        let tensors = self.names().into_iter().zip(values).map(stored).collect::<Result<BTreeMap<_, _>>>()?;
        write_tensors(&folder.join(self.file()), &tensors)
    }

    /// Writes what the run was for, of these values. The configuration comes last: where it is, all is.
    pub fn write_result(&self, folder: &Path, values: &[Tensor], files: &ModelFiles, dtype: DType) -> Result<()> {
        if self.adapter.is_some() {
            return self.write(folder, values);
        }
        self.write_as(folder, values, dtype)?;
        files.write_beside_weights(folder, files.config(), dtype, None)
    }

    /// Whether [`Trained::write_result`] came to its end in this folder.
    pub fn is_result(&self, folder: &Path) -> bool {
        folder.join(if self.adapter.is_some() { adapter::CONFIG } else { "config.json" }).exists()
    }

    /// Takes the weights that [`Trained::write`] put into a folder.
    pub fn read(&self, folder: &Path) -> Result<()> {
        let stored = safetensors::Checkpoint::open(&folder.join(self.file()))?;
        for (i, (name, parameter)) in self.parameters.iter().enumerate() {
            let weight = stored.load(name, parameter.get().shape(), DType::F32, &self.model.device())?;
            match self.sharded.as_ref().filter(|sharded| !sharded.keeps_weights()) {
                Some(sharded) => sharded.set(i, &weight)?,
                None => parameter.set(weight.with_grad()),
            }
        }
        Ok(())
    }

    /// One step of the optimizer, with what [`Trained::take_gradients`] gave.
    pub fn update(&self, optimizer: &mut AdamW, gradients: &[Option<Tensor>], gradient_scale: &Tensor) -> Result<()> {
        if let Some(sharded) = self.parts() {
            sharded.update(|first, runs| step(optimizer, runs, &gradients[first..], gradient_scale))?;
            optimizer.end_step();
            return Ok(());
        }
        let mut locked: Vec<_> = self.parameters.iter().map(|(_, parameter)| parameter.lock()).collect();
        let parameters = self.parameters.iter().zip(&mut locked);
        let mut parameters: Vec<_> =
            parameters.map(|((name, _), parameter)| (name.as_str(), Some(&mut **parameter))).collect();
        step(optimizer, &mut parameters, gradients, gradient_scale)?;
        optimizer.end_step();
        Ok(())
    }

    /// The optimizer's state, which the ranks gather for the first of them.
    pub fn optimizer_state(&self, optimizer: &AdamW) -> Result<BTreeMap<String, Tensor>> {
        let state: BTreeMap<String, Tensor> = optimizer.state().collect();
        let Some(sharded) = self.parts() else { return Ok(state) };
        let mut whole = BTreeMap::new();
        for half in ["m", "v"] {
            let keys: Vec<String> = self.parameters.iter().map(|(name, _)| format!("{name}.{half}")).collect();
            let runs: Vec<Option<Tensor>> = keys.iter().map(|key| state.get(key).cloned()).collect();
            whole.extend(keys.into_iter().zip(sharded.first("optimizer", &runs)?.unwrap_or_default()));
        }
        Ok(whole)
    }

    /// Writes the optimizer's state, which [`Trained::optimizer_state`] gave.
    pub fn write_optimizer(&self, folder: &Path, state: &BTreeMap<String, Tensor>) -> Result<()> {
        write_tensors(&folder.join(OPTIMIZER), state)
    }

    /// The optimizer as [`Trained::write_optimizer`] left it after `step` steps.
    pub fn read_optimizer(&self, folder: &Path, step: u64, options: AdamWOptions) -> Result<AdamW> {
        let stored = safetensors::Checkpoint::open(&folder.join(OPTIMIZER))?;
        let mut state = Vec::new();
        for name in stored.names() {
            let tensor = stored.load(&name, stored.shape(&name)?, DType::F32, &self.model.device())?;
            let of = name.rsplit_once('.').map_or(&name[..], |(of, _)| of);
            let place = self.parameters.iter().position(|(name, _)| name == of);
            match self.parts().zip(place) {
                Some((sharded, place)) => state.extend(sharded.run(place, &tensor)?.map(|run| (name, run))),
                None => state.push((name, tensor)),
            }
        }
        AdamW::resume(options, step, state)
    }

    /// The name of each parameter.
    pub fn names(&self) -> Vec<&str> {
        self.parameters.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// A part of a step of the optimizer, on those of `parameters` that are here.
fn step(
    optimizer: &mut AdamW,
    parameters: &mut [Named<'_>],
    gradients: &[Option<Tensor>],
    gradient_scale: &Tensor,
) -> Result<()> {
    let here = parameters.iter_mut().zip(gradients).filter_map(|((name, parameter), gradient)| {
        Some(optim::Trained { name, parameter: parameter.as_deref_mut()?, gradient: gradient.as_ref()? })
    });
    optimizer.update(here.collect(), gradient_scale)
}
