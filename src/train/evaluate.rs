//! Loss and perplexity on sequences that are not trained on.

use std::sync::Arc;

use super::nonfinite;
use super::step::{fold, scalar};
use crate::autograd::no_grad;
use crate::data::packing::{Capacity, pack};
use crate::device::host;
use crate::error::{Error, Result};
use crate::models::llama::Llama;
use crate::nn::{Batch, Plain, Sequence, UnitHook};
use crate::parallel::{Gathered, Sharded};

/// Tokens of a batch: enough to keep the machine busy. The same for every caller, so that equal data give equal bits.
const BATCH: Capacity = Capacity::Tokens(1024);

/// How well a model knows some sequences.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Evaluation {
    /// The mean over all supervised tokens.
    pub loss: f64,
    /// Supervised tokens.
    pub tokens: usize,
}

impl Evaluation {
    /// `exp(loss)`, or the largest number where there is none for it.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp().min(f64::MAX)
    }
}

/// Evaluates `model` on `sequences`, calling `done` with the number of those behind it.
///
/// # Errors
/// [`Error::Input`] if no token is supervised, or if a loss is not finite, naming the first tensor that is not; those of
/// the model.
pub fn evaluate(model: &Llama, sequences: &[Sequence], done: impl FnMut(usize) + Send) -> Result<Evaluation> {
    host::in_pool(|| evaluate_among(model, sequences, None, done))
}

/// [`evaluate`] by one of several ranks, each of which runs its own batches and learns the sum of all.
pub(super) fn evaluate_among(
    model: &Llama,
    sequences: &[Sequence],
    sharded: Option<&Arc<Sharded>>,
    mut done: impl FnMut(usize),
) -> Result<Evaluation> {
    let hook = sharded.map(|sharded| Gathered(sharded.clone()));
    let hook = hook.as_ref().map_or(&Plain as &dyn UnitHook, |hook| hook);
    let mut behind = 0;
    let mut batches = Vec::new();
    for sequences in pack(sequences, BATCH) {
        behind += sequences.len();
        let supervised: usize = sequences.iter().map(|sequence| sequence.supervised()).sum();
        if supervised > 0 {
            batches.push((sequences, supervised, behind));
        }
    }
    let (rank, ranks) = sharded.map_or((0, 1), |sharded| sharded.place());
    let mut losses = Vec::new();
    for (round, batches) in batches.chunks(ranks).enumerate() {
        match batches.get(rank) {
            None => sharded.map_or(Ok(()), |sharded| sharded.idle(false))?,
            Some((sequences, supervised, _)) => {
                let batch = Batch::new(sequences.iter().copied(), &model.device())?;
                let loss = scalar(&no_grad(|| model.loss(&batch, *supervised as f32, None, hook))?)?;
                losses.push((round * ranks + rank, (loss as f32).to_bits()));
                if sharded.is_none() && !loss.is_finite() {
                    break;
                }
            }
        }
        batches.last().into_iter().for_each(|(.., behind)| done(*behind));
    }
    if let Some(sharded) = sharded {
        losses = sharded.communicator().gather("losses of the evaluation", &losses)?.concat();
        losses.sort_unstable();
    }
    if let (loss, Some(number)) = fold(&losses) {
        let mine = batches.get(number).filter(|_| number % ranks == rank);
        let batch = mine.map(|(sequences, ..)| Batch::new(sequences.iter().copied(), &model.device())).transpose()?;
        let culprit = nonfinite::culprit(model, batch.as_ref(), number, sharded)?;
        return Err(nonfinite::of_evaluation(loss, &culprit));
    }
    done(behind);
    let (mut sum, mut tokens) = (0.0, 0);
    for ((_, bits), (_, supervised, _)) in losses.into_iter().zip(&batches) {
        sum += f64::from(f32::from_bits(bits)) * *supervised as f64;
        tokens += supervised;
    }
    match tokens {
        0 => Err(Error::input("evaluation", "the data has no supervised token")),
        _ => Ok(Evaluation { loss: sum / tokens as f64, tokens }),
    }
}
