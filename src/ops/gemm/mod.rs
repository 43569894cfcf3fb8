//! The CPU's only matrix multiplication: f32 and bf16 operands where they lie, sums in f32, f32 or bf16 results.

use std::borrow::Cow;

use half::bf16;
use rayon::prelude::*;

use crate::autograd::Tensor;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::shape::Shape;

/// A matrix where it lies in memory: row-major, perhaps read transposed.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    elements: Elements<'a>,
    rows: usize,
    columns: usize,
    transposed: bool,
}

/// The elements of a [`Matrix`].
#[derive(Clone, Copy, Debug)]
enum Elements<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Matrix<'a> {
    /// `tensor` as `[rows, last dimension]`.
    pub fn new(op: &'static str, tensor: &'a Tensor) -> Result<Self> {
        let elements = match tensor.dtype() {
            DType::F32 => Elements::F32(tensor.slice()?),
            DType::Bf16 => Elements::Bf16(tensor.slice()?),
            other => return Err(Error::dtype(op, format!("takes f32 or bf16, got {other}"))),
        };
        Ok(Self { elements, rows: tensor.shape().rows(), columns: tensor.shape().last(), transposed: false })
    }

    /// Rows of `columns` f32.
    pub fn from_f32(elements: &'a [f32], columns: usize) -> Self {
        let rows = elements.len().checked_div(columns).unwrap_or(0);
        Self { elements: Elements::F32(elements), rows, columns, transposed: false }
    }

    /// Its transpose, without moving anything.
    pub fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    fn to_f32(self) -> Cow<'a, [f32]> {
        match self.elements {
            Elements::F32(elements) => Cow::Borrowed(elements),
            Elements::Bf16(elements) => elements.iter().map(|v| Float::to_f32(*v)).collect(),
        }
    }

    /// Distance between rows, between columns.
    fn strides(self) -> (usize, usize) {
        if self.transposed { (1, self.rows) } else { (self.columns, 1) }
    }
}

/// A tensor of `shape` and `dtype`: the sum over `terms` of `a · b`, rounded once.
pub fn product(op: &'static str, shape: impl Into<Shape>, dtype: DType, terms: &[[Matrix<'_>; 2]]) -> Result<Tensor> {
    let mut out = Tensor::uninit(&Device::Cpu, dtype, shape)?;
    let n = out.shape().last();
    dispatch_float!(op, dtype, T => {
        gemm(out.slice_mut::<T>()?, n, terms);
        Ok(out)
    })
}

/// `shape` with `last` as its innermost size.
pub fn with_last(op: &'static str, shape: Shape, last: usize) -> Result<Shape> {
    let mut dims = shape.dims().to_vec();
    *dims.last_mut().ok_or_else(|| Error::shape(op, "x must be [.., K], got a scalar"))? = last;
    Shape::try_from(dims.as_slice())
}

/// `out = sum over terms of a · b`, each `a` `[m, k]`, `b` `[k, n]`, rounded once; `out` `[m, n]` row-major.
pub fn gemm<T: Float>(out: &mut [T], n: usize, terms: &[[Matrix<'_>; 2]]) {
    let mut sum = vec![0.0; out.len()];
    gemm_add(&mut sum, n, terms);
    for (out, sum) in out.iter_mut().zip(sum) {
        *out = T::from_f32(sum);
    }
}

/// `out += sum over terms of a · b`, each `a` `[m, k]`, `b` `[k, n]`; `out` `[m, n]` row-major.
pub fn gemm_add(out: &mut [f32], n: usize, terms: &[[Matrix<'_>; 2]]) {
    const ROWS: usize = 128;
    for [a, b] in terms {
        let (a32, b32) = (a.to_f32(), b.to_f32());
        assert!((a.rows * n, a.columns, b.columns) == (out.len(), b.rows, n), "gemm: operands do not fit");
        out.par_chunks_mut((ROWS * n).max(1)).enumerate().for_each(|(i, out)| {
            let (a_row, a_column) = a.strides();
            let (b_row, b_column) = b.strides();
            block(
                out,
                n,
                a.columns,
                (&a32[(i * ROWS * a_row).min(a32.len())..], a_row, a_column),
                (&b32, b_row, b_column),
            );
        });
    }
}

#[expect(unsafe_code, reason = "the crate takes raw pointers")]
fn block(out: &mut [f32], n: usize, k: usize, a: (&[f32], usize, usize), b: (&[f32], usize, usize)) {
    let m = out.len() / n;
    if k == 0 {
        return;
    }
    let [n_, a_row, a_column, b_row, b_column] = [n, a.1, a.2, b.1, b.2].map(|stride| stride as isize);
    // SAFETY: `gemm_add` checked that the operands are [m, k], [k, n] and [m, n] under these strides.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n_,
            true,
            a.0.as_ptr(),
            a_column,
            a_row,
            b.0.as_ptr(),
            b_column,
            b_row,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
