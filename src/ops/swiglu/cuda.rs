//! Flat arrays, 16 bytes of each a thread.

use crate::autograd::Tensor;
use crate::device::{Arg, Kernels};
use crate::error::Result;
use crate::kernels;

pub const KERNELS: Kernels = kernels!("swiglu");

/// `gate * sigmoid(gate) * up`.
pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let mut y = Tensor::uninit(&gate.device(), gate.dtype(), gate.shape())?;
    let args = [y.as_output()?, gate.as_input()?, up.as_input()?];
    launch("fwd", gate, &args)?;
    Ok(y)
}

/// `dgate = dy * up * s * (1 + gate * (1 - s))`, `dup = dy * gate * s`, where `s = sigmoid(gate)`.
pub fn backward(dy: Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    let mut dgate = Tensor::uninit(&gate.device(), gate.dtype(), gate.shape())?;
    let mut dup = dy;
    let dy = dup.as_output()?; // dup takes its place
    launch("bwd", gate, &[dgate.as_output()?, dy, dy, gate.as_input()?, up.as_input()?])?;
    Ok((dgate, dup))
}

fn launch(kernel: &str, like: &Tensor, args: &[Arg]) -> Result<()> {
    let (dtype, n) = (like.dtype(), like.shape().numel());
    let args = [args, &[Arg::I64(n as i64)]].concat();
    KERNELS.launch_flat(&like.device(), &format!("swiglu_{kernel}_{dtype}"), n, 16 / dtype.size(), &args)
}
