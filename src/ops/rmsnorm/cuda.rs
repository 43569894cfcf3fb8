//! A block a row; the gradient of the weight in fixed slices of rows, which are added in order.

use crate::autograd::Tensor;
use crate::device::{Arg, Kernels, Launch};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels;
use crate::ops::int8_matmul::MadeRows;
use crate::ops::pack::pack;

pub const KERNELS: Kernels = kernels!("rmsnorm");

/// `y` like `x`, `rstd` `[rows]`; the rows of `y` for int8 weights of that `threshold`.
pub fn forward(
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    threshold: Option<f32>,
) -> Result<(Tensor, Tensor, Option<MadeRows>)> {
    let mut y = Tensor::uninit(&x.device(), x.dtype(), x.shape())?;
    let mut rstd = Tensor::uninit(&x.device(), DType::F32, [x.shape().rows()])?;
    let (h, eps) = (Arg::size(x.shape().last())?, Arg::F32(eps));
    let (outputs, inputs) = ([y.as_output()?, rstd.as_output()?], [x.as_input()?, weight.as_input()?, h, eps]);
    let rows = MadeRows::beside(x, threshold, |rows| match rows {
        None => launch_rows("fwd", x, &[&outputs[..], &inputs].concat()),
        Some((to, scalars)) => launch_rows("fwd_int8", x, &[&outputs[..], &to, &inputs, &scalars].concat()),
    })?;
    Ok((y, rstd, rows))
}

/// `y` and its rows for int8 weights of that `threshold`, `sum = x + residual` like `x`, `rstd` `[rows]`.
pub fn residual_forward(
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    eps: f32,
    threshold: Option<f32>,
) -> Result<((Tensor, Option<MadeRows>), Tensor, Tensor)> {
    let [mut y, mut sum] =
        [Tensor::uninit(&x.device(), x.dtype(), x.shape())?, Tensor::uninit(&x.device(), x.dtype(), x.shape())?];
    let mut rstd = Tensor::uninit(&x.device(), DType::F32, [x.shape().rows()])?;
    let outputs = [y.as_output()?, sum.as_output()?, rstd.as_output()?];
    let inputs = [x.as_input()?, residual.as_input()?, weight.as_input()?];
    let scalars = [Arg::size(x.shape().last())?, Arg::F32(eps)];
    let rows = MadeRows::beside(x, threshold, |rows| match rows {
        None => launch_rows("residual_fwd", x, &[&outputs[..], &inputs, &scalars].concat()),
        Some((to, more)) => {
            launch_rows("residual_fwd_int8", x, &[&outputs[..], &to, &inputs, &scalars, &more].concat())
        }
    })?;
    Ok(((y, rows), sum, rstd))
}

/// `dx = rstd * (dy * w - x * rstd² * mean(dy * w * x))`, and `dsum` where it is given.
pub fn backward_x(dy: &Tensor, dsum: Option<&Tensor>, x: &Tensor, weight: &Tensor, rstd: &Tensor) -> Result<Tensor> {
    let mut dx = Tensor::uninit(&x.device(), x.dtype(), x.shape())?;
    let mut args = vec![dx.as_output()?, dy.as_input()?];
    args.extend(dsum.map(Tensor::as_input).transpose()?);
    args.extend([x.as_input()?, weight.as_input()?, rstd.as_input()?, Arg::size(x.shape().last())?]);
    launch_rows(if dsum.is_some() { "residual_bwd_x" } else { "bwd_x" }, x, &args)?;
    Ok(dx)
}

/// `dw = sum over rows of dy * x * rstd`.
pub fn backward_weight(dy: &Tensor, x: &Tensor, rstd: &Tensor) -> Result<Tensor> {
    let (device, dtype, rows, h) = (x.device(), x.dtype(), x.shape().rows(), x.shape().last());
    let rows_per_slice = rows.div_ceil(MOST_SLICES).max(LEAST_ROWS);
    let slices = rows.div_ceil(rows_per_slice);
    let mut partial = Tensor::uninit(&device, DType::F32, [slices, h])?;
    let sizes = [Arg::size(rows)?, Arg::size(h)?, Arg::size(rows_per_slice)?];
    let args = [partial.as_output()?, dy.as_input()?, x.as_input()?, rstd.as_input()?, sizes[0], sizes[1], sizes[2]];
    let grid = [h.div_ceil(32 * pack(h, dtype)), slices, 1];
    let kernel = format!("rmsnorm_bwd_weight_{dtype}");
    KERNELS.launch(&device, &Launch { kernel: &kernel, grid, block: 256, shared: 0, args: &args })?;

    let mut dw = Tensor::uninit(&device, dtype, [h])?;
    let args = [dw.as_output()?, partial.as_input()?, Arg::size(slices)?, Arg::size(h)?];
    KERNELS.launch_flat(&device, &format!("rmsnorm_bwd_weight_sum_{dtype}"), h, 1, &args)?;
    Ok(dw)
}

/// At most so many partial sums are written and read again, each of at least so many rows.
const MOST_SLICES: usize = 128;
const LEAST_ROWS: usize = 64;

/// A block for each row of `x`, of as many threads as hold it in registers, 16 elements each.
fn launch_rows(kernel: &str, x: &Tensor, args: &[Arg]) -> Result<()> {
    let (dtype, rows, h) = (x.dtype(), x.shape().rows(), x.shape().last());
    let held = if pack(h, dtype) == 1 { 1 } else { 16 };
    let block = h.div_ceil(held).next_multiple_of(32).min(1024);
    let kernel = format!("rmsnorm_{kernel}_{dtype}");
    KERNELS.launch(&x.device(), &Launch { kernel: &kernel, grid: [rows, 1, 1], block, shared: 0, args })
}
