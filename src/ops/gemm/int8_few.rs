//! Products of few rows of integers: dot products with a weight's rows where they lie, each read once.

use rayon::prelude::*;

use super::block::Block;
use super::int8::{Rows, Term, value};
use super::matrix::{Elements, Matrix};
use super::product;
use super::quads::{DOTS, IntegerCpu};
use crate::dtype::{DType, Float};
use crate::error::Result;

/// The most rows for which reading the weight in place beats packing it.
const ROWS: usize = 16;

/// Bytes of a weight that make a task worth its fork.
const TASK: usize = 128 * 1024;

/// Whether [`multiply`] takes these operands: few rows of one product, and a weight whose columns are runs of memory.
pub fn fits(m: usize, terms: &[Term<'_>]) -> bool {
    m <= ROWS && matches!(terms, [term] if term.weight.transposed)
}

/// The only term of `terms`, and what is added to it.
pub fn multiply<T: Float>(
    cpu: IntegerCpu,
    out: &mut [T],
    n: usize,
    terms: &[Term<'_>],
    (products, residual): (&[[Matrix<'_>; 2]], Option<Matrix<'_>>),
) -> Result<()> {
    let ([term], m) = (terms, out.len() / n) else { return Ok(()) };
    let floats = match products {
        [] => None,
        products => Some(product("gemm", [m, n], DType::F32, products)?),
    };
    let weight = Weight::new(cpu, term)?;
    let width = (TASK / weight.k.max(1)).max(1).next_multiple_of(DOTS);
    let compute = |mut block: Block<'_, T>| {
        let added = block.rows.iter().enumerate().map(|(i, row)| {
            let (start, mut added) = (i * n + block.column, vec![[0.0; 2]; row.len()]);
            read(floats.as_ref().and_then(|floats| Matrix::new("gemm", floats).ok()), start, &mut added, 0);
            read(residual, start, &mut added, 1);
            added
        });
        weight.block(&added.collect::<Vec<_>>(), &mut block);
    };
    let blocks = Block::split(out, n, 0..n, [m, width]);
    if width >= n {
        blocks.into_iter().for_each(compute);
    } else {
        blocks.into_par_iter().for_each(compute);
    }
    Ok(())
}

/// Reads the elements of `m` from `start` on, one to a row of `added`.
fn read(m: Option<Matrix<'_>>, start: usize, added: &mut [[f32; 2]], place: usize) {
    let Some(m) = m else { return };
    let mut elements = vec![0.0; added.len()];
    m.elements.read(start, &mut elements);
    added.iter_mut().zip(elements).for_each(|(added, element)| added[place] = element);
}

/// The weight `[N, K]` of a term, and the rows that it multiplies.
struct Weight<'a> {
    cpu: IntegerCpu,
    rows: &'a Rows,
    row_codes: &'a [i8],
    codes: &'a [i8],
    scales: Option<&'a [f32]>,
    n: usize,
    k: usize,
}

impl<'a> Weight<'a> {
    fn new(cpu: IntegerCpu, Term { rows, weight, scales }: &Term<'a>) -> Result<Self> {
        let codes = match weight.elements {
            Elements::I8(codes) => codes,
            _ => &[],
        };
        let (n, k) = (weight.columns, weight.rows);
        Ok(Self { cpu, rows, row_codes: rows.codes.slice()?, codes, scales: *scales, n, k })
    }

    /// The codes of a row of the weight; of the last one for all beyond.
    fn row(&self, row: usize) -> &'a [i8] {
        &self.codes[row.min(self.n - 1) * self.k..][..self.k]
    }

    /// Computes a block; `added` are the two addends of each element, one for each side of the product.
    fn block<T: Float>(&self, added: &[Vec<[f32; 2]>], block: &mut Block<'_, T>) {
        let width = block.rows.first().map_or(0, |row| row.len());
        for j in (0..width).step_by(DOTS) {
            let mut i = 0;
            while i < block.rows.len() {
                i += match block.rows.len() - i {
                    1 => self.tile::<T, 1>(added, block, [i, j]),
                    2 => self.tile::<T, 2>(added, block, [i, j]),
                    3 => self.tile::<T, 3>(added, block, [i, j]),
                    _ => self.tile::<T, 4>(added, block, [i, j]),
                };
            }
        }
    }

    /// The elements of `M` rows and [`DOTS`] columns from `i` and `j` on; returns `M`.
    fn tile<T: Float, const M: usize>(
        &self,
        added: &[Vec<[f32; 2]>],
        block: &mut Block<'_, T>,
        [i, j]: [usize; 2],
    ) -> usize {
        let first = block.column + j;
        let activations = std::array::from_fn(|m| &self.row_codes[(block.row + i + m) * self.k..][..self.k]);
        let weights: [&[i8]; DOTS] = std::array::from_fn(|column| self.row(first + column));
        let sums = self.cpu.dots::<M>(activations, weights);
        for (m, sums) in sums.into_iter().enumerate() {
            let row = block.row + i + m;
            for (c, (out, sum)) in block.rows[i + m][j..].iter_mut().zip(sums).enumerate() {
                let scale = self.scales.map_or(1.0, |scales| scales[first + c]);
                let [before, after] = added[i + m][j + c];
                let product = value(self.rows, row, sum, scale, |k| weights[c][k]);
                *out = T::from_f32(before + product + after);
            }
        }
        M
    }
}
