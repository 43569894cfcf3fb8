//! Rank first: every product has one side of R columns or is the base layer's own.

use super::OP;
use crate::autograd::Tensor;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::dropout::{Dropout, dropout};
use crate::ops::elementwise::cast;
use crate::ops::gemm::{Matrix, add_product, product, with_last};
use crate::shape::Shape;

/// The adapter's own part of the op.
pub struct Adapter {
    /// `[R, K]`.
    pub a: Tensor,
    /// `[N, R]`.
    pub b: Tensor,
    /// The factor of the adapter's output.
    pub scaling: f32,
    /// What is dropped of the adapter's input.
    pub dropout: Option<Dropout>,
}

impl Adapter {
    /// `y = x · weightᵀ + xa · bᵀ` and `xa = scaling * dropout(x) · aᵀ` `[rows, R]`.
    pub fn forward(&self, x: &Tensor, weight: &Tensor) -> Result<(Tensor, Tensor)> {
        let dropped = self.dropped(x)?;
        let xa =
            product(OP, [x.shape().rows(), self.rank()], DType::F32, &[[matrix(&dropped)?, matrix(&self.a)?.t()]])?;
        let xa = self.scaled(xa)?;
        let terms = [[matrix(x)?, matrix(weight)?.t()], [matrix(&xa)?, matrix(&self.b)?.t()]];
        let y = product(OP, with_last(OP, x.shape(), weight.shape().rows())?, x.dtype(), &terms)?;
        Ok((y, xa))
    }

    /// `dxa = scaling * dy · b` `[rows, R]`, the gradient of `dropout(x) · aᵀ`.
    pub fn backward_xa(&self, dy: &Tensor) -> Result<Tensor> {
        let dxa = product(OP, [dy.shape().rows(), self.rank()], DType::F32, &[[matrix(dy)?, matrix(&self.b)?]])?;
        self.scaled(dxa)
    }

    /// `dx = dy · weight + dropout(dxa · a)`.
    pub fn backward_x(&self, dy: &Tensor, dxa: &Tensor, weight: &Tensor, shape: Shape) -> Result<Tensor> {
        let base = [matrix(dy)?, matrix(weight)?];
        let adapter = [matrix(dxa)?, matrix(&self.a)?];
        let Some(key) = self.dropout else { return product(OP, shape, dy.dtype(), &[base, adapter]) };
        let mut dx = dropout(&product(OP, shape, DType::F32, &[adapter])?, key)?;
        add_product(dx.slice_mut()?, shape.last(), &[base])?;
        cast(&dx, dy.dtype())
    }

    /// `da = dxaᵀ · dropout(x)`.
    pub fn backward_a(&self, dxa: &Tensor, x: &Tensor) -> Result<Tensor> {
        product(OP, self.a.shape(), DType::F32, &[[matrix(dxa)?.t(), matrix(&self.dropped(x)?)?]])
    }

    fn rank(&self) -> usize {
        self.a.shape().rows()
    }

    /// The adapter's input; in f32 where something is dropped, so that the mask's scale is not rounded to bf16.
    fn dropped(&self, x: &Tensor) -> Result<Tensor> {
        self.dropout.map_or_else(|| Ok(x.clone()), |key| dropout(&cast(x, DType::F32)?, key))
    }

    fn scaled(&self, mut x: Tensor) -> Result<Tensor> {
        x.slice_mut::<f32>()?.iter_mut().for_each(|x| *x *= self.scaling);
        Ok(x)
    }
}

/// `db = dyᵀ · xa`: the scaling is in `xa`.
pub fn backward_b(dy: &Tensor, xa: &Tensor) -> Result<Tensor> {
    product(OP, [dy.shape().last(), xa.shape().last()], DType::F32, &[[matrix(dy)?.t(), matrix(xa)?]])
}

/// `dw = dyᵀ · x`, for a base layer that is trained too.
pub fn backward_weight(dy: &Tensor, x: &Tensor, dtype: DType) -> Result<Tensor> {
    product(OP, [dy.shape().last(), x.shape().last()], dtype, &[[matrix(dy)?.t(), matrix(x)?]])
}

fn matrix(x: &Tensor) -> Result<Matrix<'_>> {
    Matrix::new(OP, x)
}
