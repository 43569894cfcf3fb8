//! Small ops on single elements, for where no kernel fuses them.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use crate::autograd::{Tensor, record};
use crate::dtype::DType;
use crate::error::Result;

/// `a + b`.
///
/// - Shapes: `a`, `b` any, both alike → the same
/// - Dtypes: f32, bf16, both alike
/// - Gradients: `a`, `b`: `dy` itself; saves nothing
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) if the shapes differ;
/// [`Error::DType`](crate::error::Error::DType) if the dtypes do.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check::shape("add", "b", b, a.shape())?;
    check::alike("add", "b", b, a)?;
    check::float("add", a.dtype())?;
    let [sum] = record([a, b], [on_device!(a, add(a, b))?], |[dy]| Ok([dy.clone(), dy]));
    Ok(sum)
}

/// `x` in `dtype`.
///
/// - Shapes: `x` any → the same; `x` itself where it is of that dtype
/// - Dtypes: f32, bf16, each to each; rounded to nearest, ties to even
/// - Gradients: `x`: `dy` in the dtype of `x`; saves nothing
///
/// # Errors
/// [`Error::DType`](crate::error::Error::DType) if one dtype is not a float.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let from = x.dtype();
    if from == dtype {
        return Ok(x.clone());
    }
    check::float("cast", from)?;
    check::float("cast", dtype)?;
    let y = on_device!(x, cast(x, dtype))?;
    let [y] = record([x], [y], move |[dy]| Ok([dy.map(|dy| on_device!(dy, cast(&dy, from))).transpose()?]));
    Ok(y)
}
