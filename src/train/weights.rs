//! What is trained: the weights of an adapter, or with `--full` those of the model.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::autograd::{Gradients, Tensor};
use crate::error::Result;
use crate::io::adapter::AdapterConfig;
use crate::models::llama::Llama;
use crate::nn::Parameter;
use crate::ops::grad_norm::{GradNorm, grad_norm};
use crate::optim::{self, AdamW};
use crate::parallel::{Named, Sharded, Strategy};

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
    pub fn parts(&self) -> Option<&Sharded> {
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

    /// The norms of the weights.
    pub fn weight_norm(&self) -> Result<GradNorm> {
        match self.parts() {
            Some(sharded) => sharded.norm(&sharded.runs()?),
            None => {
                let weights: Vec<Tensor> = self.parameters.iter().map(|(_, parameter)| parameter.get()).collect();
                grad_norm(&weights.iter().collect::<Vec<_>>())
            }
        }
    }

    /// The norms of what [`Trained::take_gradients`] gave.
    pub fn norm(&self, gradients: &[Option<Tensor>]) -> Result<GradNorm> {
        match self.parts() {
            Some(sharded) => sharded.norm(gradients),
            None => grad_norm(&gradients.iter().flatten().collect::<Vec<_>>()),
        }
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
