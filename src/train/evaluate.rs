//! Loss and perplexity on sequences that are not trained on.

use crate::autograd::no_grad;
use crate::data::packing::{Capacity, pack};
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
    /// `exp(loss)`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Evaluates `model` on `sequences`, calling `done` with the number of those behind it.
///
/// # Errors
/// [`Error::Input`] if no token is supervised; those of the model.
pub fn evaluate(model: &Llama, sequences: &[Sequence], mut done: impl FnMut(usize)) -> Result<Evaluation> {
    let (mut sum, mut tokens, mut behind) = (0.0, 0, 0);
    for sequences in pack(sequences, BATCH) {
        behind += sequences.len();
        let batch = Batch::new(sequences, &model.device())?;
        if batch.supervised > 0 {
            let loss = no_grad(|| model.loss(&batch, batch.supervised as f32, None, &Plain))?;
            sum += super::step::scalar(&loss)? * batch.supervised as f64;
            tokens += batch.supervised;
        }
        done(behind);
    }
    match tokens {
        0 => Err(Error::input("evaluation", "the data has no supervised token")),
        _ => Ok(Evaluation { loss: sum / tokens as f64, tokens }),
    }
}
