//! Dropout whose mask is a pure function of its key: nothing is stored, and a resumed or re-sharded run draws the same.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use crate::autograd::{Tensor, record};
use crate::error::{Error, Result};

const OP: &str = "dropout";

/// What identifies the decisions of one dropout. Equal keys and element indices give equal decisions, on any thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability that an element becomes zero, in `[0, 1)`.
    pub p: f32,
    /// The seed of the run.
    pub seed: u64,
    /// The optimizer step, below 2³².
    pub step: u64,
    /// The place in the model: another number for every dropout of one step.
    pub site: u32,
    /// The index of the tensor's first element in the unsharded batch.
    pub first_element: u64,
}

impl Dropout {
    /// Itself where it drops anything.
    ///
    /// # Errors
    /// [`Error::Input`] if `p` or `step` is out of its range.
    pub(super) fn active(self) -> Result<Option<Self>> {
        if !(0.0..1.0).contains(&self.p) {
            return Err(Error::input(OP, format!("p must be in [0, 1), got {}", self.p)));
        }
        if self.step > u64::from(u32::MAX) {
            return Err(Error::input(OP, format!("step must be below 2^32, got {}", self.step)));
        }
        Ok((self.p > 0.0).then_some(self))
    }
}

/// Zeroes each element of `x` with probability `p` and divides the others by `1 - p`.
///
/// - Shapes: `x` any → the same; `p = 0` returns `x` itself
/// - Dtypes: f32, bf16
/// - Gradients: `x`; saves nothing, the backward pass draws the same mask again
/// - Source: Srivastava et al. 2014, <https://jmlr.org/papers/v15/srivastava14a.html>. Element `e` is kept where word
///   `e % 4` of Philox 4x32-10 of the counter `e / 4` (two words), `step`, `site` under the key `seed` is at least `2³² p`
///
/// # Errors
/// [`Error::Input`] if `p` or `step` is out of its range; [`Error::DType`] if `x` is not a float tensor.
pub fn dropout(x: &Tensor, key: Dropout) -> Result<Tensor> {
    let Some(key) = key.active()? else { return Ok(x.clone()) };
    check::float(OP, x.dtype())?;
    let y = on_device!(x, apply(x, key))?;
    let [y] = record([x], [y], move |[dy]| Ok([dy.map(|dy| on_device!(dy, apply(&dy, key))).transpose()?]));
    Ok(y)
}

/// What kept elements are multiplied by.
fn scale(p: f32) -> f32 {
    (1.0 / (1.0 - f64::from(p))) as f32
}

/// The least random word that keeps its element.
fn threshold(p: f32) -> u32 {
    (f64::from(p) * 2f64.powi(32)).ceil() as u32
}
