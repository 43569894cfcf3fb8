//! Results of few rows: dot products with rows of `bᵀ` where they lie, each read once.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::block::Block;
use super::matrix::{Elements, Matrix};
use crate::dtype::Float;
use crate::error::Result;

/// The most rows for which reading `b` in place beats packing it.
const ROWS: usize = 16;

/// Columns of the result that are computed together, one row of `bᵀ` each.
const COLUMNS: usize = 4;

/// Elements that are multiplied together: a multiple of every vector's lanes.
const LANES: usize = 16;

/// Elements of `b` that make a task worth its fork.
const TASK: usize = 64 * 1024;

/// Whether [`multiply`] takes these operands: few rows, and columns of `b` that are runs of memory.
pub fn fits(m: usize, terms: &[[Matrix<'_>; 2]]) -> bool {
    m <= ROWS && terms.iter().all(|[_, b]| b.transposed && !b.is_packed())
}

/// The sum over `terms` of `a · b`, stored in `out` `[m, n]` or added to it.
pub fn multiply<T: Float>(out: &mut [T], n: usize, terms: &[[Matrix<'_>; 2]], add: bool) -> Result<()> {
    let m = out.len() / n;
    let a: Vec<Vec<f32>> = terms.iter().map(|[a, _]| a.padded_rows(LANES)).collect();
    let terms: Vec<(&[f32], Matrix<'_>)> = terms.iter().zip(&a).map(|([_, b], a)| (a.as_slice(), b.t())).collect();
    let k: usize = terms.iter().map(|(_, b)| b.columns).sum();
    let width = (TASK / k.max(1)).max(1).next_multiple_of(COLUMNS);
    let compute = |block: Block<'_, T>| Arch::new().dispatch(Dots { block, terms: &terms, add, scratch: Vec::new() });
    if width >= n {
        Block::split(out, n, 0..n, [m, n]).into_iter().for_each(compute);
    } else {
        Block::split(out, n, 0..n, [m, width]).into_par_iter().for_each(compute);
    }
    Ok(())
}

/// One task. Each term is `a` `[m, k]`, its rows padded with zeros, and `bᵀ` `[n, k]`.
struct Dots<'a, 'b, T> {
    block: Block<'b, T>,
    terms: &'a [(&'a [f32], Matrix<'a>)],
    add: bool,
    /// Some rows of `bᵀ` that are not stored as floats.
    scratch: Vec<f32>,
}

impl<T: Float> WithSimd for Dots<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let width = self.block.rows.first().map_or(0, |row| row.len());
        for column in (0..width).step_by(COLUMNS) {
            let mut row = 0;
            while row < self.block.rows.len() {
                row += match self.block.rows.len() - row {
                    1 => self.tile::<S, 1>(simd, row, column),
                    2 => self.tile::<S, 2>(simd, row, column),
                    3 => self.tile::<S, 3>(simd, row, column),
                    _ => self.tile::<S, 4>(simd, row, column),
                };
            }
        }
    }
}

impl<T: Float> Dots<'_, '_, T> {
    /// The elements of `M` rows and [`COLUMNS`] columns; returns `M`.
    #[inline(always)]
    fn tile<S: Simd, const M: usize>(&mut self, simd: S, row: usize, column: usize) -> usize {
        let mut sums = [[0.0; COLUMNS]; M];
        for &(a, b) in self.terms {
            let (a, first) = (&a[row * b.columns.next_multiple_of(LANES)..], self.block.column + column);
            match b.elements {
                Elements::F32(elements) => add_dots(simd, &mut sums, a, (b, elements), first),
                Elements::Bf16(elements) => add_dots(simd, &mut sums, a, (b, elements), first),
                Elements::I8(_) | Elements::Codes(_) => {
                    self.scratch.resize(COLUMNS * b.columns, 0.0);
                    for (j, row) in self.scratch.chunks_mut(b.columns.max(1)).enumerate() {
                        b.elements.read((first + j).min(b.rows - 1) * b.stride, row);
                    }
                    let read = Matrix::of(Elements::F32(&self.scratch), COLUMNS, b.columns);
                    add_dots(simd, &mut sums, a, (read, &self.scratch), 0);
                }
            }
        }
        for (out, sums) in self.block.rows[row..].iter_mut().zip(sums) {
            for (out, sum) in out[column..].iter_mut().zip(sums) {
                *out = T::from_f32(if self.add { out.to_f32() + sum } else { sum });
            }
        }
        M
    }
}

/// Adds the dot products of the first `M` rows of `a` and the rows of `b` from `first` on.
#[inline(always)]
fn add_dots<S: Simd, B: Float, const M: usize>(
    simd: S,
    sums: &mut [[f32; COLUMNS]; M],
    a: &[f32],
    (b, elements): (Matrix<'_>, &[B]),
    first: usize,
) {
    let (k, whole) = (b.columns, b.columns / LANES);
    let mut a_rows = [&[][..]; M];
    for (to, row) in a_rows.iter_mut().zip(a.chunks_exact(k.next_multiple_of(LANES))) {
        *to = row.as_chunks::<LANES>().0;
    }
    let (mut b_rows, mut tails) = ([&[][..]; COLUMNS], [[0.0; LANES]; COLUMNS]);
    for (j, (to, tail)) in b_rows.iter_mut().zip(&mut tails).enumerate() {
        let row = &elements[(first + j).min(b.rows - 1) * b.stride..][..k];
        *to = row.as_chunks::<LANES>().0;
        convert(tail, &row[whole * LANES..]);
    }
    let mut lanes = [[simd.splat_f32s(0.0); COLUMNS]; M];
    for i in 0..whole {
        let mut b = [[0.0; LANES]; COLUMNS];
        for (to, row) in b.iter_mut().zip(&b_rows) {
            convert(to, &row[i]);
        }
        multiply_add(simd, &mut lanes, &a_rows, i, &b);
    }
    if whole * LANES < k {
        multiply_add(simd, &mut lanes, &a_rows, whole, &tails);
    }
    for (sums, lanes) in sums.iter_mut().zip(lanes) {
        for (sum, lanes) in sums.iter_mut().zip(lanes) {
            *sum += simd.reduce_sum_f32s(lanes);
        }
    }
}

#[inline(always)]
fn convert<T: Float>(to: &mut [f32], from: &[T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_f32();
    }
}

/// Adds the products of part `i` of the rows of `a` with `b`, lane by lane.
#[inline(always)]
fn multiply_add<S: Simd, const M: usize>(
    simd: S,
    lanes: &mut [[S::f32s; COLUMNS]; M],
    a: &[&[[f32; LANES]]; M],
    i: usize,
    b: &[[f32; LANES]; COLUMNS],
) {
    for (lanes, a) in lanes.iter_mut().zip(a) {
        let a = S::as_simd_f32s(&a[i]).0;
        for (lanes, b) in lanes.iter_mut().zip(b) {
            for (a, b) in a.iter().zip(S::as_simd_f32s(b).0) {
                *lanes = simd.mul_add_e_f32s(*a, *b, *lanes);
            }
        }
    }
}
