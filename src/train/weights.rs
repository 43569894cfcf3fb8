//! What is trained, and how it is stored: an adapter in PEFT's format, or with `--full` the model's weights.

use std::collections::BTreeMap;
use std::path::Path;

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
use crate::optim::{self, AdamW, AdamWOptions};

/// The optimizer's file in a checkpoint.
const OPTIMIZER: &str = "optimizer.safetensors";

/// All that is trained of a model.
pub(super) struct Trained<'a> {
    pub model: &'a Llama,
    /// The configuration, and what is written beside what is trained; `None` where the model itself is trained.
    pub adapter: Option<Frozen>,
    /// In the order of [`Llama::trained`], under the names they are stored with.
    pub parameters: Vec<(String, &'a Parameter)>,
}

/// What training does not change of an adapter.
pub(super) struct Frozen {
    pub config: AdapterConfig,
    /// The weights that it has whole, by their names in the model.
    pub whole: BTreeMap<String, Tensor>,
}

impl<'a> Trained<'a> {
    pub fn new(model: &'a Llama, adapter: Option<Frozen>) -> Self {
        Self { model, adapter, parameters: model.trained() }
    }

    /// How many numbers are trained, and how many there are.
    pub fn count(&self) -> (usize, usize) {
        let numel = |parameter: &Parameter| parameter.get().shape().numel();
        let mut all = self.model.config().parameters().iter().map(|(_, shape)| shape.numel()).sum();
        self.model.visit_adapters(&mut |_, parameter| all += numel(parameter));
        (self.parameters.iter().map(|(_, parameter)| numel(parameter)).sum(), all)
    }

    /// The gradient of each parameter; zeros where none arrived.
    pub fn take_gradients(&self, gradients: &mut Gradients) -> Result<Vec<Tensor>> {
        let gradient = |(_, parameter): &(String, &Parameter)| {
            let weight = parameter.get();
            let none = || Tensor::zeros(&weight.device(), weight.dtype(), weight.shape());
            gradients.take(&weight).map_or_else(none, Ok)
        };
        self.parameters.iter().map(gradient).collect()
    }

    /// The file of the weights in a folder.
    fn file(&self) -> &'static str {
        if self.adapter.is_some() { adapter::WEIGHTS } else { safetensors::MODEL }
    }

    /// Writes the weights as they are, f32, with the adapter's configuration.
    pub fn write(&self, folder: &Path) -> Result<()> {
        match &self.adapter {
            Some(frozen) => self.adapter(frozen).write(folder),
            None => self.write_as(folder, DType::F32),
        }
    }

    /// The adapter as it is now.
    fn adapter(&self, Frozen { config, whole }: &Frozen) -> Adapter {
        let mut adapter = Adapter { config: config.clone(), whole: whole.clone(), ..Adapter::default() };
        for (name, linear) in self.model.linears() {
            if let Some(lora) = linear.lora() {
                adapter.tensors.insert(name, (lora.a.get().detach(), lora.b.get().detach()));
            }
        }
        self.model.visit_weights(&mut |name, parameter| {
            if parameter.is_trained() {
                adapter.whole.insert(name, parameter.get().detach());
            }
        });
        adapter
    }

    fn write_as(&self, folder: &Path, dtype: DType) -> Result<()> {
        let stored =
            |(name, parameter): &(String, &Parameter)| Ok((name.clone(), cast(&parameter.get().detach(), dtype)?));
        let tensors = self.parameters.iter().map(stored).collect::<Result<BTreeMap<_, _>>>()?;
        write_tensors(&folder.join(self.file()), &tensors)
    }

    /// Writes what the run was for. The configuration comes last: where it is, all is.
    pub fn write_result(&self, folder: &Path, files: &ModelFiles, dtype: DType) -> Result<()> {
        if self.adapter.is_some() {
            return self.write(folder);
        }
        self.write_as(folder, dtype)?;
        files.write_beside_weights(folder, files.config(), dtype, None)
    }

    /// Whether [`Trained::write_result`] came to its end in this folder.
    pub fn is_result(&self, folder: &Path) -> bool {
        folder.join(if self.adapter.is_some() { adapter::CONFIG } else { "config.json" }).exists()
    }

    /// Takes the weights that [`Trained::write`] put into a folder.
    pub fn read(&self, folder: &Path) -> Result<()> {
        let stored = safetensors::Checkpoint::open(&folder.join(self.file()))?;
        for (name, parameter) in &self.parameters {
            let shape = parameter.get().shape();
            parameter.set(stored.load(name, shape, DType::F32, &self.model.device())?.with_grad());
        }
        Ok(())
    }

    /// One step of the optimizer.
    pub fn update(&self, optimizer: &mut AdamW, gradients: &[Tensor], gradient_scale: &Tensor) -> Result<()> {
        let mut locked: Vec<_> = self.parameters.iter().map(|(_, parameter)| parameter.lock()).collect();
        let parameters = self.parameters.iter().zip(&mut locked).zip(gradients);
        let trained = parameters.map(|(((name, _), parameter), gradient)| optim::Trained { name, parameter, gradient });
        optimizer.step(trained.collect(), gradient_scale)
    }

    /// Writes the optimizer's state.
    pub fn write_optimizer(&self, folder: &Path, optimizer: &AdamW) -> Result<()> {
        write_tensors(&folder.join(OPTIMIZER), &optimizer.state().collect())
    }

    /// The optimizer as [`Trained::write_optimizer`] left it after `step` steps.
    pub fn read_optimizer(&self, folder: &Path, step: u64, options: AdamWOptions) -> Result<AdamW> {
        let stored = safetensors::Checkpoint::open(&folder.join(OPTIMIZER))?;
        let load = |name: String| {
            let tensor = stored.load(&name, stored.shape(&name)?, DType::F32, &self.model.device())?;
            Ok((name, tensor))
        };
        AdamW::resume(options, step, stored.names().into_iter().map(load).collect::<Result<Vec<_>>>()?)
    }

    /// The name of each parameter.
    pub fn names(&self) -> Vec<&str> {
        self.parameters.iter().map(|(name, _)| name.as_str()).collect()
    }
}
