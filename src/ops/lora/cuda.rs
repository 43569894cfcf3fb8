//! Rank first, in the dtype of `x`: the adapter rides in its base layer's product as a second term.

use super::{Adapter, OP};
use crate::autograd::Tensor;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::dropout::dropout;
use crate::ops::elementwise::cast;
use crate::ops::gemm::cuda::{Matrix, gemm, product};
use crate::ops::gemm::with_last;
use crate::shape::Shape;

/// `y = [x | xa] · [weight | b]ᵀ + residual` and `xa = scaling * dropout(x) · aᵀ` `[rows, R]`.
pub fn forward(adapter: &Adapter, x: &Tensor, weight: &Tensor, residual: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    let (device, dtype) = (x.device(), x.dtype());
    let (weight, Adapter { a, b, .. }) = (cast(weight, dtype)?, adapter);
    let dropped = dropped(adapter, x)?;
    let shape = [x.shape().rows(), a.shape().rows()];
    let xa = product(OP, &device, shape, dtype, adapter.scaling, &[[matrix(&dropped)?, matrix(a)?.t()]])?;
    let terms = [[matrix(x)?, matrix(&weight)?.t()], [matrix(&xa)?, matrix(b)?.t()]];
    let mut y = Tensor::uninit(&device, dtype, with_last(OP, x.shape(), weight.shape().rows())?)?;
    gemm(&device, Matrix::output(OP, &mut y)?, 1.0, &terms, residual.map(matrix).transpose()?)?;
    Ok((y, xa))
}

/// `dxa = scaling * dy · b` `[rows, R]`, the gradient of `dropout(x) · aᵀ`.
pub fn backward_xa(adapter: &Adapter, dy: &Tensor) -> Result<Tensor> {
    let shape = [dy.shape().rows(), adapter.b.shape().last()];
    product(OP, &dy.device(), shape, dy.dtype(), adapter.scaling, &[[matrix(dy)?, matrix(&adapter.b)?]])
}

/// `dx = [dy | dxa] · [weight ; a]`; with dropout the adapter's part goes through the mask first.
pub fn backward_x(adapter: &Adapter, dy: &Tensor, dxa: &Tensor, weight: &Tensor, shape: Shape) -> Result<Tensor> {
    let (device, dtype) = (dy.device(), dy.dtype());
    let weight = cast(weight, dtype)?;
    let (base, low_rank) = ([matrix(dy)?, matrix(&weight)?], [matrix(dxa)?, matrix(&adapter.a)?]);
    let Some(key) = adapter.dropout else { return product(OP, &device, shape, dtype, 1.0, &[base, low_rank]) };
    let mut dx = dropout(&product(OP, &device, shape, dtype, 1.0, &[low_rank])?, key)?;
    let out = Matrix::output(OP, &mut dx)?;
    gemm(&device, out, 1.0, &[base], Some(out))?;
    Ok(dx)
}

/// `da = dxaᵀ · dropout(x)`.
pub fn backward_a(adapter: &Adapter, dxa: &Tensor, x: &Tensor) -> Result<Tensor> {
    let dropped = dropped(adapter, x)?;
    product(OP, &x.device(), adapter.a.shape(), DType::F32, 1.0, &[[matrix(dxa)?.t(), matrix(&dropped)?]])
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

fn dropped(adapter: &Adapter, x: &Tensor) -> Result<Tensor> {
    adapter.dropout.map_or_else(|| Ok(x.clone()), |key| dropout(x, key))
}

fn matrix(x: &Tensor) -> Result<Matrix<'_>> {
    Matrix::new(OP, x)
}
