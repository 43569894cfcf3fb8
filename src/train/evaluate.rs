//! Loss and perplexity on sequences that are not trained on.

use super::nonfinite;
use super::step::scalar;
use crate::autograd::no_grad;
use crate::data::packing::{Capacity, pack};
use crate::device::host;
use crate::error::{Error, Result};
use crate::models::llama::Llama;
use crate::nn::{Batch, Plain, Sequence};

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
    host::in_pool(|| sum(model, sequences, done))
}

fn sum(model: &Llama, sequences: &[Sequence], mut done: impl FnMut(usize)) -> Result<Evaluation> {
    let (mut sum, mut tokens, mut behind) = (0.0, 0, 0);
    for sequences in pack(sequences, BATCH) {
        behind += sequences.len();
        let batch = Batch::new(sequences, &model.device())?;
        if batch.supervised > 0 {
            let loss = scalar(&no_grad(|| model.loss(&batch, batch.supervised as f32, None, &Plain))?)?;
            if !loss.is_finite() {
                return Err(nonfinite::of_evaluation(model, &batch, loss)?);
            }
            sum += loss * batch.supervised as f64;
            tokens += batch.supervised;
        }
        done(behind);
    }
    match tokens {
        0 => Err(Error::input("evaluation", "the data has no supervised token")),
        _ => Ok(Evaluation { loss: sum / tokens as f64, tokens }),
    }
}
