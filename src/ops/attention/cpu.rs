//! Flash attention forward: tiles of scores that live in cache, a task for each block of query rows. Tasks depend on
//! the shapes alone and share no sums, so results do not depend on the threads.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

pub use super::cpu_backward::backward;
use super::cpu_tile::{self as tile, KEYS, LANES, Matrix, ROWS, STEP};
use super::{Heads, Inputs, OP, Segment, Segments};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::Result;

/// Query rows of a task.
const QUERY_BLOCK: usize = 64;
/// With fewer multiplications than this, some 10 µs, waking the other threads does not pay.
const SERIAL: usize = 1 << 20;

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

impl<T> Views<'_, T> {
    /// D, padded to whole vectors.
    pub fn width(&self) -> usize {
        self.heads.head_dim.next_multiple_of(LANES)
    }

    /// Where one of the rows that share a key/value head stands in `lse` and, in units of D, in `q` and `out`.
    /// These rows, pairs of a query and a head of the group, are counted from the first query of the batch.
    #[inline(always)]
    pub fn head_row(&self, kv_head: usize, pair: usize) -> usize {
        let group = self.heads.group();
        pair / group * self.heads.num_attention_heads + kv_head * group + pair % group
    }

    /// The `[D]` runs of `x`, shaped like `q`.
    #[inline(always)]
    pub fn query_rows<'x>(&self, x: &'x [T], kv_head: usize, pairs: Range<usize>) -> impl Iterator<Item = &'x [T]> {
        pairs.map(move |pair| &x[self.head_row(kv_head, pair) * self.heads.head_dim..][..self.heads.head_dim])
    }

    /// The `[D]` runs of `x`, shaped like `k`.
    #[inline(always)]
    pub fn key_rows<'x>(&self, x: &'x [T], kv_head: usize, keys: Range<usize>) -> impl Iterator<Item = &'x [T]> {
        let Heads { num_key_value_heads: nkv, head_dim: d, .. } = self.heads;
        keys.map(move |key| &x[(key * nkv + kv_head) * d..][..d])
    }
}

/// `out` like `q`, `lse` `[query rows, NH]`.
pub fn forward(inputs: &Inputs) -> Result<(Tensor, Tensor)> {
    let Inputs { q, segments, heads, .. } = inputs;
    let mut out = Tensor::uninit(&Device::Cpu, q.dtype(), q.shape())?;
    let mut lse = Tensor::uninit(&Device::Cpu, DType::F32, [q.shape().rows(), heads.num_attention_heads])?;
    dispatch_float!(OP, q.dtype(), T => {
        let views = inputs.views::<T>()?;
        let (mut out, mut lse) = (out.slice_mut::<T>()?, lse.slice_mut::<f32>()?);
        let mut tasks = Vec::new();
        for segment in segments.sequences.iter() {
            for (queries, kv_heads) in blocks(segment, *heads) {
                let n = queries.len() * kv_heads.len() * heads.group();
                let lse = lse.split_off_mut(..n).unwrap_or_default();
                let out = out.split_off_mut(..n * heads.head_dim).unwrap_or_default();
                tasks.push(Forward { views, segment, queries, kv_heads, out, lse });
            }
        }
        let run = |task| Arch::new().dispatch::<Forward<T>>(task);
        if multiplications(segments, *heads) < SERIAL {
            tasks.into_iter().for_each(run);
        } else {
            tasks.into_par_iter().rev().for_each(run); // the last blocks of a sequence see the most keys
        }
        Ok(())
    })?;
    Ok((out, lse))
}

fn multiplications(segments: &Segments, heads: Heads) -> usize {
    let rows = |segment: &Segment| (segment.queries.len() * heads.group()).next_multiple_of(LANES);
    let pairs: usize = segments.sequences.iter().map(|segment| rows(segment) * segment.keys.len()).sum();
    2 * pairs * heads.num_key_value_heads * heads.head_dim
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

/// A task: `out` and `lse` of some query rows and key/value heads.
struct Forward<'a, T> {
    views: Views<'a, T>,
    segment: &'a Segment,
    queries: Range<usize>,
    kv_heads: Range<usize>,
    out: &'a mut [T],
    lse: &'a mut [f32],
}

impl<T: Float> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (views, width) = (self.views, self.views.width());
        let (mut k, mut v) = (vec![0.0; KEYS * width], vec![0.0; KEYS * width]);
        for kv_head in self.kv_heads.clone() {
            let mut tiles = self.tiles(kv_head);
            for start in (0..self.segment.visible(self.queries.end - 1)).step_by(KEYS) {
                let keys = self.segment.key_rows(start, KEYS);
                tile::load(&mut k, width, 1.0, views.key_rows(views.k, kv_head, keys.clone()));
                tile::load(&mut v, width, 1.0, views.key_rows(views.v, kv_head, keys));
                for tile in &mut tiles {
                    tile.attend(simd, start, Matrix { data: &k, width }, Matrix { data: &v, width });
                }
            }
            for tile in &tiles {
                self.finish(kv_head, tile);
            }
        }
    }
}

impl<T: Float> Forward<'_, T> {
    #[inline(always)]
    fn tiles(&self, kv_head: usize) -> Vec<Running> {
        let group = self.views.heads.group();
        let end = self.queries.end * group;
        let mut tiles = Vec::new();
        for start in (self.queries.start * group..end).step_by(ROWS) {
            tiles.push(Running::new(&self.views, self.segment, kv_head, start..end.min(start + ROWS)));
        }
        tiles
    }

    #[inline(always)]
    fn finish(&mut self, kv_head: usize, tile: &Running) {
        let (views, d, width) = (&self.views, self.views.heads.head_dim, self.views.width());
        let first = views.head_row(self.kv_heads.start, self.queries.start * views.heads.group());
        for (r, pair) in tile.pairs.clone().enumerate() {
            let row = views.head_row(kv_head, pair) - first;
            let inverse = 1.0 / tile.sum[r];
            for (out, x) in self.out[row * d..][..d].iter_mut().zip(&tile.out[r * width..]) {
                *out = T::from_f32(x * inverse);
            }
            self.lse[row] = tile.max[r] + tile.sum[r].ln();
        }
    }
}

/// What is known of one tile of query rows after some of the keys.
struct Running {
    pairs: Range<usize>,
    q_transposed: Vec<f32>,
    visible: [i32; ROWS],
    out: Vec<f32>,
    max: [f32; ROWS],
    sum: [f32; ROWS],
}

impl Running {
    #[inline(always)]
    fn new<T: Float>(views: &Views<T>, segment: &Segment, kv_head: usize, pairs: Range<usize>) -> Self {
        let (width, rows) = (views.width(), pairs.len().next_multiple_of(LANES));
        let (mut q, mut q_transposed) = (vec![0.0; rows * width], vec![0.0; rows * width]);
        tile::load(&mut q, width, views.scale, views.query_rows(views.q, kv_head, pairs.clone()));
        tile::transpose(&mut q_transposed, rows, Matrix { data: &q, width });
        let visible = visible(segment, &pairs, views.heads.group());
        let (out, max, sum) = (vec![0.0; rows * width], [f32::NEG_INFINITY; ROWS], [0.0; ROWS]);
        Self { pairs, q_transposed, visible, out, max, sum }
    }

    /// Takes in the tile of keys that starts at `start`.
    #[inline(always)]
    fn attend<S: Simd>(&mut self, simd: S, start: usize, k: Matrix, v: Matrix) {
        let keys = keys_to_visit(&self.visible, start).next_multiple_of(STEP);
        if keys == 0 {
            return;
        }
        let rows = self.pairs.len().next_multiple_of(LANES);
        let (mut scores, mut correction) = ([0.0; KEYS * ROWS], [0.0; ROWS]);
        let (scores, correction) = (&mut scores[..keys * rows], &mut correction[..rows]);
        tile::product(simd, [keys, rows, k.width], k, Matrix { data: &self.q_transposed, width: rows }, scores);
        tile::mask(scores, start, &self.visible[..rows]);
        tile::online_softmax(simd, scores, &mut self.max[..rows], &mut self.sum[..rows], correction);
        tile::scale_rows(&mut self.out, v.width, correction);
        let m = self.pairs.len().next_multiple_of(STEP);
        tile::add_transposed_product(simd, [m, v.width, keys], Matrix { data: scores, width: rows }, v, &mut self.out);
    }
}

/// How many keys each row of a tile sees; rows past the last pair see what that one sees.
#[inline(always)]
pub fn visible(segment: &Segment, pairs: &Range<usize>, group: usize) -> [i32; ROWS] {
    std::array::from_fn(|r| segment.visible((pairs.start + r).min(pairs.end - 1) / group) as i32)
}

/// How many keys of the tile that starts at `start` some row sees.
#[inline(always)]
pub fn keys_to_visit(visible: &[i32; ROWS], start: usize) -> usize {
    (visible[ROWS - 1] as usize).saturating_sub(start).min(KEYS)
}
