//! Flat arrays, 16 bytes of each a thread.

use crate::autograd::Tensor;
use crate::device::{Arg, Kernels, Launch};
use crate::error::Result;
use crate::kernels;
use crate::ops::int8_matmul::MadeRows;

pub const KERNELS: Kernels = kernels!("swiglu");

/// `gate * sigmoid(gate) * up`, and its rows for int8 weights of that `threshold`, a block a row.
pub fn forward(gate: &Tensor, up: &Tensor, threshold: Option<f32>) -> Result<(Tensor, Option<MadeRows>)> {
    let mut y = Tensor::uninit(&gate.device(), gate.dtype(), gate.shape())?;
    let (to_y, inputs) = (y.as_output()?, [gate.as_input()?, up.as_input()?]);
    let rows = MadeRows::beside(gate, threshold, |rows| {
        let Some((to, scalars)) = rows else { return launch("fwd", gate, &[&[to_y][..], &inputs].concat()) };
        let (dtype, k) = (gate.dtype(), gate.shape().last());
        let args = [&[to_y][..], &to, &inputs, &[Arg::size(k)?], &scalars].concat();
        let (kernel, grid) = (format!("swiglu_fwd_int8_{dtype}"), [gate.shape().rows(), 1, 1]);
        let block = k.div_ceil(16).next_multiple_of(32);
        KERNELS.launch(&gate.device(), &Launch { kernel: &kernel, grid, block, shared: 0, args: &args })
    })?;
    Ok((y, rows))
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
