//! The three products of a linear layer, each one call of the shared multiplication.

use super::OP;
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::gemm::{Matrix, gemm};
use crate::shape::Shape;

/// `y = x · weightᵀ`, `[.., N]`.
pub fn forward(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    product(Matrix::new(OP, x)?, Matrix::new(OP, weight)?.t(), with_last(x.shape(), weight.shape().rows())?, x.dtype())
}

/// `dx = dy · weight`, of `shape`.
pub fn backward_x(dy: &Tensor, weight: &Tensor, shape: Shape) -> Result<Tensor> {
    product(Matrix::new(OP, dy)?, Matrix::new(OP, weight)?, shape, dy.dtype())
}

/// `dw = dyᵀ · x`, `[N, K]`.
pub fn backward_weight(dy: &Tensor, x: &Tensor, dtype: DType) -> Result<Tensor> {
    product(Matrix::new(OP, dy)?.t(), Matrix::new(OP, x)?, [dy.shape().last(), x.shape().last()].into(), dtype)
}

fn product(a: Matrix<'_>, b: Matrix<'_>, shape: Shape, dtype: DType) -> Result<Tensor> {
    let mut y = Tensor::uninit(&Device::Cpu, dtype, shape)?;
    dispatch_float!(OP, dtype, T => {
        gemm(y.slice_mut::<T>()?, shape.last(), &[[a, b]]);
        Ok(())
    })?;
    Ok(y)
}

/// `shape` with `last` as its innermost size.
fn with_last(shape: Shape, last: usize) -> Result<Shape> {
    let mut dims = shape.dims().to_vec();
    *dims.last_mut().ok_or_else(|| Error::shape(OP, "x must be [.., K], got a scalar"))? = last;
    Shape::try_from(dims.as_slice())
}
