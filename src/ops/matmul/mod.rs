//! Matrix multiplication by a weight.

mod cpu;
mod cuda;

pub(crate) use cuda::{KERNELS, SplitK};

use super::check;
use super::elementwise::cast;
use crate::autograd::{Tensor, record};
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "matmul";

/// `x · weightᵀ`: a linear layer without bias.
///
/// - Shapes: `x` `[.., K]`, `weight` `[N, K]` → `[.., N]`
/// - Dtypes: f32 or bf16 each, the result as `x`; sums in f32, rounded once
/// - Gradients: `x`, `weight`, each like its tensor; saves `weight` where `x` is tracked and `x` where `weight` is
///
/// # Errors
/// [`Error::Shape`] if `weight` is not `[N, K]`; [`Error::DType`] if one is not a float.
pub fn matmul(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    multiply(x, weight, x.dtype(), None)
}

/// [`matmul`] with a result in f32: sums that are not rounded, for logits, of which the nearest decide.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_f32(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    multiply(x, weight, DType::F32, None)
}

/// [`matmul`] plus `residual` `[.., N]` like it, whose gradient is that of the sum. A GPU adds it before it rounds.
///
/// # Errors
/// As [`matmul`]; [`Error::Shape`] and [`Error::DType`] if `residual` is not like the product.
pub fn matmul_residual(x: &Tensor, weight: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    multiply(x, weight, x.dtype(), residual)
}

fn multiply(x: &Tensor, weight: &Tensor, dtype: DType, residual: Option<&Tensor>) -> Result<Tensor> {
    refuse_misfits(x, weight)?;
    check::residual(OP, residual, x, weight)?;
    let y = on_device!(x, forward(x, weight, dtype, residual))?;
    let saved_weight = x.is_tracked().then(|| weight.detach());
    let saved_x = weight.is_tracked().then(|| x.detach());
    let (x_shape, x_dtype, weight_dtype) = (x.shape(), x.dtype(), weight.dtype());
    let none = y.detach();
    let [y] = record([x, weight, residual.unwrap_or(&none)], [y], move |[dy]| {
        let Some(dy) = dy else { return Ok([None, None, None]) };
        let dy = cast(&dy, x_dtype)?;
        let dx = saved_weight.map(|weight| on_device!(dy, backward_x(&dy, &weight, x_shape))).transpose()?;
        let dw = saved_x.map(|x| on_device!(dy, backward_weight(&dy, &x, weight_dtype))).transpose()?;
        Ok([dx, dw, Some(dy)])
    });
    Ok(y)
}

fn refuse_misfits(x: &Tensor, weight: &Tensor) -> Result<()> {
    let k = x.shape().last();
    if !matches!(weight.dims(), [_, columns] if *columns == k) {
        return Err(Error::shape(OP, format!("weight must be [N, {k}], got {}", weight.shape())));
    }
    check::same_device(OP, "weight", weight, x)
}
