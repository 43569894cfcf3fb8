//! Rank first: every product has one side of R columns or is the base layer's own.

use super::{Adapter, OP};
use crate::autograd::Tensor;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::dropout::dropout;
use crate::ops::elementwise::{add, cast};
use crate::ops::gemm::{Matrix, add_product, product, with_last};
use crate::shape::Shape;

/// `y = x · weightᵀ + xa · bᵀ + residual` and `xa = scaling * dropout(x) · aᵀ` `[rows, R]`.
pub fn forward(adapter: &Adapter, x: &Tensor, weight: &Tensor, residual: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    let Adapter { a, b, .. } = adapter;
    let dropped = dropped(adapter, x)?;
    let xa = product(OP, [x.shape().rows(), a.shape().rows()], DType::F32, &[[matrix(&dropped)?, matrix(a)?.t()]])?;
    let xa = scaled(adapter, xa)?;
    let terms = [[matrix(x)?, matrix(weight)?.t()], [matrix(&xa)?, matrix(b)?.t()]];
    let y = product(OP, with_last(OP, x.shape(), weight.shape().rows())?, x.dtype(), &terms)?;
    match residual {
        Some(residual) => Ok((add(&residual.detach(), &y)?, xa)),
        None => Ok((y, xa)),
    }
}

/// `dxa = scaling * dy · b` `[rows, R]`, the gradient of `dropout(x) · aᵀ`.
pub fn backward_xa(adapter: &Adapter, dy: &Tensor) -> Result<Tensor> {
    let shape = [dy.shape().rows(), adapter.b.shape().last()];
    scaled(adapter, product(OP, shape, DType::F32, &[[matrix(dy)?, matrix(&adapter.b)?]])?)
}

/// `dx = dy · weight + dropout(dxa · a)`.
pub fn backward_x(adapter: &Adapter, dy: &Tensor, dxa: &Tensor, weight: &Tensor, shape: Shape) -> Result<Tensor> {
    let (base, low_rank) = ([matrix(dy)?, matrix(weight)?], [matrix(dxa)?, matrix(&adapter.a)?]);
    let Some(key) = adapter.dropout else { return product(OP, shape, dy.dtype(), &[base, low_rank]) };
    let mut dx = dropout(&product(OP, shape, DType::F32, &[low_rank])?, key)?;
    add_product(dx.slice_mut()?, shape.last(), &[base])?;
    cast(&dx, dy.dtype())
}

/// `da = dxaᵀ · dropout(x)`.
pub fn backward_a(adapter: &Adapter, dxa: &Tensor, x: &Tensor) -> Result<Tensor> {
    product(OP, adapter.a.shape(), DType::F32, &[[matrix(dxa)?.t(), matrix(&dropped(adapter, x)?)?]])
}

/// `db = dyᵀ · xa`: the scaling is in `xa`.
pub fn backward_b(dy: &Tensor, xa: &Tensor) -> Result<Tensor> {
    product(OP, [dy.shape().last(), xa.shape().last()], DType::F32, &[[matrix(dy)?.t(), matrix(xa)?]])
}

/// `dw = dyᵀ · x`, for a base layer that is trained too.
pub fn backward_weight(dy: &Tensor, x: &Tensor, dtype: DType) -> Result<Tensor> {
    product(OP, [dy.shape().last(), x.shape().last()], dtype, &[[matrix(dy)?.t(), matrix(x)?]])
}

/// The adapter's input; in f32 where something is dropped, so that the mask's scale is not rounded to bf16.
fn dropped(adapter: &Adapter, x: &Tensor) -> Result<Tensor> {
    adapter.dropout.map_or_else(|| Ok(x.clone()), |key| dropout(&cast(x, DType::F32)?, key))
}

fn scaled(adapter: &Adapter, mut x: Tensor) -> Result<Tensor> {
    x.slice_mut::<f32>()?.iter_mut().for_each(|x| *x *= adapter.scaling);
    Ok(x)
}

fn matrix(x: &Tensor) -> Result<Matrix<'_>> {
    Matrix::new(OP, x)
}
