//! Flash attention backward: a task for each block of keys of a key/value head, which recomputes the scores tile by
//! tile and owns its `dk`, `dv` and a share of `dq`; the shares are summed in order. Blocks depend on the shapes alone.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::cpu::{Inputs, Views, keys_to_visit, visible};
use super::cpu_tile::{self as tile, KEYS, Matrix, ROWS};
use super::{Heads, OP, Segment};
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
        let mut blocks: Vec<Vec<KeyBlock>> = inputs.segments.0.iter().map(|s| key_blocks(s, inputs.heads)).collect();
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
    let block = |kv_head: usize, start: usize| {
        let first = (queries.end + start).saturating_sub(keys.len()).max(queries.start);
        let (keys, queries) = (start..keys.len().min(start + size), first..queries.end);
        KeyBlock { segment, kv_head, keys, queries, dq: &mut [], dk: &mut [], dv: &mut [] }
    };
    let starts = move |kv_head| (0..keys.len()).step_by(size).map(move |start| block(kv_head, start));
    (0..heads.num_key_value_heads).flat_map(starts).collect()
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

/// The query rows of a tile.
struct QueryTile {
    q: Vec<f32>,
    q_transposed: Vec<f32>,
    dout: Vec<f32>,
    dout_transposed: Vec<f32>,
    visible: [i32; ROWS],
    lse: [f32; ROWS],
    delta: [f32; ROWS],
}

impl<T: Float> WithSimd for Task<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { saved, block } = self;
        let (views, width, group) = (&saved.views, saved.views.width(), saved.views.heads.group());
        let rows = block.keys.len().next_multiple_of(KEYS);
        let (mut k, mut v) = (vec![0.0; rows * width], vec![0.0; rows * width]);
        let keys = block.segment.keys.start + block.keys.start..block.segment.keys.start + block.keys.end;
        tile::load(&mut k, width, 1.0, views.key_rows(views.k, block.kv_head, keys.clone()));
        tile::load(&mut v, width, 1.0, views.key_rows(views.v, block.kv_head, keys));
        block.dk.fill(0.0);
        block.dv.fill(0.0);
        block.dq.fill(0.0);
        let end = block.queries.end * group;
        let starts = (block.queries.start * group..end).step_by(ROWS);
        let mut queries = QueryTile::new(width);
        for (start, dq) in starts.zip(block.dq.chunks_exact_mut(ROWS * width)) {
            queries.load(&saved, block.segment, block.kv_head, start..end.min(start + ROWS));
            for first in (0..block.keys.len()).step_by(KEYS) {
                let tile = first * width..(first + KEYS) * width;
                let keys = Keys {
                    start: block.keys.start + first,
                    k: Matrix { data: &k[tile.clone()], width },
                    v: Matrix { data: &v[tile.clone()], width },
                };
                queries.differentiate(
                    simd,
                    views.heads.head_dim,
                    keys,
                    dq,
                    &mut block.dk[tile.clone()],
                    &mut block.dv[tile],
                );
            }
        }
    }
}

/// A tile of keys.
struct Keys<'a> {
    /// Counted from the first of the segment.
    start: usize,
    k: Matrix<'a>,
    v: Matrix<'a>,
}

impl QueryTile {
    fn new(width: usize) -> Self {
        let [q, q_transposed, dout, dout_transposed] = std::array::from_fn(|_| vec![0.0; ROWS * width]);
        let (visible, lse, delta) = ([0; ROWS], [0.0; ROWS], [0.0; ROWS]);
        Self { q, q_transposed, dout, dout_transposed, visible, lse, delta }
    }

    #[inline(always)]
    fn load<T: Float>(&mut self, saved: &Saved<T>, segment: &Segment, kv_head: usize, pairs: Range<usize>) {
        let (views, width) = (&saved.views, saved.views.width());
        let Heads { num_attention_heads: nh, .. } = views.heads;
        let group = views.heads.group();
        tile::load(&mut self.q, width, views.scale, views.query_rows(views.q, kv_head, pairs.clone()));
        tile::load(&mut self.dout, width, 1.0, views.query_rows(saved.dout, kv_head, pairs.clone()));
        tile::transpose(&mut self.q_transposed, &self.q, width);
        tile::transpose(&mut self.dout_transposed, &self.dout, width);
        self.visible = visible(segment, &pairs, group);
        self.lse = [f32::INFINITY; ROWS]; // rows past the last pair weigh nothing
        self.delta = [0.0; ROWS];
        let outs = views.query_rows(saved.out, kv_head, pairs.clone());
        let douts = views.query_rows(saved.dout, kv_head, pairs.clone());
        for (r, ((pair, out), dout)) in pairs.zip(outs).zip(douts).enumerate() {
            self.lse[r] = saved.lse[pair / group * nh + kv_head * group + pair % group];
            self.delta[r] = tile::dot(out, dout);
        }
    }

    #[inline(always)]
    fn differentiate<S: Simd>(&self, simd: S, d: usize, keys: Keys, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let width = keys.k.width;
        let n = keys_to_visit(&self.visible, keys.start);
        if n == 0 {
            return;
        }
        let (mut scores, mut ds) = ([0.0; KEYS * ROWS], [0.0; KEYS * ROWS]);
        let (scores, ds) = (&mut scores[..n * ROWS], &mut ds[..n * ROWS]);
        tile::add_product(simd, n, d, keys.k, Matrix { data: &self.q_transposed, width: ROWS }, scores);
        tile::add_product(simd, n, d, keys.v, Matrix { data: &self.dout_transposed, width: ROWS }, ds);
        tile::mask(scores, keys.start, &self.visible);
        tile::softmax_backward(simd, scores, ds, &self.lse, &self.delta);
        let (p, ds) = (Matrix { data: scores, width: ROWS }, Matrix { data: ds, width: ROWS });
        tile::add_product(simd, n, ROWS, p, Matrix { data: &self.dout, width }, dv);
        tile::add_product(simd, n, ROWS, ds, Matrix { data: &self.q, width }, dk);
        tile::add_transposed_product(simd, ROWS, n, ds, keys.k, dq);
    }
}

/// Adds the shares of each query row, in the order of the keys.
fn collect_dq<T: Float>(inputs: &Inputs, blocks: &[Vec<KeyBlock>]) -> Result<Tensor> {
    let Heads { num_attention_heads: nh, head_dim: d, .. } = inputs.heads;
    let (group, width) = (inputs.heads.group(), d.next_multiple_of(tile::LANES));
    let mut dq = Tensor::uninit(&Device::Cpu, T::DTYPE, inputs.q.shape())?;
    host::par_rows(dq.slice_mut::<T>()?, nh * d, |first, dq| {
        let mut sum = vec![0.0; d];
        for (row, dq) in (first..).zip(dq.chunks_mut(nh * d)) {
            let segment = inputs.segments.0.partition_point(|segment| segment.queries.end <= row);
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
    let width = d.next_multiple_of(tile::LANES);
    let mut dx = Tensor::uninit(&Device::Cpu, T::DTYPE, inputs.k.shape())?;
    host::par_rows(dx.slice_mut::<T>()?, nkv * d, |first, dx| {
        for (row, dx) in (first..).zip(dx.chunks_mut(nkv * d)) {
            dx.fill(T::from_f32(0.0));
            let segment = inputs.segments.0.partition_point(|segment| segment.keys.end <= row);
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
