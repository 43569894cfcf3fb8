//! The three products of a linear layer, each one call of the shared multiplication.

use super::OP;
use crate::autograd::Tensor;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::gemm::{Matrix, product, with_last};
use crate::shape::Shape;

/// `y = x · weightᵀ`, `[.., N]`, in `dtype`.
pub fn forward(x: &Tensor, weight: &Tensor, dtype: DType) -> Result<Tensor> {
    let shape = with_last(OP, x.shape(), weight.shape().rows())?;
    product(OP, shape, dtype, &[[Matrix::new(OP, x)?, Matrix::new(OP, weight)?.t()]])
}

/// `dx = dy · weight`, of `shape`.
pub fn backward_x(dy: &Tensor, weight: &Tensor, shape: Shape) -> Result<Tensor> {
    product(OP, shape, dy.dtype(), &[[Matrix::new(OP, dy)?, Matrix::new(OP, weight)?]])
}

/// `dw = dyᵀ · x`, `[N, K]`.
pub fn backward_weight(dy: &Tensor, x: &Tensor, dtype: DType) -> Result<Tensor> {
    let shape = [dy.shape().last(), x.shape().last()];
    product(OP, shape, dtype, &[[Matrix::new(OP, dy)?.t(), Matrix::new(OP, x)?]])
}
