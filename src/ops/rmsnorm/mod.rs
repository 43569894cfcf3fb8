//! Root-mean-square normalisation.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use super::int8_matmul::MadeRows;
use crate::autograd::{Tensor, record};
use crate::device::Device;
use crate::error::{Error, Result};

const OP: &str = "rmsnorm";

/// Scales each row of `x` by the inverse of its root mean square, then by `weight`.
///
/// - Shapes: `x` `[.., H]`, `weight` `[H]` → `[.., H]`
/// - Dtypes: f32, bf16, both alike; sums in f32
/// - Gradients: `x`, `weight`; saves `x`, `weight`, and `rstd` `[rows]` in f32
/// - Source: Zhang & Sennrich 2019, <https://arxiv.org/abs/1910.07467>
///
/// # Errors
/// [`Error::Shape`] if `weight` is not `[H]` or H is 0;
/// [`Error::DType`] if the dtypes differ.
pub fn rmsnorm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    rmsnorm_int8(x, weight, eps, None).map(|(y, _)| y)
}

/// [`rmsnorm`], and on a GPU the rows of its result for int8 weights of that `threshold`, if there is one, in the same pass.
///
/// # Errors
/// As [`rmsnorm`].
pub fn rmsnorm_int8(
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    threshold: Option<f32>,
) -> Result<(Tensor, Option<MadeRows>)> {
    refuse_misfits(x, weight)?;
    let (y, rstd, rows) = match x.device() {
        Device::Cpu => cpu::forward(x, weight, eps).map(|(y, rstd)| (y, rstd, None))?,
        Device::Cuda(_) => cuda::forward(x, weight, eps, threshold)?,
    };
    let (saved_x, saved_weight) = (x.detach(), weight.detach());
    let (want_dx, want_dw) = (x.is_tracked(), weight.is_tracked());
    let [y] = record([x, weight], [y], move |[dy]| {
        let Some(dy) = dy else { return Ok([None, None]) };
        let dx = want_dx.then(|| on_device!(dy, backward_x(&dy, None, &saved_x, &saved_weight, &rstd))).transpose()?;
        let dw = want_dw.then(|| on_device!(dy, backward_weight(&dy, &saved_x, &rstd))).transpose()?;
        Ok([dx, dw])
    });
    Ok((y, rows))
}

/// [`rmsnorm`] of `x + residual`, together with that sum.
///
/// - Shapes: `x`, `residual` `[.., H]`, `weight` `[H]` → `y`, `sum` `[.., H]`
/// - Dtypes: f32, bf16, all alike; the sum is rounded to the dtype before it is normalised
/// - Gradients: `x`, `residual` (the same), `weight`; saves `sum`, `weight`, and `rstd` `[rows]` in f32
///
/// # Errors
/// As [`rmsnorm`]; also if `residual` is not like `x`.
pub fn rmsnorm_residual(x: &Tensor, residual: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
    rmsnorm_residual_int8(x, residual, weight, eps, None).map(|(y, sum, _)| (y, sum))
}

/// [`rmsnorm_residual`], and on a GPU the rows of `y` for int8 weights of that `threshold`, if there is one, in the same
/// pass.
///
/// # Errors
/// As [`rmsnorm_residual`].
pub fn rmsnorm_residual_int8(
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    eps: f32,
    threshold: Option<f32>,
) -> Result<(Tensor, Tensor, Option<MadeRows>)> {
    refuse_misfits(x, weight)?;
    check::shape(OP, "residual", residual, x.shape())?;
    check::alike(OP, "residual", residual, x)?;
    let ((y, rows), sum, rstd) = match x.device() {
        Device::Cpu => cpu::residual_forward(x, residual, weight, eps).map(|(y, sum, rstd)| ((y, None), sum, rstd))?,
        Device::Cuda(_) => cuda::residual_forward(x, residual, weight, eps, threshold)?,
    };
    let (saved_sum, saved_weight) = (sum.clone(), weight.detach());
    let want_dw = weight.is_tracked();
    let [y, sum] = record([x, residual, weight], [y, sum], move |[dy, dsum]| {
        let Some(dy) = dy else { return Ok([dsum.clone(), dsum, None]) };
        let dx = on_device!(dy, backward_x(&dy, dsum.as_ref(), &saved_sum, &saved_weight, &rstd))?;
        let dw = want_dw.then(|| on_device!(dy, backward_weight(&dy, &saved_sum, &rstd))).transpose()?;
        Ok([Some(dx.clone()), Some(dx), dw])
    });
    Ok((y, sum, rows))
}

fn refuse_misfits(x: &Tensor, weight: &Tensor) -> Result<()> {
    if x.shape().last() == 0 {
        return Err(Error::shape(OP, format!("a row of x must have elements, got {}", x.shape())));
    }
    check::shape(OP, "weight", weight, [x.shape().last()])?;
    check::float(OP, x.dtype())?;
    check::alike(OP, "weight", weight, x)
}
