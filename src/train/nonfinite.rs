//! Where a number that is none came from.

use std::cell::RefCell;
use std::sync::Arc;

use crate::autograd::{Tensor, no_grad};
use crate::error::{Error, Result};
use crate::models::llama::Llama;
use crate::nn::{Batch, Plain, Unit, UnitFn, UnitHook};
use crate::ops::grad_norm::{GradNorm, grad_norm};
use crate::parallel::{Gathered, Sharded};

const HINT: &str = "the last checkpoint is from before; a lower --learning-rate or --max-grad-norm 1, in a new --out, may not come to this";

/// The error of a loss that is not finite.
pub(super) fn of_loss(loss: f64, step: u64, culprit: &str) -> Error {
    error(&format!("the loss is {loss}"), step, culprit)
}

/// The error of an evaluation whose loss is not finite.
pub(super) fn of_evaluation(loss: f64, culprit: &str) -> Error {
    Error::input("evaluation", format!("the loss is {loss}; the first tensor that is not finite is {culprit}"))
}

/// The first tensor of the forward pass of number `pass` that is not finite. Among ranks all look for it together, with the
/// `batch` of that pass where it is.
pub(super) fn culprit(
    model: &Llama,
    batch: Option<&Batch>,
    pass: usize,
    sharded: Option<&Arc<Sharded>>,
) -> Result<String> {
    let weight = match sharded.filter(|sharded| !sharded.keeps_weights()) {
        Some(sharded) => sharded.first_not_finite()?,
        None => model.first_weight_not_finite()?,
    };
    if let Some(weight) = weight {
        return Ok(weight);
    }
    let hook = sharded.map(|sharded| Gathered(sharded.clone()));
    let hook = hook.as_ref().map_or(&Plain as &dyn UnitHook, |hook| hook);
    let mine = batch.map(|batch| first_activation(model, batch, hook)).transpose()?;
    let Some(sharded) = sharded else { return Ok(mine.unwrap_or_default()) };
    if mine.is_none() {
        sharded.idle(false)?;
    }
    let mut said = sharded.communicator().gather("what is not finite", &mine.unwrap_or_default())?;
    Ok(said.swap_remove(pass % sharded.place().1))
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

/// Refuses trained weights, of these norms, that are not all finite, as a step that was too large leaves them.
pub(super) fn refuse_weights(names: &[&str], norms: GradNorm, steps: u64) -> Result<()> {
    let found = norms.read()?.first_not_finite();
    match found.and_then(|i| names.get(i)) {
        Some(name) => Err(error("the update is not finite", steps.saturating_sub(1), name)),
        None => Ok(()),
    }
}

fn error(what: &str, step: u64, culprit: &str) -> Error {
    let detail = format!("{what} at step {}; the first tensor that is not finite is {culprit}", step + 1);
    Error::input("training", detail).with_hint(HINT)
}

fn first_activation(model: &Llama, batch: &Batch, hook: &dyn UnitHook) -> Result<String> {
    let watch = Watch { hook, found: RefCell::default() };
    no_grad(|| model.hidden(batch, None, &watch))?;
    Ok(watch.found.into_inner().unwrap_or_else(|| "the logits".into()))
}

/// Looks at what comes out of each unit.
struct Watch<'a> {
    hook: &'a dyn UnitHook,
    found: RefCell<Option<String>>,
}

impl Watch<'_> {
    fn look(&self, tensor: &Tensor, name: impl FnOnce() -> String) -> Result<()> {
        let mut found = self.found.borrow_mut();
        if found.is_none() && !is_finite(tensor)? {
            *found = Some(name());
        }
        Ok(())
    }
}

impl UnitHook for Watch<'_> {
    fn run(&self, unit: Unit, x: &Tensor, f: UnitFn) -> Result<Tensor> {
        let y = self.hook.run(unit, x, f)?;
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
