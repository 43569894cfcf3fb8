//! Flash attention backward: a task for each block of keys of a key/value head, which recomputes the scores tile by
//! tile and owns its `dk`, `dv` and a share of `dq`; the shares are summed in order. Blocks depend on the shapes alone.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::cpu::{Views, keys_to_visit, visible};
use super::cpu_tile::{self as tile, KEYS, LANES, Matrix, ROWS};
use super::{Heads, Inputs, OP, Segment};
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::Result;

/// Key blocks of a sequence, at most: each but the first adds a share of `dq`.
const MAX_BLOCKS: usize = 4;
/// Keys of a block, at least: a shorter one would not repay its pass over the queries.
const MIN_BLOCK: usize = 128;

/// `dq`, `dk` and `dv`, each where `wanted`.
pub fn backward(
    dout: &Tensor,
    inputs: &Inputs,
    out: &Tensor,
    lse: &Tensor,
    wanted: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    dispatch_float!(OP, out.dtype(), T => {
        let saved = Saved {
            views: inputs.views::<T>()?,
            dout: dout.slice()?,
            out: out.slice()?,
            lse: lse.slice()?,
        };
        let width = saved.views.width();
        let mut blocks: Vec<Vec<KeyBlock>> = inputs.segments.sequences.iter().map(|s| key_blocks(s, inputs.heads)).collect();
        let floats = blocks.iter().flatten().map(|block| block.floats(inputs.heads, width).iter().sum::<usize>()).sum();
        let mut sums = Tensor::uninit(&Device::Cpu, DType::F32, [floats])?;
        let mut rest = sums.slice_mut::<f32>()?;
        for block in blocks.iter_mut().flatten() {
            let sizes = block.floats(inputs.heads, width);
            let [dq, dk, dv] = sizes.map(|n| rest.split_off_mut(..n).unwrap_or_default());
            (block.dq, block.dk, block.dv) = (dq, dk, dv);
        }
        blocks.par_iter_mut().flatten().for_each(|block| Arch::new().dispatch(Task { saved, block }));
        let [want_dq, want_dk, want_dv] = wanted;
        let dq = want_dq.then(|| collect_dq::<T>(inputs, &blocks)).transpose()?;
        let dk = want_dk.then(|| collect_keys::<T>(inputs, &blocks, |block| block.dk)).transpose()?;
        let dv = want_dv.then(|| collect_keys::<T>(inputs, &blocks, |block| block.dv)).transpose()?;
        Ok([dq, dk, dv])
    })
}

/// What the forward saved, and the gradient of its output.
#[derive(Clone, Copy)]
struct Saved<'a, T> {
    views: Views<'a, T>,
    dout: &'a [T],
    out: &'a [T],
    lse: &'a [f32],
}

/// Some keys of a sequence, one of its key/value heads, and the queries that see them.
struct KeyBlock<'a> {
    segment: &'a Segment,
    kv_head: usize,
    /// Counted from the first of the segment.
    keys: Range<usize>,
    queries: Range<usize>,
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// All key blocks of a segment: those of the first head in ascending order, then those of the next.
fn key_blocks(segment: &Segment, heads: Heads) -> Vec<KeyBlock<'_>> {
    let Segment { queries, keys } = segment;
    let size = keys.len().div_ceil(MAX_BLOCKS).max(MIN_BLOCK).next_multiple_of(KEYS);
    let mut blocks = Vec::new();
    for kv_head in 0..heads.num_key_value_heads {
        for start in (0..keys.len()).step_by(size) {
            let first = (queries.end + start).saturating_sub(keys.len()).max(queries.start);
            let (keys, queries) = (start..keys.len().min(start + size), first..queries.end);
            blocks.push(KeyBlock { segment, kv_head, keys, queries, dq: &mut [], dk: &mut [], dv: &mut [] });
        }
    }
    blocks
}

impl KeyBlock<'_> {
    /// Elements of `dq`, `dk` and `dv`, in whole tiles.
    fn floats(&self, heads: Heads, width: usize) -> [usize; 3] {
        let keys = self.keys.len().next_multiple_of(KEYS) * width;
        [(self.queries.len() * heads.group()).next_multiple_of(ROWS) * width, keys, keys]
    }
}

struct Task<'a, 'b, T> {
    saved: Saved<'a, T>,
    block: &'a mut KeyBlock<'b>,
}

impl<T: Float> WithSimd for Task<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { saved, block } = self;
        let (width, group) = (saved.views.width(), saved.views.heads.group());
        let keys = KeyTile::load_all(&saved.views, block);
        let KeyBlock { segment, kv_head, queries, dq, dk, dv, .. } = block;
        for sums in [&mut *dq, dk, dv] {
            sums.fill(0.0);
        }
        let mut tile = QueryTile::new(width);
        let end = queries.end * group;
        let starts = (queries.start * group..end).step_by(ROWS);
        for (start, dq) in starts.zip(dq.chunks_exact_mut(ROWS * width)) {
            tile.load(simd, &saved, segment, *kv_head, start..end.min(start + ROWS));
            let sums = dk.chunks_exact_mut(KEYS * width).zip(dv.chunks_exact_mut(KEYS * width));
            for (keys, (dk, dv)) in keys.iter().zip(sums) {
                tile.differentiate(simd, keys, dq, dk, dv);
            }
        }
    }
}

struct KeyTile {
    /// Counted from the first of the segment.
    start: usize,
    k: Vec<f32>,
    k_transposed: Vec<f32>,
    v_transposed: Vec<f32>,
}

impl KeyTile {
    #[inline(always)]
    fn load_all<T: Float>(views: &Views<T>, block: &KeyBlock) -> Vec<Self> {
        let width = views.width();
        let mut tiles = Vec::new();
        let mut v = vec![0.0; KEYS * width];
        for start in block.keys.clone().step_by(KEYS) {
            let rows = block.segment.key_rows(start, KEYS);
            let mut k = vec![0.0; KEYS * width];
            tile::load(&mut k, width, 1.0, views.key_rows(views.k, block.kv_head, rows.clone()));
            tile::load(&mut v, width, 1.0, views.key_rows(views.v, block.kv_head, rows));
            let (mut k_transposed, mut v_transposed) = (vec![0.0; KEYS * width], vec![0.0; KEYS * width]);
            tile::transpose(&mut k_transposed, KEYS, Matrix { data: &k, width });
            tile::transpose(&mut v_transposed, KEYS, Matrix { data: &v, width });
            tiles.push(Self { start, k, k_transposed, v_transposed });
        }
        tiles
    }
}

/// Query rows, and what the forward and the gradient of its output say of them.
struct QueryTile {
    width: usize,
    q: Vec<f32>,
    out: Vec<f32>,
    dout: Vec<f32>,
    visible: [i32; ROWS],
    lse: [f32; ROWS],
    /// The sum of `out * dout`.
    delta: [f32; ROWS],
}

impl QueryTile {
    fn new(width: usize) -> Self {
        let [q, out, dout] = [(); 3].map(|()| vec![0.0; ROWS * width]);
        Self { width, q, out, dout, visible: [0; ROWS], lse: [0.0; ROWS], delta: [0.0; ROWS] }
    }

    #[inline(always)]
    fn load<S: Simd, T: Float>(
        &mut self,
        simd: S,
        saved: &Saved<T>,
        segment: &Segment,
        kv_head: usize,
        pairs: Range<usize>,
    ) {
        let (Saved { views, out, dout, lse }, width) = (saved, self.width);
        tile::load(&mut self.q, width, views.scale, views.query_rows(views.q, kv_head, pairs.clone()));
        tile::load(&mut self.out, width, 1.0, views.query_rows(out, kv_head, pairs.clone()));
        tile::load(&mut self.dout, width, 1.0, views.query_rows(dout, kv_head, pairs.clone()));
        self.visible = visible(segment, &pairs, views.heads.group());
        self.lse = [f32::INFINITY; ROWS]; // rows past the last pair weigh nothing
        for (r, pair) in pairs.enumerate() {
            let row = r * width..(r + 1) * width;
            self.lse[r] = lse[views.head_row(kv_head, pair)];
            self.delta[r] = tile::dot(simd, &self.out[row.clone()], &self.dout[row]);
        }
    }

    /// Adds what these rows and `keys` have to say of each other.
    #[inline(always)]
    fn differentiate<S: Simd>(&self, simd: S, keys: &KeyTile, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let (width, n) = (self.width, keys_to_visit(&self.visible, keys.start).next_multiple_of(LANES));
        if n == 0 {
            return;
        }
        let (mut scores, mut ds) = ([0.0; ROWS * KEYS], [0.0; ROWS * KEYS]);
        let (q, dout, k) =
            (Matrix { data: &self.q, width }, Matrix { data: &self.dout, width }, Matrix { data: &keys.k, width });
        let [k_transposed, v_transposed] =
            [&keys.k_transposed, &keys.v_transposed].map(|data| Matrix { data, width: KEYS });
        tile::product(simd, [ROWS, n, width], q, k_transposed, &mut scores);
        tile::product(simd, [ROWS, n, width], dout, v_transposed, &mut ds);
        for (scores, &visible) in scores.chunks_exact_mut(KEYS).zip(&self.visible) {
            scores[n.min((visible as usize).saturating_sub(keys.start))..n].fill(f32::NEG_INFINITY);
        }
        tile::softmax_backward(simd, n, &mut scores, &mut ds, &self.lse, &self.delta);
        let [p, ds] = [&scores, &ds].map(|data| Matrix { data, width: KEYS });
        tile::add_transposed_product(simd, [n, width, ROWS], p, dout, dv);
        tile::add_transposed_product(simd, [n, width, ROWS], ds, q, dk);
        tile::add_product(simd, [ROWS, width, n], ds, k, dq);
    }
}

/// Adds the shares of each query row, in the order of the keys.
fn collect_dq<T: Float>(inputs: &Inputs, blocks: &[Vec<KeyBlock>]) -> Result<Tensor> {
    let Heads { num_attention_heads: nh, head_dim: d, .. } = inputs.heads;
    let (group, width) = (inputs.heads.group(), d.next_multiple_of(LANES));
    let mut dq = Tensor::uninit(&Device::Cpu, T::DTYPE, inputs.q.shape())?;
    host::par_rows(dq.slice_mut::<T>()?, nh * d, |first, dq| {
        let mut sum = vec![0.0; d];
        for (row, dq) in (first..).zip(dq.chunks_mut(nh * d)) {
            let segment = inputs.segments.sequences.partition_point(|segment| segment.queries.end <= row);
            for (head, dq) in dq.chunks_mut(d).enumerate() {
                sum.fill(0.0);
                for block in blocks[segment].iter().filter(|b| b.kv_head == head / group && b.queries.contains(&row)) {
                    let pair = (row - block.queries.start) * group + head % group;
                    sum.iter_mut().zip(&block.dq[pair * width..]).for_each(|(sum, share)| *sum += share);
                }
                dq.iter_mut().zip(&sum).for_each(|(dq, sum)| *dq = T::from_f32(sum * inputs.scale));
            }
        }
    });
    Ok(dq)
}

/// `dk` or `dv`; zero for rows of no segment.
fn collect_keys<T: Float>(
    inputs: &Inputs,
    blocks: &[Vec<KeyBlock>],
    gradient: impl for<'b> Fn(&'b KeyBlock) -> &'b [f32] + Sync,
) -> Result<Tensor> {
    let Heads { num_key_value_heads: nkv, head_dim: d, .. } = inputs.heads;
    let width = d.next_multiple_of(LANES);
    let mut dx = Tensor::uninit(&Device::Cpu, T::DTYPE, inputs.k.shape())?;
    host::par_rows(dx.slice_mut::<T>()?, nkv * d, |first, dx| {
        for (row, dx) in (first..).zip(dx.chunks_mut(nkv * d)) {
            dx.fill(T::from_f32(0.0));
            let segment = inputs.segments.sequences.partition_point(|segment| segment.keys.end <= row);
            for block in blocks.get(segment).into_iter().flatten() {
                let Some(key) = row.checked_sub(block.segment.keys.start + block.keys.start) else { continue };
                if key < block.keys.len() {
                    let dx = &mut dx[block.kv_head * d..][..d];
                    dx.iter_mut().zip(&gradient(block)[key * width..]).for_each(|(dx, x)| *dx = T::from_f32(*x));
                }
            }
        }
    });
    Ok(dx)
}
