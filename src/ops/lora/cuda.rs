//! Rank first, in the dtype of `x`: the adapter rides in its base layer's product as a second term.

use super::{Adapter, OP};
use crate::autograd::Tensor;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::elementwise::cast;
use crate::ops::gemm::cuda::{Matrix, Place, Product, product};
use crate::ops::gemm::with_last;
use crate::shape::Shape;

pub use crate::ops::gemm::cuda::DROPOUT_KERNELS as KERNELS;

/// `y = [x | xa] · [weight | b]ᵀ + residual` and `xa = scaling * dropout(x) · aᵀ` `[rows, R]`.
pub fn forward(adapter: &Adapter, x: &Tensor, weight: &Tensor, residual: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    let (device, dtype) = (x.device(), x.dtype());
    let (weight, Adapter { a, b, scaling, dropout }) = (cast(weight, dtype)?, adapter);
    let mut xa = Tensor::uninit(&device, dtype, [x.shape().rows(), a.shape().rows()])?;
    let dropout = dropout.map(|key| (Place::A, key));
    let terms = [[matrix(x)?, matrix(a)?.t()]];
    Product { alpha: *scaling, dropout, ..Product::new(&terms) }.run(&device, Matrix::output(OP, &mut xa)?)?;
    let terms = [[matrix(x)?, matrix(&weight)?.t()], [matrix(&xa)?, matrix(b)?.t()]];
    let mut y = Tensor::uninit(&device, dtype, with_last(OP, x.shape(), weight.shape().rows())?)?;
    let addend = residual.map(matrix).transpose()?;
    Product { addend, ..Product::new(&terms) }.run(&device, Matrix::output(OP, &mut y)?)?;
    Ok((y, xa))
}

/// `dxa = scaling * dy · b` `[rows, R]`, the gradient of `dropout(x) · aᵀ`.
pub fn backward_xa(adapter: &Adapter, dy: &Tensor) -> Result<Tensor> {
    let shape = [dy.shape().rows(), adapter.b.shape().last()];
    product(OP, &dy.device(), shape, dy.dtype(), adapter.scaling, &[[matrix(dy)?, matrix(&adapter.b)?]])
}

/// `dx = dropout(dxa · a) + dy · weight`.
pub fn backward_x(adapter: &Adapter, dy: &Tensor, dxa: &Tensor, weight: &Tensor, shape: Shape) -> Result<Tensor> {
    let (device, dtype) = (dy.device(), dy.dtype());
    let weight = cast(weight, dtype)?;
    let terms = [[matrix(dy)?, matrix(&weight)?], [matrix(dxa)?, matrix(&adapter.a)?]];
    let mut dx = Tensor::uninit(&device, dtype, shape)?;
    let dropout = adapter.dropout.map(|key| (Place::Extension, key));
    Product { dropout, ..Product::new(&terms) }.run(&device, Matrix::output(OP, &mut dx)?)?;
    Ok(dx)
}

/// `da = dxaᵀ · dropout(x)`.
pub fn backward_a(adapter: &Adapter, dxa: &Tensor, x: &Tensor) -> Result<Tensor> {
    let mut da = Tensor::uninit(&x.device(), DType::F32, adapter.a.shape())?;
    let (terms, dropout) = ([[matrix(dxa)?.t(), matrix(x)?]], adapter.dropout.map(|key| (Place::B, key)));
    Product { dropout, ..Product::new(&terms) }.run(&x.device(), Matrix::output(OP, &mut da)?)?;
    Ok(da)
}

/// `db = dyᵀ · xa`: the scaling is in `xa`.
pub fn backward_b(dy: &Tensor, xa: &Tensor) -> Result<Tensor> {
    let shape = [dy.shape().last(), xa.shape().last()];
    product(OP, &dy.device(), shape, DType::F32, 1.0, &[[matrix(dy)?.t(), matrix(xa)?]])
}

/// `dw = dyᵀ · x`, for a base layer that is trained too.
pub fn backward_weight(dy: &Tensor, x: &Tensor, dtype: DType) -> Result<Tensor> {
    let shape = [dy.shape().last(), x.shape().last()];
    product(OP, &dy.device(), shape, dtype, 1.0, &[[matrix(dy)?.t(), matrix(x)?]])
}

fn matrix(x: &Tensor) -> Result<Matrix<'_>> {
    Matrix::new(OP, x)
}
