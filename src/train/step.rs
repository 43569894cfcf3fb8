//! Loss and gradients of one step.

use super::nonfinite;
use super::plan::StepBatches;
use crate::autograd::{Gradients, Tensor, backward};
use crate::error::Result;
use crate::models::llama::Llama;
use crate::nn::{Batch, BlockHook, DropoutSeed};

/// What a step found.
pub(super) struct Differentiated {
    /// The mean over all supervised tokens of the step.
    pub loss: f64,
    pub gradients: Gradients,
    /// All tokens.
    pub tokens: usize,
    /// Those with a target.
    pub supervised: usize,
}

/// Runs the batches of a step one after the other and adds their gradients: what one large batch gives, within rounding.
/// Each supervised token weighs the same, whatever its batch, and dropout masks are those of the large batch.
pub(super) fn differentiate(
    model: &Llama,
    batches: &StepBatches<'_>,
    seed: u64,
    step: u64,
    hook: &dyn BlockHook,
) -> Result<Differentiated> {
    let batches = batches.iter().map(|sequences| Batch::new(sequences.iter().copied(), &model.device()));
    let batches: Vec<Batch> = batches.collect::<Result<_>>()?;
    let supervised: usize = batches.iter().map(|batch| batch.supervised).sum();
    let mut found = Differentiated { loss: 0.0, gradients: Gradients::default(), tokens: 0, supervised };
    for batch in &batches {
        let dropout = DropoutSeed { seed, step, first_row: found.tokens as u64 };
        let loss = model.loss(batch, supervised as f32, Some(dropout), hook)?;
        found.loss += scalar(&loss)?;
        if !found.loss.is_finite() {
            return Err(nonfinite::of_loss(model, batch, found.loss, step)?);
        }
        found.gradients.merge(backward(&loss)?)?;
        found.tokens += batch.input_ids.shape().numel();
    }
    Ok(found)
}

/// The value of a tensor of one element.
pub(super) fn scalar(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_vec::<f32>()?.first().copied().map_or(f64::NAN, f64::from))
}
