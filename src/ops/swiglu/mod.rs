//! The gated activation of Llama's feed-forward layer.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use super::int8_matmul::MadeRows;
use crate::autograd::{Tensor, record};
use crate::device::Device;
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
    swiglu_int8(gate, up, None).map(|(y, _)| y)
}

/// [`swiglu`], and on a GPU the rows of its result for int8 weights of that `threshold`, if there is one, in the same pass.
///
/// # Errors
/// As [`swiglu`].
pub fn swiglu_int8(gate: &Tensor, up: &Tensor, threshold: Option<f32>) -> Result<(Tensor, Option<MadeRows>)> {
    check::shape(OP, "up", up, gate.shape())?;
    check::alike(OP, "up", up, gate)?;
    check::float(OP, gate.dtype())?;
    let (y, rows) = match gate.device() {
        Device::Cpu => (cpu::forward(gate, up)?, None),
        Device::Cuda(_) => cuda::forward(gate, up, threshold)?,
    };
    let (saved_gate, saved_up) = (gate.detach(), up.detach());
    let [y] = record([gate, up], [y], move |[dy]| {
        let Some(dy) = dy else { return Ok([None, None]) };
        let (dgate, dup) = on_device!(saved_gate, backward(dy, &saved_gate, &saved_up))?;
        Ok([Some(dgate), Some(dup)])
    });
    Ok((y, rows))
}
