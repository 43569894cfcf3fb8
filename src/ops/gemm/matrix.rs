//! Operands.

use std::ops::Range;

use half::bf16;

use crate::autograd::Tensor;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};

/// A matrix where it lies in memory: row after row, or column after column.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(super) elements: Elements<'a>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// The distance between neighbouring rows, or columns.
    pub(super) stride: usize,
    /// Whether the elements lie column after column.
    pub(super) transposed: bool,
}

/// The elements of a [`Matrix`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Elements<'a> {
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
        let (rows, columns) = (tensor.shape().rows(), tensor.shape().last());
        Ok(Self { elements, rows, columns, stride: columns, transposed: false })
    }

    /// Its transpose, without moving anything.
    pub fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// Some of its columns.
    pub(super) fn columns(self, range: Range<usize>) -> Self {
        let skipped = if self.transposed { range.start * self.stride } else { range.start };
        let elements = match self.elements {
            Elements::F32(elements) => Elements::F32(elements.get(skipped..).unwrap_or_default()),
            Elements::Bf16(elements) => Elements::Bf16(elements.get(skipped..).unwrap_or_default()),
        };
        Self { elements, columns: range.len(), ..self }
    }

    /// A copy in f32, row after row, each padded with zeros to a multiple of `lanes`.
    pub(super) fn padded_rows(self, lanes: usize) -> Vec<f32> {
        let width = self.columns.next_multiple_of(lanes);
        let mut rows = vec![0.0; self.rows * width];
        match self.elements {
            Elements::F32(elements) => self.copy_rows(elements, &mut rows, width),
            Elements::Bf16(elements) => self.copy_rows(elements, &mut rows, width),
        }
        rows
    }

    fn copy_rows<T: Float>(self, elements: &[T], rows: &mut [f32], width: usize) {
        let [down, across] = if self.transposed { [1, self.stride] } else { [self.stride, 1] };
        for (i, row) in rows.chunks_mut(width.max(1)).enumerate() {
            for (to, from) in row.iter_mut().take(self.columns).zip(elements[i * down..].iter().step_by(across)) {
                *to = from.to_f32();
            }
        }
    }
}
