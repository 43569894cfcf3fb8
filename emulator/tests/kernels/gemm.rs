//! What the products of matrices share: the tiles they are launched with, and where their sums go.

use crate::case::Arg::I64;
use crate::case::{Case, Kind};
use crate::catalogue::draw;

#[derive(Clone, Copy, PartialEq)]
pub enum Added {
    Nothing,
    Other,
    /// To what out holds.
    Itself,
}

/// Rows and columns of a block's tile.
pub fn tile_size(tile: &str) -> [usize; 2] {
    match tile {
        "256" => [128, 256],
        "128" => [128, 128],
        _ => [64, 64],
    }
}

/// A launch without its arguments.
pub fn launch(file: &str, entry: &str, shape: &str, tile: &str, [m, n, slices]: [usize; 3]) -> Case {
    let [rows, columns] = tile_size(tile);
    let grid = [m.div_ceil(rows) * n.div_ceil(columns), slices, 1].map(|blocks| blocks as u32);
    let (block, shared) = match tile {
        "256" => (256, 98_304),
        "128" => (128, 49_152),
        _ => (128, 32_768),
    };
    Case::new(file, entry, shape, grid, block).shared(shared)
}

/// Where the sums of a product go.
#[derive(Clone, Copy)]
pub struct Output {
    /// M, N, and the slices of K.
    pub sizes: [usize; 3],
    pub kind: Kind,
    pub added: Added,
    /// How many elements lie between rows, beside theirs.
    pub gap: usize,
}

impl Output {
    /// Elements from row to row.
    pub fn ld(self) -> usize {
        let [_, n, slices] = self.sizes;
        n + if slices == 1 { self.gap } else { 0 }
    }

    /// Adds out and addend to a case; `sum` gives element i, j of a slice.
    pub fn add(self, case: Case, sum: impl Fn([usize; 3]) -> f64) -> Case {
        let Self { sizes: [m, n, slices], kind, added, .. } = self;
        let ld = self.ld();
        let stride = (m * ld).next_multiple_of(4);
        let before = draw(kind, 5, (slices - 1) * stride + (m - 1) * ld + n);
        let element = |at: usize| {
            let (row, column) = (at % stride / ld, at % stride % ld);
            let more = if added == Added::Nothing { 0.0 } else { before[at] };
            // What lies between rows or slices of a result stays what it was.
            if row < m && column < n { sum([row, column, at / stride]) + more } else { before[at] }
        };
        let expected: Vec<f64> = (0..before.len()).map(element).collect();
        let is_whole = ld == n && (slices == 1 || stride == m * n);
        let case = match added {
            Added::Nothing | Added::Other if is_whole => case.output(kind, expected),
            _ => case.changed(kind, &before, expected),
        };
        let case = case.rounded_as((kind, 4.0));
        match added {
            Added::Nothing => case.scalar(I64(0)),
            Added::Other if is_whole => case.input(kind, &before),
            Added::Other | Added::Itself => case.again(),
        }
    }
}
