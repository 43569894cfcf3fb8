//! Products of integers with a scale for each row and each column: sums in i32, exact, made floats in the tile's store.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::block::Block;
use super::int8_few;
use super::matrix::{Elements, Matrix};
use super::packed::{SLAB, block_shape};
use super::panels::{BlockPanels, Lanes, Panels};
use super::quads::{IntegerCpu, MOST};
use super::tile;
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::shape::Shape;

/// Rows of activations as integers.
#[derive(Clone, Debug)]
pub struct Rows {
    /// i8 `[rows, K]`; 0 where an outlier is.
    pub codes: Tensor,
    /// What each row's integers are multiplied by.
    pub scales: Vec<f32>,
    /// The sum of each row's integers.
    pub sums: Vec<i32>,
    /// Elements that stay floats, row after row, ascending.
    pub outliers: Vec<Outlier>,
    /// Where each row's outliers end.
    pub ends: Vec<usize>,
}

/// An element that stays a float.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlier {
    /// Its place in the row.
    pub column: usize,
    /// The element.
    pub value: f32,
}

impl Rows {
    /// The outliers of a row.
    pub(super) fn outliers_of(&self, row: usize) -> &[Outlier] {
        let start = row.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.outliers.get(start..self.ends.get(row).copied().unwrap_or(start)).unwrap_or_default()
    }
}

/// One of the products that are summed up.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// `[rows, K]`.
    pub rows: &'a Rows,
    /// The integers of a weight, `[K, N]`.
    pub(super) weight: Matrix<'a>,
    /// A scale for each column; without, all are 1.
    pub scales: Option<&'a [f32]>,
}

impl<'a> Term<'a> {
    /// `rows · weightᵀ`, of the weight `codes` i8 `[N, K]` whose rows have `scales`.
    pub fn forward(rows: &'a Rows, codes: &'a Tensor, scales: &'a [f32]) -> Result<Self> {
        Ok(Self { rows, weight: integers(codes)?.t(), scales: Some(scales) })
    }

    /// `rows · weight`, of the weight `codes` i8 `[N, K]`.
    pub fn backward(rows: &'a Rows, codes: &'a Tensor) -> Result<Self> {
        Ok(Self { rows, weight: integers(codes)?, scales: None })
    }
}

fn integers(codes: &Tensor) -> Result<Matrix<'_>> {
    Ok(Matrix::of(Elements::I8(codes.slice()?), codes.shape().rows(), codes.shape().last()))
}

/// What is added to the products of integers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addend<'a> {
    /// Products of floats, `[rows, R] · [R, N]`.
    pub products: &'a [[Matrix<'a>; 2]],
    /// `[rows, N]`.
    pub residual: Option<&'a Tensor>,
}

/// A tensor of `shape` and `dtype`: the sum over `terms` and of `addend`, rounded once.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit each other.
pub fn product(
    op: &'static str,
    shape: impl Into<Shape>,
    dtype: DType,
    terms: &[Term<'_>],
    addend: Addend<'_>,
) -> Result<Tensor> {
    let mut out = Tensor::uninit(&Device::Cpu, dtype, shape)?;
    let n = out.shape().last();
    dispatch_float!(op, dtype, T => {
        multiply(IntegerCpu::best(), out.slice_mut::<T>()?, n, terms, addend)?;
        Ok(out)
    })
}

/// [`product`] on the instructions of `cpu`.
pub(super) fn multiply<T: Float>(
    cpu: IntegerCpu,
    out: &mut [T],
    n: usize,
    terms: &[Term<'_>],
    addend: Addend<'_>,
) -> Result<()> {
    let Some(m) = out.len().checked_div(n).filter(|m| *m > 0) else { return Ok(()) };
    refuse_misfits([m, n], terms, addend)?;
    let residual = addend.residual.map(|residual| Matrix::new("gemm", residual)).transpose()?;
    if int8_few::fits(m, terms) {
        return int8_few::multiply(cpu, out, n, terms, (addend.products, residual));
    }
    let ([height, width], [row_lanes, _]) = (tile::largest(cpu.arch()), cpu.lanes());
    let pack_rows = |term: &Term<'_>| Panels::pack(integers(&term.rows.codes)?, height, row_lanes);
    let rows = terms.iter().map(pack_rows).collect::<Result<Vec<_>>>()?;
    let left = addend.products.iter().map(|[a, _]| Panels::pack(*a, height, Lanes::Singles));
    let left = left.collect::<Result<Vec<_>>>()?;
    let depth = terms.iter().map(|term| term.weight.rows.div_ceil(4)).sum::<usize>();
    let step = (SLAB / depth.max(1)).next_multiple_of(width).max(width);
    for first in (0..n).step_by(step) {
        let columns = first..(first + step).min(n);
        let packed = pack_columns(cpu, terms, addend.products, columns.clone())?;
        let operands = Operands { cpu, terms, rows: &rows, left: &left, packed, column: first, residual, n };
        let blocks = Block::split(out, n, columns.clone(), block_shape(m, columns.len(), [height, width]));
        blocks.into_par_iter().with_max_len(1).try_for_each(|block| operands.compute(block))?;
    }
    Ok(())
}

fn refuse_misfits([m, n]: [usize; 2], terms: &[Term<'_>], addend: Addend<'_>) -> Result<()> {
    let of_floats = addend.products.iter().map(|[a, b]| [a.rows, a.columns, b.rows, b.columns]);
    let of_integers = terms.iter().map(|Term { rows, weight, .. }| {
        [rows.codes.shape().rows(), rows.codes.shape().last(), weight.rows, weight.columns]
    });
    match of_integers.chain(of_floats).find(|[rows, k, k_too, columns]| [rows, k, columns] != [&m, k_too, &n]) {
        Some([rows, k, k_too, columns]) => {
            Err(Error::shape("gemm", format!("[{rows}, {k}] · [{k_too}, {columns}] is not [{m}, {n}]")))
        }
        None => Ok(()),
    }
}

/// The columns of all products that one round computes.
struct Columns {
    /// The weight of each term, and its scales, padded to whole tiles.
    weights: Vec<(Panels, Vec<f32>)>,
    /// The right sides of products of floats.
    right: Vec<Panels>,
}

fn pack_columns(
    cpu: IntegerCpu,
    terms: &[Term<'_>],
    products: &[[Matrix<'_>; 2]],
    columns: Range<usize>,
) -> Result<Columns> {
    let ([_, width], [_, lanes]) = (tile::largest(cpu.arch()), cpu.lanes());
    let padded = columns.len().next_multiple_of(width);
    let weight = |term: &Term<'_>| {
        let panels = Panels::pack(term.weight.columns(columns.clone()).t(), width, lanes)?;
        let mut scales = vec![1.0; padded];
        if let Some(of_all) = term.scales.and_then(|scales| scales.get(columns.clone())) {
            scales[..of_all.len()].copy_from_slice(of_all);
        }
        Ok((panels, scales))
    };
    let right = products.iter().map(|[_, b]| Panels::pack(b.columns(columns.clone()).t(), width, Lanes::Singles));
    Ok(Columns { weights: terms.iter().map(weight).collect::<Result<_>>()?, right: right.collect::<Result<_>>()? })
}

/// All that the blocks of one round read.
struct Operands<'a> {
    cpu: IntegerCpu,
    terms: &'a [Term<'a>],
    rows: &'a [Panels],
    left: &'a [Panels],
    packed: Columns,
    /// The first column that `packed` has.
    column: usize,
    residual: Option<Matrix<'a>>,
    n: usize,
}

impl Operands<'_> {
    fn compute<T: Float>(&self, block: Block<'_, T>) -> Result<()> {
        self.cpu.arch().dispatch(Store { operands: self, block })
    }
}

struct Store<'a, 'b, T> {
    operands: &'a Operands<'a>,
    block: Block<'b, T>,
}

/// A panel of a product's left side and one of its right side.
type Pair<'a> = [&'a [u32]; 2];

impl<T: Float> WithSimd for Store<'_, '_, T> {
    type Output = Result<()>;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) -> Result<()> {
        let (height, columns) = (tile::rows::<S>(), tile::columns::<S>(2));
        let (row, column) = (self.block.row, self.block.column);
        let width = self.block.rows.first().map_or(0, |row| row.len());
        for j in (0..width).step_by(columns) {
            for (i, out) in self.block.rows.chunks_mut(height).enumerate() {
                let place = [row + i * height, column + j];
                let out = &mut out.iter_mut().map(|row| &mut row[j..width.min(j + columns)]).collect::<Vec<_>>();
                match height {
                    12 => self.operands.tile::<S, T, 12>(simd, place, out)?,
                    _ => self.operands.tile::<S, T, 6>(simd, place, out)?,
                }
            }
        }
        Ok(())
    }
}

impl Operands<'_> {
    /// Computes a tile of `M` rows and stores what of it is in `out`.
    #[inline(always)]
    fn tile<S: Simd, T: Float, const M: usize>(
        &self,
        simd: S,
        [row, column]: [usize; 2],
        out: &mut [&mut [T]],
    ) -> Result<()> {
        let columns = tile::columns::<S>(2);
        let (a, b) = (row / M, (column - self.column) / columns);
        let mut values = [[simd.splat_f32s(0.0); 2]; M];
        for (left, right) in self.left.iter().zip(&self.packed.right) {
            for (left, right) in left.blocks()?.zip(right.blocks()?) {
                if let Some([left, right]) = pair(left, right, a, b) {
                    let [left, right] = [left, right].map(bytemuck::cast_slice);
                    tile::add_products::<S, M, 2>(
                        simd,
                        left.as_chunks().0,
                        S::as_simd_f32s(right).0.as_chunks().0,
                        &mut values,
                    );
                }
            }
        }
        for ((term, rows), (weight, scales)) in self.terms.iter().zip(self.rows).zip(&self.packed.weights) {
            let Some(panels) = rows.blocks()?.zip(weight.blocks()?).find_map(|(rows, weight)| pair(rows, weight, a, b))
            else {
                continue;
            };
            let mut sums = [0; MOST[0] * MOST[1]];
            self.cpu.multiply(panels, [M, columns], &mut sums);
            let scales = &scales[b * columns..][..columns];
            for (i, (values, sums)) in values.iter_mut().zip(sums.chunks_exact(columns)).take(out.len()).enumerate() {
                let panel = (self.cpu.lanes()[1], panels[1]);
                add_row(term.rows, row + i, bytemuck::cast_slice_mut(values), sums, scales, panel);
            }
        }
        for (i, (out, values)) in out.iter_mut().zip(&values).enumerate() {
            self.store([row + i, column], out, bytemuck::cast_slice(values));
        }
        Ok(())
    }

    #[inline(always)]
    fn store<T: Float>(&self, [row, column]: [usize; 2], out: &mut [T], values: &[f32]) {
        let mut residual = [0.0; MOST[1]];
        let residual = &mut residual[..out.len()];
        if let Some(of_all) = &self.residual {
            of_all.elements.read(row * self.n + column, residual);
        }
        for ((out, value), residual) in out.iter_mut().zip(values).zip(residual) {
            *out = T::from_f32(value + *residual);
        }
    }
}

fn pair<'a>(left: BlockPanels<'a>, right: BlockPanels<'a>, a: usize, b: usize) -> Option<Pair<'a>> {
    Some([left.panel(a)?, right.panel(b)?])
}

/// Adds the scaled sums of a row, and the products of its outliers with the weight's `panel` of as many columns.
#[inline(always)]
fn add_row(rows: &Rows, row: usize, values: &mut [f32], sums: &[i32], scales: &[f32], (lanes, panel): (Lanes, &[u32])) {
    let moved = if lanes == (Lanes::Quads { moved: true }) { rows.sums[row].wrapping_mul(128) } else { 0 };
    let scale = rows.scales[row];
    for ((value, sum), column) in values.iter_mut().zip(sums).zip(scales) {
        *value += sum.wrapping_sub(moved) as f32 * (scale * column);
    }
    for &Outlier { column: k, value: x } in rows.outliers_of(row) {
        let (lane, code) = lanes.code(k);
        let panel = &panel[lane * values.len()..];
        for ((value, lane), column) in values.iter_mut().zip(panel).zip(scales) {
            *value += x * (code(*lane) as f32 * column);
        }
    }
}

/// Adds to the values of one row what [`add_row`] does, from the sums and the weight's codes of each outlier themselves.
#[inline(always)]
pub(super) fn value(rows: &Rows, row: usize, sum: i32, scale: f32, code: impl Fn(usize) -> i8) -> f32 {
    let mut value = sum as f32 * (rows.scales[row] * scale);
    for &Outlier { column, value: x } in rows.outliers_of(row) {
        value += x * (f32::from(code(column)) * scale);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::{Addend, Outlier, Rows, Term, multiply};
    use crate::autograd::Tensor;
    use crate::device::Device;
    use crate::ops::gemm::quads::IntegerCpu;

    /// Integers from -127 to 127 that look random.
    fn codes(rows: usize, columns: usize, seed: usize) -> Tensor {
        let values: Vec<i8> = (0..rows * columns).map(|i| ((i * 7919 + i / 13 + seed) % 255) as u8 as i8).collect();
        let values: Vec<i8> = values.into_iter().map(|code| code.max(-127)).collect();
        Tensor::from_slice(&Device::Cpu, [rows, columns], &values).unwrap()
    }

    /// Rows with scales that differ, every third with an outlier.
    fn rows(m: usize, k: usize) -> Rows {
        let mut codes = codes(m, k, 3).to_vec::<i8>().unwrap();
        let (mut outliers, mut ends) = (Vec::new(), Vec::new());
        for row in 0..m {
            if row % 3 == 0 {
                let column = row * 5 % k;
                codes[row * k + column] = 0;
                outliers.push(Outlier { column, value: 6.5 + row as f32 });
            }
            ends.push(outliers.len());
        }
        let sums = codes.chunks(k).map(|row| row.iter().map(|code| i32::from(*code)).sum()).collect();
        let scales = (0..m).map(|row| 0.01 + row as f32 / 777.0).collect();
        Rows { codes: Tensor::from_slice(&Device::Cpu, [m, k], &codes).unwrap(), scales, sums, outliers, ends }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for (m, n, k) in
            [(1, 1, 1), (3, 5, 70), (16, 33, 130), (17, 1, 5), (40, 70, 259), (300, 65, 2), (25, 3000, 1030)]
        {
            let (rows, weight) = (rows(m, k), codes(n, k, 0));
            let scales: Vec<f32> = (0..n).map(|column| 0.02 + column as f32 / 991.0).collect();
            let backward = self::rows(m, n);
            let product = |cpu| {
                let (mut y, mut dx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
                let forward = Term::forward(&rows, &weight, &scales).unwrap();
                multiply(cpu, &mut y, n, &[forward], Addend::default()).unwrap();
                let backward = Term {
                    rows: &Rows { outliers: vec![], ends: vec![0; m], ..backward.clone() },
                    ..Term::backward(&backward, &weight).unwrap()
                };
                multiply(cpu, &mut dx, k, &[backward, backward], Addend::default()).unwrap();
                [y, dx]
            };
            let all = IntegerCpu::all();
            let wanted = product(all[all.len() - 1]);
            for cpu in all {
                assert!(product(cpu) == wanted, "{m} {n} {k} with {}", cpu.name());
            }
            let dot: i64 = rows.codes.slice::<i8>().unwrap()[..k]
                .iter()
                .zip(weight.slice::<i8>().unwrap())
                .map(|(q, w)| i64::from(*q) * i64::from(*w))
                .sum();
            let outlier =
                f64::from(rows.outliers[0].value) * f64::from(weight.slice::<i8>().unwrap()[rows.outliers[0].column]);
            let exact = (dot as f64 * f64::from(rows.scales[0]) + outlier) * f64::from(scales[0]);
            assert!(
                (f64::from(wanted[0][0]) - exact).abs() <= 1e-6 * (1.0 + exact.abs()),
                "{} is not {exact}",
                wanted[0][0]
            );
        }
    }
}
