//! Where a number that is none came from.

use std::cell::RefCell;

use crate::autograd::{Tensor, no_grad};
use crate::error::{Error, Result};
use crate::models::llama::Llama;
use crate::nn::{Batch, Unit, UnitFn, UnitHook};
use crate::ops::grad_norm::grad_norm;

const HINT: &str = "the last checkpoint is from before; a lower --learning-rate or --max-grad-norm 1, in a new --out, may not come to this";

/// The error of a loss that is not finite, naming the first tensor of the forward pass that is not.
pub(super) fn of_loss(model: &Llama, batch: &Batch, loss: f64, step: u64) -> Result<Error> {
    Ok(error(&format!("the loss is {loss}"), step, &first_tensor(model, batch)?))
}

/// The error of an evaluation whose loss is not finite, naming the first tensor that is not.
pub(super) fn of_evaluation(model: &Llama, batch: &Batch, loss: f64) -> Result<Error> {
    let culprit = first_tensor(model, batch)?;
    Ok(Error::input("evaluation", format!("the loss is {loss}; the first tensor that is not finite is {culprit}")))
}

/// An evaluation's error as that of a run which came to it after `step` steps.
pub(super) fn after(step: u64, error: Error) -> Error {
    match error {
        Error::Input { .. } => Error::input("training", format!("after step {step}: {error}")).with_hint(HINT),
        other => other,
    }
}

/// The error of gradients whose norms are not all finite. The backward pass runs from the last layer to the first, so
/// the last one came first.
pub(super) fn of_gradients(names: &[&str], norms: &[f64], step: u64) -> Error {
    let name = names.iter().zip(norms).rev().find(|(_, norm)| !norm.is_finite()).map_or("of all", |(name, _)| name);
    error("the gradient is not finite", step, &format!("the gradient of {name}"))
}

/// Refuses trained weights that are not all finite, as a step that was too large leaves them.
pub(super) fn refuse_weights(names: &[&str], weights: &[Tensor], steps: u64) -> Result<()> {
    let found = grad_norm(&weights.iter().collect::<Vec<_>>())?.read()?.first_not_finite();
    match found.and_then(|i| names.get(i)) {
        Some(name) => Err(error("the update is not finite", steps.saturating_sub(1), name)),
        None => Ok(()),
    }
}

/// The error that the rank of a pass has said in words.
pub(super) fn of_rank(said: &str) -> Error {
    Error::input("training", said.strip_prefix("training: ").unwrap_or(said)).with_hint(HINT)
}

fn error(what: &str, step: u64, culprit: &str) -> Error {
    let detail = format!("{what} at step {}; the first tensor that is not finite is {culprit}", step + 1);
    Error::input("training", detail).with_hint(HINT)
}

fn first_tensor(model: &Llama, batch: &Batch) -> Result<String> {
    model.first_weight_not_finite()?.map_or_else(|| first_activation(model, batch), Ok)
}

fn first_activation(model: &Llama, batch: &Batch) -> Result<String> {
    let watch = Watch::default();
    no_grad(|| model.hidden(batch, None, &watch))?;
    Ok(watch.0.into_inner().unwrap_or_else(|| "the logits".into()))
}

/// Looks at what comes out of each unit.
#[derive(Default)]
struct Watch(RefCell<Option<String>>);

impl Watch {
    fn look(&self, tensor: &Tensor, name: impl FnOnce() -> String) -> Result<()> {
        let mut found = self.0.borrow_mut();
        if found.is_none() && !is_finite(tensor)? {
            *found = Some(name());
        }
        Ok(())
    }
}

impl UnitHook for Watch {
    fn run(&self, unit: Unit, x: &Tensor, f: UnitFn) -> Result<Tensor> {
        let y = f(x)?;
        self.look(&y, || match unit {
            Unit::Embedding => "the output of model.embed_tokens".into(),
            Unit::Block(index) => format!("the output of model.layers.{index}"),
            Unit::Head => "the output of model.norm".into(),
        })?;
        Ok(y)
    }
}

fn is_finite(tensor: &Tensor) -> Result<bool> {
    Ok(grad_norm(&[tensor])?.read()?.total.is_finite())
}
