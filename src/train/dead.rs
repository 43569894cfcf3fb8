//! Runs that learn nothing any more.

use super::progress::Progress;
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
    /// Notes what step number `number` of `total`, counted from 0, has found. The first of some steps without a gradient is
    /// told, since dropout may be all that there is to it; a loss of 0 needs none.
    ///
    /// # Errors
    /// [`Error::Input`] if the last [`PATIENCE`] steps, or all of the run, had none.
    pub(super) fn feel(
        &mut self,
        gradient_norm: f64,
        loss: f64,
        number: u64,
        total: u64,
        progress: &Progress,
    ) -> Result<()> {
        let is_dead = gradient_norm == 0.0 && loss > 0.0;
        self.without = if is_dead { self.without + 1 } else { 0 };
        let step = number + 1;
        if self.without == PATIENCE || is_dead && self.without == total {
            let detail = format!("the gradient is 0 everywhere from step {} to {step}", step + 1 - self.without);
            let detail = format!("{detail}, and the loss stays at {loss:.4}: nothing is learned");
            return Err(Error::input("training", detail).with_hint(hint(self.without == step)));
        }
        if self.without == 1 {
            progress.note(format_args!(
                "step {step}: the gradient is 0 everywhere, at a loss of {loss:.4}: nothing is learned"
            ));
        }
        Ok(())
    }
}

/// The way out of a run that was dead from its first step, or died on its way.
fn hint(from_the_first: bool) -> &'static str {
    match from_the_first {
        true => {
            "what is trained has no influence on the loss: --lora-alpha is 0, or weights of the model or of --init-adapter are"
        }
        false => {
            "a step was too large: a lower --learning-rate or --max-grad-norm 1, in a new --out, may not come to this"
        }
    }
}
