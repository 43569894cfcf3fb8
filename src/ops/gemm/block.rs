//! One task: a block of the result, all of its sums.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::panels::{Lanes, Panels};
use super::tile;
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dtype::{DType, Float};
use crate::error::Result;

/// A block of the result: `rows` from `row` on, each cut to the columns from `column` on.
pub struct Block<'a, T> {
    pub row: usize,
    pub column: usize,
    pub rows: Vec<&'a mut [T]>,
}

impl<'a, T> Block<'a, T> {
    /// Cuts `columns` of `out` `[m, n]` into blocks of `height` by `width`.
    pub fn split(out: &'a mut [T], n: usize, columns: Range<usize>, [height, width]: [usize; 2]) -> Vec<Self> {
        let mut blocks = Vec::new();
        for (i, band) in out.chunks_mut(height * n).enumerate() {
            let first = blocks.len();
            for column in columns.clone().step_by(width) {
                blocks.push(Block { row: i * height, column, rows: Vec::with_capacity(height) });
            }
            for row in band.chunks_mut(n) {
                let parts = row[columns.clone()].chunks_mut(width);
                blocks[first..].iter_mut().zip(parts).for_each(|(block, part)| block.rows.push(part));
            }
        }
        blocks
    }
}

/// The packed operands of a sum of products.
pub struct Packed<'a> {
    pub terms: Vec<(&'a Panels, &'a Panels)>,
    /// The first column that `b` is packed from.
    pub column: usize,
    /// Rows and columns of a tile.
    pub tile: [usize; 2],
}

impl<T: Float> Block<'_, T> {
    /// Adds the sum over the terms of `a · b` to the block, or stores it.
    pub fn compute(mut self, arch: Arch, packed: &Packed<'_>, add: bool) -> Result<()> {
        let Self { row, column, rows } = &mut self;
        let width = rows.first().map_or(0, |row| row.len());
        if T::DTYPE == DType::F32 {
            let rows = &mut rows.iter_mut().map(|row| bytemuck::cast_slice_mut(row)).collect::<Vec<_>>();
            return arch.dispatch(Sums { row: *row, column: *column, rows, packed, add });
        }
        let mut sums = Tensor::uninit(&Device::Cpu, DType::F32, [rows.len() * width])?;
        let sums = &mut sums.slice_mut()?.chunks_mut(width).collect::<Vec<_>>();
        arch.dispatch(Sums { row: *row, column: *column, rows: sums, packed, add })?;
        host::vectorize(
            #[inline(always)]
            || {
                for (out, sums) in rows.iter_mut().zip(sums) {
                    for (out, sum) in out.iter_mut().zip(&**sums) {
                        *out = T::from_f32(*sum);
                    }
                }
            },
        );
        Ok(())
    }
}

struct Sums<'a, 'b> {
    row: usize,
    column: usize,
    rows: &'a mut [&'b mut [f32]],
    packed: &'a Packed<'a>,
    add: bool,
}

impl WithSimd for Sums<'_, '_> {
    type Output = Result<()>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Result<()> {
        let Self { row, column, rows, packed, mut add } = self;
        let [height, columns] = packed.tile;
        let width = rows.first().map_or(0, |row| row.len());
        for &(a, b) in &packed.terms {
            let lanes = a.lanes();
            for (a, b) in a.blocks()?.zip(b.blocks()?) {
                let (a, b) = (a.from(row / height), b.from((column - packed.column) / columns));
                for (b, column) in b.zip((0..width).step_by(columns)) {
                    for (rows, a) in rows.chunks_mut(height).zip(a.clone()) {
                        match lanes {
                            Lanes::Pairs(cpu) => cpu.multiply([a, b], rows, column, add),
                            Lanes::Singles | Lanes::Quads { .. } | Lanes::Widened => {
                                let panels = [bytemuck::cast_slice(a), bytemuck::cast_slice(b)];
                                tile::multiply(simd, panels, packed.tile, rows, column, add);
                            }
                        }
                    }
                }
                add = true;
            }
        }
        Ok(())
    }
}
