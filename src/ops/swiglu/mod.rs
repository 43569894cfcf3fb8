//! The gated activation of Llama's feed-forward layer.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use crate::autograd::{Tensor, record};
use crate::error::Result;

const OP: &str = "swiglu";

/// `gate * sigmoid(gate) * up`.
///
/// - Shapes: `gate`, `up` any, both alike → the same
/// - Dtypes: f32, bf16, both alike
/// - Gradients: `gate`, `up`; saves `gate` and `up`; the sigmoid is computed again, and `dup` takes the place of `dy`
/// - Source: Shazeer 2020, <https://arxiv.org/abs/2002.05202>
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the shapes differ;
/// [`Error::DType`](crate::error::Error::DType) if the dtypes do.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    check::shape(OP, "up", up, gate.shape())?;
    check::alike(OP, "up", up, gate)?;
    check::float(OP, gate.dtype())?;
    let y = on_device!(gate, forward(gate, up))?;
    let (saved_gate, saved_up) = (gate.detach(), up.detach());
    let [y] = record([gate, up], [y], move |[dy]| {
        let Some(dy) = dy else { return Ok([None, None]) };
        let (dgate, dup) = on_device!(saved_gate, backward(dy, &saved_gate, &saved_up))?;
        Ok([Some(dgate), Some(dup)])
    });
    Ok(y)
}
