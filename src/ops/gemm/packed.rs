//! Large products: operands packed slab by slab, the result computed block by block.

use pulp::Arch;
use rayon::prelude::*;

use super::block::{Block, Packed};
use super::matrix::{Elements, Matrix};
use super::pairs::{self, Avx512Bf16};
use super::panels::{Lanes, Panels};
use super::tile;
use crate::dtype::Float;
use crate::error::Result;

/// Elements of `a`, or of `b`, that are packed at once: they fit the last-level cache, and a large weight is never
/// copied whole.
pub const SLAB: usize = 2 << 20;

/// The least depth of a slab.
const DEPTH: usize = 256;

/// The largest block: its part of the packed `a` fits the second-level cache.
const BLOCK: [usize; 2] = [264, 768];

/// Blocks per thread, so that none waits long for the last.
const BLOCKS_PER_THREAD: usize = 4;

/// The sum `terms`, cut in depth where the packed `a` of `m` rows would grow too large.
pub fn slabs<'a>(m: usize, terms: &[[Matrix<'a>; 2]]) -> Vec<Vec<[Matrix<'a>; 2]>> {
    let depth = (SLAB / m).max(DEPTH);
    let mut slabs = Vec::new();
    let mut slab = Vec::new();
    for [a, b] in terms {
        for k in (0..a.columns).step_by(depth) {
            if k > 0 {
                slabs.push(std::mem::take(&mut slab));
            }
            let range = k..(k + depth).min(a.columns);
            slab.push([a.columns(range.clone()), b.t().columns(range).t()]);
        }
    }
    slabs.push(slab);
    slabs
}

/// The sum over `terms` of `a · b`, stored in `out` `[m, n]` or added to it. A sum of several slabs needs an f32 `out`.
pub fn multiply<T: Float>(arch: Arch, out: &mut [T], n: usize, terms: &[[Matrix<'_>; 2]], mut add: bool) -> Result<()> {
    for slab in slabs(out.len() / n, terms) {
        multiply_slab(arch, out, n, &slab, add)?;
        add = true;
    }
    Ok(())
}

fn multiply_slab<T: Float>(arch: Arch, out: &mut [T], n: usize, terms: &[[Matrix<'_>; 2]], add: bool) -> Result<()> {
    let m = out.len() / n;
    let [height, width] = tile::shape(arch, [m, n]);
    let lanes: Vec<Lanes> = terms.iter().map(|term| lanes(term, [height, width])).collect();
    let a = pack(terms.iter().map(|[a, _]| *a), &lanes, height)?;
    let depth: usize = terms.iter().map(|[a, _]| a.columns).sum();
    let step = (SLAB / depth).next_multiple_of(width).max(width);
    for first in (0..n).step_by(step) {
        let columns = first..(first + step).min(n);
        let b = pack(terms.iter().map(|[_, b]| b.columns(columns.clone()).t()), &lanes, width)?;
        let packed = Packed { terms: a.iter().zip(&b).collect(), column: first, tile: [height, width] };
        let shape = block_shape(m, columns.len(), [height, width]);
        let blocks = Block::split(out, n, columns, shape).into_par_iter().with_max_len(1);
        blocks.try_for_each(|block| block.compute(arch, &packed, add))?;
    }
    Ok(())
}

fn pack<'a>(rows: impl Iterator<Item = Matrix<'a>>, lanes: &[Lanes], width: usize) -> Result<Vec<Panels>> {
    rows.zip(lanes).map(|(rows, lanes)| Panels::pack(rows, width, *lanes)).collect()
}

/// Pairs where both operands are bf16 and the CPU multiplies such.
fn lanes([a, b]: &[Matrix<'_>; 2], tile: [usize; 2]) -> Lanes {
    match [a.elements, b.elements] {
        [Elements::Bf16(_), Elements::Bf16(_)] if tile == pairs::TILE => {
            Avx512Bf16::detect().map_or(Lanes::Singles, Lanes::Pairs)
        }
        _ => Lanes::Singles,
    }
}

/// Halves the largest block until there are enough of them, or they are single tiles.
pub fn block_shape(m: usize, n: usize, tile: [usize; 2]) -> [usize; 2] {
    let [mut height, mut width] =
        [m.min(BLOCK[0]).next_multiple_of(tile[0]), n.min(BLOCK[1]).next_multiple_of(tile[1])];
    let enough = BLOCKS_PER_THREAD * rayon::current_num_threads();
    while m.div_ceil(height) * n.div_ceil(width) < enough {
        if height > tile[0] && (height > width || width == tile[1]) {
            height = (height / 2).next_multiple_of(tile[0]);
        } else if width > tile[1] {
            width = (width / 2).next_multiple_of(tile[1]);
        } else {
            break;
        }
    }
    [height, width]
}
