//! Packed operands: panels of neighbouring rows, interleaved so that a tile reads them in order.

use std::marker::PhantomData;

use half::bf16;
use rayon::prelude::*;

use super::matrix::{Elements, Matrix};
use super::pairs::Avx512Bf16;
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dtype::{DType, Float};
use crate::error::Result;

/// How many lanes deep a panel is at most: one of `b` stays in the first-level cache while those of `a` pass by.
const DEPTH: usize = 256;

/// Panels that one task packs: where columns are runs of memory, the runs are as long as these are wide.
const PANELS_PER_TASK: usize = 8;

/// What the 32-bit lanes of a panel hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// An f32.
    Singles,
    /// Two neighbouring bf16 of a row, for a CPU that multiplies such.
    Pairs(Avx512Bf16),
}

/// The rows of a matrix as `[depth / block, rows / width, block, width]` lanes, padded with zeros.
pub struct Panels {
    elements: Tensor,
    lanes: Lanes,
    depth: usize,
    block: usize,
    width: usize,
    count: usize,
}

impl Panels {
    /// Packs the rows of `m`, `width` to a panel, in parallel.
    pub fn pack(m: Matrix<'_>, width: usize, lanes: Lanes) -> Result<Self> {
        let depth = if let Lanes::Pairs(_) = lanes { m.columns.div_ceil(2) } else { m.columns };
        let block = depth.div_ceil(depth.div_ceil(DEPTH).max(1)).max(1);
        let count = m.rows.div_ceil(width);
        let elements = Tensor::uninit(&Device::Cpu, DType::U32, [depth * count * width])?;
        let mut panels = Self { elements, lanes, depth, block, width, count };
        match m.elements {
            Elements::F32(elements) => panels.fill::<Single<f32>>(m, elements),
            Elements::Bf16(elements) if lanes != Lanes::Singles => panels.fill::<Pair>(m, elements),
            Elements::Bf16(elements) => panels.fill::<Single<bf16>>(m, elements),
        }?;
        Ok(panels)
    }

    /// What its lanes hold.
    pub fn lanes(&self) -> Lanes {
        self.lanes
    }

    /// Block by block the panels, each as `[block, width]`.
    pub fn blocks(&self) -> Result<impl Iterator<Item = std::slice::ChunksExact<'_, u32>>> {
        let Self { depth, block, width, count, .. } = *self;
        let blocks =
            self.elements.slice::<u32>()?.chunks((count * width * block).max(1)).zip((0..depth).step_by(block));
        Ok(blocks.map(move |(lanes, start)| lanes.chunks_exact(width * block.min(depth - start))))
    }

    fn fill<L: Lane>(&mut self, m: Matrix<'_>, elements: &[L::Element]) -> Result<()> {
        let Self { depth, block, width, count, .. } = *self;
        let mut tasks = Vec::new();
        let blocks = self.elements.slice_mut::<u32>()?.chunks_mut((count * width * block).max(1));
        for (lanes, start) in blocks.zip((0..depth).step_by(block)) {
            let depth = block.min(depth - start);
            let groups = lanes.chunks_mut(PANELS_PER_TASK * width * depth).enumerate();
            tasks.extend(groups.map(|(i, out)| (i * PANELS_PER_TASK * width, start, depth, out)));
        }
        tasks.into_par_iter().for_each(|(row, start, depth, out)| {
            let part = Part::<L> { m, elements, row, start, depth, width, lane: PhantomData };
            if m.transposed { part.copy(out) } else { part.interleave(out) }
        });
        Ok(())
    }
}

/// How elements become lanes.
pub trait Lane {
    /// What the matrix holds.
    type Element: Float;
    /// How many neighbours in a row make a lane.
    const ELEMENTS: usize;
    /// The lane of these neighbours, or of one twice.
    fn lane(first: Self::Element, last: Self::Element) -> u32;
}

struct Single<T>(PhantomData<T>);

impl<T: Float> Lane for Single<T> {
    type Element = T;
    const ELEMENTS: usize = 1;
    #[inline(always)]
    fn lane(first: T, _: T) -> u32 {
        first.to_f32().to_bits()
    }
}

struct Pair;

impl Lane for Pair {
    type Element = bf16;
    const ELEMENTS: usize = 2;
    #[inline(always)]
    fn lane(first: bf16, last: bf16) -> u32 {
        u32::from(first.to_bits()) | u32::from(last.to_bits()) << 16
    }
}

/// What one task packs: `depth` lanes from lane `start` of the rows from `row` on.
struct Part<'a, L: Lane> {
    m: Matrix<'a>,
    elements: &'a [L::Element],
    row: usize,
    start: usize,
    depth: usize,
    width: usize,
    lane: PhantomData<L>,
}

impl<L: Lane> Part<'_, L> {
    /// The columns of `m` are runs of memory.
    #[inline(never)]
    fn copy(&self, out: &mut [u32]) {
        host::vectorize(
            #[inline(always)]
            || {
                let rows = (out.len() / self.depth).min(self.m.rows - self.row);
                if !rows.is_multiple_of(self.width) {
                    let last = out.len() - self.depth * self.width;
                    out[last..].fill(0);
                }
                for k in 0..self.depth {
                    self.copy_lane(k, rows, out);
                }
            },
        );
    }

    /// Lane `k` of `rows` rows.
    #[inline(always)]
    fn copy_lane(&self, k: usize, rows: usize, out: &mut [u32]) {
        let column = (self.start + k) * L::ELEMENTS;
        let run = |column: usize| &self.elements[column * self.m.stride + self.row..][..rows];
        let last = column + L::ELEMENTS - 1;
        let (run, last) = (run(column), if last < self.m.columns { Some(run(last)) } else { None });
        for (i, panel) in out.chunks_exact_mut(self.depth * self.width).enumerate() {
            let panel = panel[k * self.width..].iter_mut().take(self.width).zip(&run[i * self.width..]);
            if let Some(last) = last {
                for ((to, a), b) in panel.zip(&last[i * self.width..]) {
                    *to = L::lane(*a, *b);
                }
            } else {
                for (to, a) in panel {
                    *to = L::lane(*a, L::Element::from_f32(0.0));
                }
            }
        }
    }

    /// The rows of `m` are runs of memory.
    fn interleave(&self, out: &mut [u32]) {
        let Self { m, row, start, depth, width, .. } = *self;
        for (i, panel) in out.chunks_exact_mut(width * depth).enumerate() {
            let row = row + i * width;
            let rows = self.elements[row * m.stride..].chunks(m.stride).take(width);
            let end = ((start + depth) * L::ELEMENTS).min(m.columns);
            let rows = rows.take(m.rows - row).map(|row| &row[start * L::ELEMENTS..end]);
            interleave::<L>(rows, width, panel);
        }
    }
}

/// Interleaves `rows`, at most `width`, into `panel` `[depth, width]`.
fn interleave<'a, L: Lane>(
    rows: impl ExactSizeIterator<Item = &'a [L::Element]> + Clone,
    width: usize,
    panel: &mut [u32],
) where
    L::Element: 'a,
{
    if rows.len() < width {
        panel.fill(0);
    }
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if let Some(v4) = pulp::x86::V4::try_new() {
        done = super::transpose::interleave::<L>(v4, rows.clone(), width, panel);
    }
    for (lane, row) in rows.enumerate() {
        let rest = row[(done * L::ELEMENTS).min(row.len())..].chunks(L::ELEMENTS);
        for (to, from) in panel[done * width..].chunks_exact_mut(width).zip(rest) {
            let last = from.get(L::ELEMENTS - 1).copied().unwrap_or(L::Element::from_f32(0.0));
            to[lane] = L::lane(from[0], last);
        }
    }
}
