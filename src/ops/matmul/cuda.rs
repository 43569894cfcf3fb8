//! The three products of a linear layer, each one call of the shared multiplication, of operands in the dtype of `x`.

use super::OP;
use crate::autograd::Tensor;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::elementwise::cast;
use crate::ops::gemm::cuda::{Matrix, product};
use crate::ops::gemm::with_last;
use crate::shape::Shape;

pub use crate::ops::gemm::cuda::KERNELS;
pub use crate::ops::gemm::cuda_tiling::SplitK;

/// `y = x · weightᵀ`, `[.., N]`, in `dtype`.
pub fn forward(x: &Tensor, weight: &Tensor, dtype: DType) -> Result<Tensor> {
    let (shape, weight) = (with_last(OP, x.shape(), weight.shape().rows())?, cast(weight, x.dtype())?);
    product(OP, &x.device(), shape, dtype, 1.0, &[[Matrix::new(OP, x)?, Matrix::new(OP, &weight)?.t()]])
}

/// `dx = dy · weight`, of `shape`.
pub fn backward_x(dy: &Tensor, weight: &Tensor, shape: Shape) -> Result<Tensor> {
    let weight = cast(weight, dy.dtype())?;
    product(OP, &dy.device(), shape, dy.dtype(), 1.0, &[[Matrix::new(OP, dy)?, Matrix::new(OP, &weight)?]])
}

/// `dw = dyᵀ · x`, `[N, K]`.
pub fn backward_weight(dy: &Tensor, x: &Tensor, dtype: DType) -> Result<Tensor> {
    let shape = [dy.shape().last(), x.shape().last()];
    product(OP, &dy.device(), shape, dtype, 1.0, &[[Matrix::new(OP, dy)?.t(), Matrix::new(OP, x)?]])
}
