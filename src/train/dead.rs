//! Runs that learn nothing any more.

use crate::error::{Error, Result};

/// Steps in a row without any gradient after which a run is given up. By then the optimizer's means, which still move the
/// weights, have faded.
const PATIENCE: u64 = 10;

/// Whether a run still learns.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// The last steps in a row that had a loss but no gradient.
    without: u64,
}

impl Pulse {
    /// Takes what step number `number`, counted from 0, has found. Returns what is to be said of the first of some steps
    /// without a gradient, since dropout may be all that there is to it. A loss of 0 needs no gradient.
    ///
    /// # Errors
    /// [`Error::Input`] if the last [`PATIENCE`] steps had none.
    pub(super) fn feel(&mut self, gradient_norm: f64, loss: f64, number: u64) -> Result<Option<String>> {
        let (step, is_dead) = (number + 1, gradient_norm == 0.0 && loss > 0.0);
        self.without = if is_dead { self.without + 1 } else { 0 };
        if self.without == PATIENCE {
            let first = step + 1 - self.without;
            let detail = format!(
                "the gradient is 0 everywhere from step {first} to {step}, and the loss stays at {loss:.4}: \
                 nothing is learned"
            );
            return Err(Error::input("training", detail).with_hint(hint(first == 1)));
        }
        let note = format!("step {step}: the gradient is 0 everywhere, at a loss of {loss:.4}: nothing is learned");
        Ok((self.without == 1).then_some(note))
    }
}

/// The way out of a run that was dead from its first step, or died on its way.
fn hint(from_the_first: bool) -> &'static str {
    match from_the_first {
        true => "what is trained has no influence on the loss: is --lora-alpha 0, or are weights of the model?",
        false => {
            "a step was too large: a lower --learning-rate or --max-grad-norm 1, in a new --out, may not come to this"
        }
    }
}
