//! Flash attention forward: tiles of scores that live in cache, a task for each block of query rows. Tasks depend on
//! the shapes alone and share no sums, so results do not depend on the threads.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::cpu_tile::{self as tile, KEYS, LANES, Matrix, ROWS, STEP};
use super::{Heads, OP, Segment, Segments};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::Result;

/// Query rows of a forward task.
const QUERY_BLOCK: usize = 64;

/// What forward reads and backward reads again.
pub struct Inputs {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub segments: Segments,
    pub heads: Heads,
    pub scale: f32,
}

/// The elements of [`Inputs`].
#[derive(Clone, Copy)]
pub struct Views<'a, T> {
    pub q: &'a [T],
    pub k: &'a [T],
    pub v: &'a [T],
    pub heads: Heads,
    pub scale: f32,
}

impl Inputs {
    pub fn views<T: Float>(&self) -> Result<Views<'_, T>> {
        let Self { q, k, v, heads, scale, .. } = self;
        Ok(Views { q: q.slice()?, k: k.slice()?, v: v.slice()?, heads: *heads, scale: *scale })
    }
}

/// `out` like `q`, `lse` `[query rows, NH]`.
pub fn forward(inputs: &Inputs) -> Result<(Tensor, Tensor)> {
    let Inputs { q, segments, heads, .. } = inputs;
    let nh = heads.num_attention_heads;
    let mut out = Tensor::uninit(&Device::Cpu, q.dtype(), q.shape())?;
    let mut lse = Tensor::uninit(&Device::Cpu, DType::F32, [q.shape().rows(), nh])?;
    dispatch_float!(OP, q.dtype(), T => {
        let views = inputs.views::<T>()?;
        let (mut out, mut lse) = (out.slice_mut::<T>()?, lse.slice_mut::<f32>()?);
        let mut tasks = Vec::new();
        for segment in &segments.0 {
            for (queries, kv_heads) in blocks(segment, *heads) {
                let n = queries.len() * kv_heads.len() * heads.group();
                let task = Forward {
                    views,
                    segment,
                    queries,
                    kv_heads,
                    out: out.split_off_mut(..n * heads.head_dim).unwrap_or_default(),
                    lse: lse.split_off_mut(..n).unwrap_or_default(),
                };
                tasks.push(task);
            }
        }
        tasks.into_par_iter().for_each(|task| Arch::new().dispatch(task));
        Ok(())
    })?;
    Ok((out, lse))
}

/// Query rows and key/value heads of each task: runs of whole rows, or the heads of a single row.
fn blocks(segment: &Segment, heads: Heads) -> Vec<(Range<usize>, Range<usize>)> {
    let (queries, kv_heads) = (segment.queries.clone(), heads.num_key_value_heads);
    if queries.len() == 1 {
        return (0..kv_heads).map(|head| (queries.clone(), head..head + 1)).collect();
    }
    let starts = queries.clone().step_by(QUERY_BLOCK);
    starts.map(|start| (start..queries.end.min(start + QUERY_BLOCK), 0..kv_heads)).collect()
}

impl<T> Views<'_, T> {
    /// D, padded to whole vectors.
    pub fn width(&self) -> usize {
        self.heads.head_dim.next_multiple_of(LANES)
    }

    /// The `[D]` runs of `x` (like `q`) for the rows of a tile: consecutive pairs of a query and a head of the group.
    #[inline(always)]
    pub fn query_rows<'x>(&self, x: &'x [T], kv_head: usize, pairs: Range<usize>) -> impl Iterator<Item = &'x [T]> {
        let Heads { num_attention_heads: nh, head_dim: d, .. } = self.heads;
        let group = self.heads.group();
        pairs.map(move |pair| &x[(pair / group * nh + kv_head * group + pair % group) * d..][..d])
    }

    /// The `[D]` runs of `x` (`k` or `v`) of some key rows.
    #[inline(always)]
    pub fn key_rows<'x>(&self, x: &'x [T], kv_head: usize, keys: Range<usize>) -> impl Iterator<Item = &'x [T]> {
        let Heads { num_key_value_heads: nkv, head_dim: d, .. } = self.heads;
        keys.map(move |key| &x[(key * nkv + kv_head) * d..][..d])
    }
}

/// `out` and `lse` of some query rows and key/value heads.
struct Forward<'a, T> {
    views: Views<'a, T>,
    segment: &'a Segment,
    queries: Range<usize>,
    kv_heads: Range<usize>,
    out: &'a mut [T],
    lse: &'a mut [f32],
}

/// The running state of one tile of query rows.
struct Running {
    pairs: Range<usize>,
    visible: [i32; ROWS],
    q_transposed: Vec<f32>,
    out: Vec<f32>,
    max: [f32; ROWS],
    sum: [f32; ROWS],
}

impl<T: Float> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for kv_head in self.kv_heads.clone() {
            let mut tiles = self.start(kv_head);
            self.attend(simd, kv_head, &mut tiles);
            tiles.iter().for_each(|tile| self.finish(kv_head, tile));
        }
    }
}

impl<T: Float> Forward<'_, T> {
    #[inline(always)]
    fn start(&self, kv_head: usize) -> Vec<Running> {
        let (views, width, group) = (&self.views, self.views.width(), self.views.heads.group());
        let mut q = vec![0.0; ROWS * width];
        let end = self.queries.end * group;
        let starts = (self.queries.start * group..end).step_by(ROWS);
        let tiles = starts.map(|start| {
            let pairs = start..end.min(start + ROWS);
            tile::load(&mut q, width, views.scale, views.query_rows(views.q, kv_head, pairs.clone()));
            let mut q_transposed = vec![0.0; width * ROWS];
            tile::transpose(&mut q_transposed, &q, width);
            let visible = visible(self.segment, &pairs, group);
            Running {
                pairs,
                visible,
                q_transposed,
                out: vec![0.0; ROWS * width],
                max: [f32::NEG_INFINITY; ROWS],
                sum: [0.0; ROWS],
            }
        });
        tiles.collect()
    }

    #[inline(always)]
    fn attend<S: Simd>(&self, simd: S, kv_head: usize, tiles: &mut [Running]) {
        let (views, width) = (&self.views, self.views.width());
        let (mut k, mut v) = (vec![0.0; KEYS * width], vec![0.0; KEYS * width]);
        let mut scores = [0.0; KEYS * ROWS];
        for start in (0..self.segment.visible(self.queries.end - 1)).step_by(KEYS) {
            let end = self.segment.keys.len().min(start + KEYS);
            let keys = self.segment.keys.start + start..self.segment.keys.start + end;
            tile::load(&mut k, width, 1.0, views.key_rows(views.k, kv_head, keys.clone()));
            tile::load(&mut v, width, 1.0, views.key_rows(views.v, kv_head, keys));
            for tile in tiles.iter_mut() {
                let keys = keys_to_visit(&tile.visible, start);
                if keys == 0 {
                    continue;
                }
                let scores = &mut scores[..keys * ROWS];
                scores.fill(0.0);
                let (k, v) = (Matrix { data: &k, width }, Matrix { data: &v, width });
                tile::add_product(
                    simd,
                    keys,
                    views.heads.head_dim,
                    k,
                    Matrix { data: &tile.q_transposed, width: ROWS },
                    scores,
                );
                tile::mask(scores, start, &tile.visible);
                let correction = tile::online_softmax(simd, scores, &mut tile.max, &mut tile.sum);
                for (out, correction) in tile.out.chunks_exact_mut(width).zip(correction) {
                    if correction != 1.0 {
                        out.iter_mut().for_each(|out| *out *= correction);
                    }
                }
                tile::add_transposed_product(simd, ROWS, keys, Matrix { data: scores, width: ROWS }, v, &mut tile.out);
            }
        }
    }

    #[inline(always)]
    fn finish(&mut self, kv_head: usize, tile: &Running) {
        let (d, width, group) = (self.views.heads.head_dim, self.views.width(), self.views.heads.group());
        for (r, pair) in tile.pairs.clone().enumerate() {
            let (query, head) = (pair / group - self.queries.start, pair % group);
            let row = (query * self.kv_heads.len() + kv_head - self.kv_heads.start) * group + head;
            let inverse = 1.0 / tile.sum[r];
            for (out, x) in self.out[row * d..][..d].iter_mut().zip(&tile.out[r * width..]) {
                *out = T::from_f32(x * inverse);
            }
            self.lse[row] = tile.max[r] + tile.sum[r].ln();
        }
    }
}

/// How many keys each row of a tile sees; rows past the last pair see what that one sees.
#[inline(always)]
pub fn visible(segment: &Segment, pairs: &Range<usize>, group: usize) -> [i32; ROWS] {
    std::array::from_fn(|r| segment.visible((pairs.start + r).min(pairs.end - 1) / group) as i32)
}

/// How many keys of the tile that starts at `start` some row sees, in whole steps.
#[inline(always)]
pub fn keys_to_visit(visible: &[i32; ROWS], start: usize) -> usize {
    let most = visible[ROWS - 1] as usize;
    most.saturating_sub(start).min(KEYS).next_multiple_of(STEP)
}
