//! Packed operands: panels of neighbouring rows, interleaved so that a tile reads them in order.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::Zeroable;
use half::bf16;
use rayon::prelude::*;

use super::matrix::{Elements, Matrix};
use super::pairs::Avx512Bf16;
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dtype::{DType, Element, Float};
use crate::error::Result;

/// How many lanes deep a panel is at most: one of `b` stays in the first-level cache while those of `a` pass by.
const DEPTH: usize = 256;

/// The widest panel.
const WIDEST: usize = 32;

/// Panels that one task packs: where columns are runs of memory, the runs are as long as these are wide.
const PANELS_PER_TASK: usize = 8;

/// What the 32-bit lanes of a panel hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// An f32.
    Singles,
    /// Two neighbouring bf16 of a row, for a CPU that multiplies such.
    Pairs(Avx512Bf16),
    /// Four neighbouring i8 of a row, as they are or moved up by 128 so that none is negative.
    Quads { moved: bool },
    /// Two neighbouring i8 of a row, each in 16 bits.
    Widened,
}

impl Lanes {
    /// How many neighbours in a row make a lane.
    fn elements(self) -> usize {
        match self {
            Self::Singles => 1,
            Self::Pairs(_) | Self::Widened => 2,
            Self::Quads { .. } => 4,
        }
    }
}

/// The rows of a matrix as `[depth / block, rows / width, block, width]` lanes, padded with zeros.
#[derive(Clone, Debug)]
pub struct Panels {
    elements: Tensor,
    lanes: Lanes,
    depth: usize,
    block: usize,
    width: usize,
    count: usize,
    /// The whole that these are a part of.
    of: Option<Whole>,
}

/// Panels that are packed in one block, of which a part is read block by block.
#[derive(Clone, Copy, Debug)]
struct Whole {
    depth: usize,
    /// The first panel of the part, and its first lane.
    panel: usize,
    start: usize,
}

/// The panels of a block, each `[depth, width]`.
#[derive(Clone, Copy)]
pub struct BlockPanels<'a> {
    lanes: &'a [u32],
    /// Lanes from one panel to the next.
    stride: usize,
    /// Lanes of each panel.
    length: usize,
}

impl<'a> BlockPanels<'a> {
    /// The panel number `i`.
    pub fn panel(self, i: usize) -> Option<&'a [u32]> {
        self.lanes.get(i * self.stride..)?.get(..self.length)
    }

    /// The panels from number `first` on.
    #[inline(always)]
    pub fn from(self, first: usize) -> impl Iterator<Item = &'a [u32]> + Clone {
        let lanes = self.lanes.get(first * self.stride..).unwrap_or_default();
        lanes.chunks(self.stride.max(1)).map_while(move |lanes| lanes.get(..self.length))
    }
}

impl Panels {
    /// Packs the rows of `m`, `width` to a panel, in parallel.
    pub fn pack(m: Matrix<'_>, width: usize, lanes: Lanes) -> Result<Self> {
        let part = match m.elements {
            Elements::Codes(codes) if !m.transposed && lanes == Lanes::Singles => codes.panels(m, width),
            _ => None,
        };
        if let Some(part) = part {
            return Ok(part);
        }
        let depth = m.columns.div_ceil(lanes.elements());
        let block = match lanes {
            Lanes::Quads { .. } | Lanes::Widened => depth.max(1),
            _ => block_of(depth),
        };
        Self::pack_blocks(m, width, lanes, block)
    }

    /// Packs the rows of `m` as singles, each panel in one piece, so that any of them can be read without packing.
    pub fn pack_whole(m: Matrix<'_>, width: usize) -> Result<Self> {
        Self::pack_blocks(m, width, Lanes::Singles, m.columns.max(1))
    }

    fn pack_blocks(m: Matrix<'_>, width: usize, lanes: Lanes, block: usize) -> Result<Self> {
        let (depth, count) = (m.columns.div_ceil(lanes.elements()), m.rows.div_ceil(width));
        let elements = Tensor::uninit(&Device::Cpu, DType::U32, [depth * count * width])?;
        let mut panels = Self { elements, lanes, depth, block, width, count, of: None };
        match m.elements {
            Elements::F32(elements) => panels.fill::<Single<f32>>(m, elements),
            Elements::Bf16(elements) if lanes != Lanes::Singles => panels.fill::<Pair>(m, elements),
            Elements::Bf16(elements) => panels.fill::<Single<bf16>>(m, elements),
            Elements::I8(elements) => match lanes {
                Lanes::Quads { moved: false } => panels.fill::<Quad<0>>(m, elements),
                Lanes::Quads { moved: true } => panels.fill::<Quad<0x8080_8080>>(m, elements),
                _ => panels.fill::<Widened>(m, elements),
            },
            Elements::Codes(codes) => match codes.whole().filter(|_| m.transposed) {
                Some((whole, place)) => panels.fill_turned(whole, place, m.rows),
                None => panels.fill_read(m),
            },
        }?;
        Ok(panels)
    }

    /// What its lanes hold.
    pub fn lanes(&self) -> Lanes {
        self.lanes
    }

    /// Some columns of some rows of what [`pack_whole`](Self::pack_whole) packed; `None` if the rows do not begin with a
    /// panel, or panels of another width are wanted.
    pub fn part(&self, rows: Range<usize>, columns: Range<usize>, width: usize) -> Option<Self> {
        let fits = self.width == width && rows.start.is_multiple_of(width);
        let of = Whole { depth: self.depth, panel: rows.start / width, start: columns.start };
        let (depth, count) = (columns.len(), rows.len().div_ceil(width));
        fits.then(|| Self { depth, block: block_of(depth), count, of: Some(of), ..self.clone() })
    }

    /// Writes the elements of the row `row` from `column` on, as floats.
    pub fn read(&self, row: usize, column: usize, out: &mut [f32]) {
        let (panel, lane) = (row / self.width, row % self.width);
        let first = (panel * self.depth + column) * self.width + lane;
        let lanes = self.elements.slice::<u32>().ok().and_then(|lanes| lanes.get(first..)).unwrap_or_default();
        for (out, lane) in out.iter_mut().zip(lanes.iter().step_by(self.width)) {
            *out = f32::from_bits(*lane);
        }
    }

    /// The panels with `f` of their memory in its place.
    pub fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { elements: f(&self.elements)?, ..self.clone() })
    }

    /// All of its memory.
    pub fn lanes_of_all(&self) -> &Tensor {
        &self.elements
    }

    /// Block by block the panels.
    pub fn blocks(&self) -> Result<impl Iterator<Item = BlockPanels<'_>>> {
        let Self { depth, block, width, count, of, .. } = *self;
        let all = self.elements.slice::<u32>()?;
        Ok((0..depth).step_by(block).map(move |start| {
            let length = width * block.min(depth - start);
            let (first, stride, end) = match of {
                None => (count * width * start, length, count * width * start + count * length),
                Some(Whole { depth: whole, panel, start: skipped }) => {
                    let first = (panel * whole + skipped + start) * width;
                    (first, whole * width, first + (count.max(1) - 1) * whole * width + length)
                }
            };
            BlockPanels { lanes: all.get(first..end).unwrap_or_default(), stride, length }
        }))
    }

    fn fill<L: Lane>(&mut self, m: Matrix<'_>, elements: &[L::Element]) -> Result<()> {
        let width = self.width;
        self.tasks()?.into_par_iter().for_each(|Task { row, start, depth, out }| {
            let part = Part::<L> { m, elements, row, start, depth, width, lane: PhantomData };
            if m.transposed { part.copy(out) } else { part.interleave(out) }
        });
        Ok(())
    }

    /// Fills lanes of singles with elements that are read as floats, as many at a time as one task packs.
    fn fill_read(&mut self, m: Matrix<'_>) -> Result<()> {
        let width = self.width;
        self.tasks()?.into_par_iter().for_each(|Task { row, start, depth, out }| {
            let rows = (out.len() / depth).min(m.rows - row);
            let [lines, length] = if m.transposed { [depth, rows] } else { [rows, depth] };
            let [line, offset] = if m.transposed { [start, row] } else { [row, start] };
            let mut elements = vec![0.0; lines * length];
            read_lines(m, (line, offset), &mut elements, length);
            let stored = Matrix::of(Elements::F32(&elements), lines, length);
            let m = if m.transposed { stored.t() } else { stored };
            let part =
                Part::<Single<f32>> { m, elements: &elements, row: 0, start: 0, depth, width, lane: PhantomData };
            if m.transposed { part.copy(out) } else { part.interleave(out) }
        });
        Ok(())
    }

    /// Fills panels of `rows` columns of what is packed in `whole`, from its element `[row, column]` on: within one of its
    /// panels the elements of a column are a run of memory.
    fn fill_turned(&mut self, whole: &Self, [row, column]: [usize; 2], rows: usize) -> Result<()> {
        let (width, from) = (self.width, bytemuck::cast_slice::<u32, f32>(whole.elements.slice()?));
        self.tasks()?.into_par_iter().for_each(|task| {
            for (i, panel) in task.out.chunks_exact_mut(width * task.depth).enumerate() {
                let first = task.row + i * width;
                let columns = column + first..column + (first + width).min(rows);
                let mut lane = row + task.start;
                let mut rest = panel;
                while !rest.is_empty() {
                    let inside = lane % whole.width;
                    let length = (whole.width - inside).min(rest.len() / width);
                    let (part, behind) = rest.split_at_mut(length * width);
                    let start = lane / whole.width * whole.depth;
                    let run = |column: usize| &from[(start + column) * whole.width + inside..][..length];
                    interleave::<Single<f32>>(columns.clone().map(run), width, part);
                    (lane, rest) = (lane + length, behind);
                }
            }
        });
        Ok(())
    }

    fn tasks(&mut self) -> Result<Vec<Task<'_>>> {
        let Self { depth, block, width, count, .. } = *self;
        let mut tasks = Vec::new();
        let blocks = self.elements.slice_mut::<u32>()?.chunks_mut((count * width * block).max(1));
        for (lanes, start) in blocks.zip((0..depth).step_by(block)) {
            let depth = block.min(depth - start);
            let groups = lanes.chunks_mut(PANELS_PER_TASK * width * depth).enumerate();
            tasks.extend(groups.map(|(i, out)| Task { row: i * PANELS_PER_TASK * width, start, depth, out }));
        }
        Ok(tasks)
    }
}

/// How deep the blocks of panels of that depth are.
fn block_of(depth: usize) -> usize {
    depth.div_ceil(depth.div_ceil(DEPTH).max(1)).max(1)
}

/// What one task packs: `depth` lanes from lane `start` of the rows from `row` on.
struct Task<'a> {
    row: usize,
    start: usize,
    depth: usize,
    out: &'a mut [u32],
}

/// Reads elements `[lines, length]` of `m`, whose first is number `offset` of line number `line`.
#[inline(never)]
fn read_lines(m: Matrix<'_>, (line, offset): (usize, usize), elements: &mut [f32], length: usize) {
    host::vectorize(
        #[inline(always)]
        || {
            for (i, out) in elements.chunks_mut(length.max(1)).enumerate() {
                m.elements.read((line + i) * m.stride + offset, out);
            }
        },
    );
}

/// The most neighbours in a row that make a lane.
const MOST: usize = 4;

/// How elements become lanes.
pub trait Lane {
    /// What the matrix holds.
    type Element: Element;
    /// How many neighbours in a row make a lane.
    const ELEMENTS: usize;
    /// The lane of as many neighbours; what comes behind them counts for nothing.
    fn lane(neighbours: [Self::Element; MOST]) -> u32;
}

struct Single<T>(PhantomData<T>);

impl<T: Float> Lane for Single<T> {
    type Element = T;
    const ELEMENTS: usize = 1;
    #[inline(always)]
    fn lane([single, ..]: [T; MOST]) -> u32 {
        single.to_f32().to_bits()
    }
}

struct Pair;

impl Lane for Pair {
    type Element = bf16;
    const ELEMENTS: usize = 2;
    #[inline(always)]
    fn lane([first, last, ..]: [bf16; MOST]) -> u32 {
        u32::from(first.to_bits()) | u32::from(last.to_bits()) << 16
    }
}

/// Four integers, with the bits `FLIPPED` the other way round: 128 is added to an i8 by its highest.
struct Quad<const FLIPPED: u32>;

impl<const FLIPPED: u32> Lane for Quad<FLIPPED> {
    type Element = i8;
    const ELEMENTS: usize = MOST;
    #[inline(always)]
    fn lane(neighbours: [i8; MOST]) -> u32 {
        u32::from_le_bytes(neighbours.map(i8::cast_unsigned)) ^ FLIPPED
    }
}

struct Widened;

impl Lane for Widened {
    type Element = i8;
    const ELEMENTS: usize = 2;
    #[inline(always)]
    fn lane([first, last, ..]: [i8; MOST]) -> u32 {
        let [first, last] = [first, last].map(|code| u32::from(i16::from(code).cast_unsigned()));
        first | last << 16
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
        let zeros = [L::Element::zeroed(); PANELS_PER_TASK * WIDEST];
        let runs: [&[L::Element]; MOST] = std::array::from_fn(|i| {
            let column = (self.start + k) * L::ELEMENTS + i.min(L::ELEMENTS - 1);
            if column < self.m.columns {
                &self.elements[column * self.m.stride + self.row..][..rows]
            } else {
                &zeros[..rows]
            }
        });
        for (i, panel) in out.chunks_exact_mut(self.depth * self.width).enumerate() {
            let first = i * self.width;
            let runs = runs.map(|run| &run[first..rows.min(first + self.width)]);
            for (j, to) in panel[k * self.width..].iter_mut().take(runs[0].len()).enumerate() {
                *to = L::lane([runs[0][j], runs[1][j], runs[2][j], runs[3][j]]);
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
        done = super::transpose::interleave::<L, _, _, _>(v4, rows.clone(), width, panel);
    } else if let Some(v3) = pulp::x86::V3::try_new() {
        done = super::transpose::interleave::<L, _, _, _>(v3, rows.clone(), width, panel);
    }
    for (lane, row) in rows.enumerate() {
        let rest = row[(done * L::ELEMENTS).min(row.len())..].chunks(L::ELEMENTS);
        for (to, from) in panel[done * width..].chunks_exact_mut(width).zip(rest) {
            to[lane] = L::lane(neighbours(from));
        }
    }
}

/// The first elements of `from`, and zeros behind them.
#[inline(always)]
pub fn neighbours<T: Element>(from: &[T]) -> [T; MOST] {
    std::array::from_fn(|i| from.get(i).copied().unwrap_or_else(T::zeroed))
}
