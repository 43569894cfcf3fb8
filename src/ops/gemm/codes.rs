//! Weights that do not lie in memory as rows of floats: in fewer bits, widened while they are packed, or packed already.

use super::matrix::Matrix;
use super::panels::Panels;
use crate::ops::nf4::View;

/// The elements of a quantized weight, from one of them on.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    stored: Stored<'a>,
    first: usize,
}

#[derive(Clone, Copy, Debug)]
enum Stored<'a> {
    /// Rows of `width` codes, each with its scale.
    Int8 { codes: &'a [i8], scales: &'a [f32], width: usize },
    /// Pairs of codes in a byte, blocks of which have a scale.
    FourBit(View<'a>),
    /// Panels in one block, of rows of `width` elements.
    Panels { panels: &'a Panels, width: usize },
}

impl<'a> Codes<'a> {
    /// The elements `codes * scale` of rows of `width`, each row with its own scale.
    pub fn int8(codes: &'a [i8], scales: &'a [f32], width: usize) -> Self {
        Self { stored: Stored::Int8 { codes, scales, width }, first: 0 }
    }

    /// The elements of a weight of 4 bits.
    pub fn four_bit(view: View<'a>) -> Self {
        Self { stored: Stored::FourBit(view), first: 0 }
    }

    /// The elements of rows of `width` that are packed already, each panel in one piece.
    pub(super) fn packed(panels: &'a Panels, width: usize) -> Self {
        Self { stored: Stored::Panels { panels, width }, first: 0 }
    }

    /// The panels, if these are such, and the row and the column of the first element.
    pub(super) fn whole(self) -> Option<(&'a Panels, [usize; 2])> {
        match self.stored {
            Stored::Panels { panels, width } => Some((panels, [self.first / width.max(1), self.first % width.max(1)])),
            _ => None,
        }
    }

    /// Whether these are panels.
    pub(super) fn is_packed(self) -> bool {
        self.whole().is_some()
    }

    /// The panels `width` wide of the rows of `m`, of which these are the elements, if they are packed already.
    pub(super) fn panels(self, m: Matrix<'_>, width: usize) -> Option<Panels> {
        let (panels, [row, column]) = self.whole()?;
        panels.part(row..row + m.rows, column..column + m.columns, width)
    }

    /// These codes without the first `elements`.
    pub(super) fn skip(self, elements: usize) -> Self {
        Self { first: self.first + elements, ..self }
    }

    /// Writes the elements from `start` on as floats; what lies beyond the last stays as it is.
    #[inline(always)]
    pub(super) fn read(&self, start: usize, out: &mut [f32]) {
        let start = self.first + start;
        match self.stored {
            Stored::Int8 { codes, scales, width } => read_int8(codes, scales, width, start, out),
            Stored::FourBit(view) => view.fill(start, out),
            Stored::Panels { panels, width } => read_panels(panels, width, start, out),
        }
    }
}

#[inline(always)]
fn read_int8(codes: &[i8], scales: &[f32], width: usize, mut start: usize, mut out: &mut [f32]) {
    while !out.is_empty() && start < codes.len() {
        let (row, end) = (start / width, (start / width + 1) * width);
        let (head, rest) = out.split_at_mut(out.len().min(end - start));
        for (out, code) in head.iter_mut().zip(&codes[start..]) {
            *out = f32::from(*code) * scales[row];
        }
        (start, out) = (end, rest);
    }
}

fn read_panels(panels: &Panels, width: usize, mut start: usize, mut out: &mut [f32]) {
    while !out.is_empty() && width > 0 {
        let (row, column) = (start / width, start % width);
        let (head, rest) = out.split_at_mut(out.len().min(width - column));
        panels.read(row, column, head);
        (start, out) = (start + head.len(), rest);
    }
}
