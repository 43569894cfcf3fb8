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
    multiply(x, weight, x.dtype())
}

/// [`matmul`] with a result in f32: sums that are not rounded, for logits, of which the nearest decide.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_f32(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    multiply(x, weight, DType::F32)
}

fn multiply(x: &Tensor, weight: &Tensor, dtype: DType) -> Result<Tensor> {
    refuse_misfits(x, weight)?;
    let y = on_device!(x, forward(x, weight, dtype))?;
    let saved_weight = x.is_tracked().then(|| weight.detach());
    let saved_x = weight.is_tracked().then(|| x.detach());
    let (x_shape, x_dtype, weight_dtype) = (x.shape(), x.dtype(), weight.dtype());
    let [y] = record([x, weight], [y], move |[dy]| {
        let Some(dy) = dy else { return Ok([None, None]) };
        let dy = cast(&dy, x_dtype)?;
        let dx = saved_weight.map(|weight| on_device!(dy, backward_x(&dy, &weight, x_shape))).transpose()?;
        let dw = saved_x.map(|x| on_device!(dy, backward_weight(&dy, &x, weight_dtype))).transpose()?;
        Ok([dx, dw])
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
