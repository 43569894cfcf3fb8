//! Operands.

use std::ops::Range;

use half::bf16;

use super::codes::Codes;
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
    /// Integers, for products of such alone.
    I8(&'a [i8]),
    /// Floats in fewer bits.
    Codes(Codes<'a>),
}

impl<'a> Matrix<'a> {
    /// `tensor` as `[rows, last dimension]`.
    pub fn new(op: &'static str, tensor: &'a Tensor) -> Result<Self> {
        let elements = match tensor.dtype() {
            DType::F32 => Elements::F32(tensor.slice()?),
            DType::Bf16 => Elements::Bf16(tensor.slice()?),
            other => return Err(Error::dtype(op, format!("takes f32 or bf16, got {other}"))),
        };
        Ok(Self::of(elements, tensor.shape().rows(), tensor.shape().last()))
    }

    /// Floats in fewer bits, `[rows, columns]`.
    pub fn of_codes(codes: Codes<'a>, [rows, columns]: [usize; 2]) -> Self {
        Self::of(Elements::Codes(codes), rows, columns)
    }

    /// The rows of `elements`, each right behind the one before.
    pub(super) fn of(elements: Elements<'a>, rows: usize, columns: usize) -> Self {
        Self { elements, rows, columns, stride: columns, transposed: false }
    }

    /// Whether its elements are panels already.
    pub(super) fn is_packed(&self) -> bool {
        matches!(self.elements, Elements::Codes(codes) if codes.is_packed())
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
            Elements::I8(elements) => Elements::I8(elements.get(skipped..).unwrap_or_default()),
            Elements::Codes(codes) => Elements::Codes(codes.skip(skipped)),
        };
        Self { elements, columns: range.len(), ..self }
    }

    /// A copy in f32, row after row, each padded with zeros to a multiple of `lanes`.
    pub(super) fn padded_rows(self, lanes: usize) -> Vec<f32> {
        let width = self.columns.next_multiple_of(lanes);
        let mut rows = vec![0.0; self.rows * width];
        if !self.transposed {
            for (i, row) in rows.chunks_mut(width.max(1)).enumerate() {
                self.elements.read(i * self.stride, &mut row[..self.columns]);
            }
            return rows;
        }
        let mut column = vec![0.0; self.rows];
        for j in 0..self.columns {
            self.elements.read(j * self.stride, &mut column);
            rows[j..].iter_mut().step_by(width).zip(&column).for_each(|(to, from)| *to = *from);
        }
        rows
    }
}

impl Elements<'_> {
    /// Writes the elements from `start` on to `out`.
    #[inline(always)]
    pub(super) fn read(&self, start: usize, out: &mut [f32]) {
        match self {
            Self::F32(elements) => out.copy_from_slice(&elements[start..][..out.len()]),
            Self::Bf16(elements) => widen(&elements[start..], out, Float::to_f32),
            Self::I8(elements) => widen(&elements[start..], out, f32::from),
            Self::Codes(codes) => codes.read(start, out),
        }
    }
}

#[inline(always)]
fn widen<T: Copy>(elements: &[T], out: &mut [f32], to_f32: impl Fn(T) -> f32) {
    out.iter_mut().zip(elements).for_each(|(out, element)| *out = to_f32(*element));
}
