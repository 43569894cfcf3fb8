//! Causal grouped-query attention over packed sequences.

mod cpu;
mod cpu_backward;
mod cpu_tile;
mod cuda;
mod cuda_tiles;
mod cuda_work;

pub(crate) use cuda::KERNELS;
pub(crate) use cuda_tiles::Backward as BackwardTile;

use std::ops::Range;
use std::sync::Arc;

use super::check;
use crate::autograd::{Tensor, record};
use crate::error::{Error, Result};

const OP: &str = "attention";

/// How the columns of q, k and v divide into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// NH: heads of q.
    pub num_attention_heads: usize,
    /// NKV: heads of k and v, each shared by `NH / NKV` heads of q.
    pub num_key_value_heads: usize,
    /// D: columns of a head.
    pub head_dim: usize,
}

impl Heads {
    /// Query heads that share a key/value head.
    fn group(self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    fn refuse_misfits(self) -> Result<()> {
        let Self { num_attention_heads: nh, num_key_value_heads: nkv, head_dim: d } = self;
        if nkv == 0 || nh == 0 || !nh.is_multiple_of(nkv) {
            return Err(Error::shape(OP, format!("{nh} attention heads cannot share {nkv} key/value heads evenly")));
        }
        if d == 0 {
            return Err(Error::shape(OP, "head_dim must be at least 1"));
        }
        Ok(())
    }
}

/// The rows of each sequence of a packed batch: its queries, and the keys they look at.
///
/// The last query sees every key of its sequence, the one before it all but the last, and so on.
#[derive(Clone, Debug)]
pub struct Segments {
    sequences: Arc<[Segment]>,
    /// What GPUs have of them, shared by all clones.
    lists: Arc<cuda_work::Lists>,
}

#[derive(Clone, Debug)]
struct Segment {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Segment {
    /// How many keys the query row `query` sees.
    fn visible(&self, query: usize) -> usize {
        self.keys.len() + query + 1 - self.queries.end
    }

    /// The rows of up to `n` keys from the key `start` on.
    fn key_rows(&self, start: usize, n: usize) -> Range<usize> {
        self.keys.start + start..self.keys.end.min(self.keys.start + start + n)
    }
}

impl Segments {
    fn new(sequences: impl IntoIterator<Item = Segment>) -> Self {
        Self { sequences: sequences.into_iter().collect(), lists: Arc::default() }
    }

    /// Sequences of these lengths, one after another, whose queries and keys are the same rows.
    pub fn packed(lengths: &[usize]) -> Self {
        let mut end = 0;
        let rows = lengths.iter().map(|length| {
            end += length;
            end - length..end
        });
        Self::new(rows.map(|rows| Segment { queries: rows.clone(), keys: rows }))
    }

    /// One sequence whose `query_rows` latest tokens look at the first `key_rows` rows of a cache.
    pub fn cached(query_rows: usize, key_rows: usize) -> Self {
        Self::new([Segment { queries: 0..query_rows, keys: 0..key_rows }])
    }

    /// Sequences with caches of their own: the number of query rows of each, and its key rows in a shared buffer,
    /// in ascending order; rows between them are skipped.
    pub fn caches(sequences: impl IntoIterator<Item = (usize, Range<usize>)>) -> Self {
        let mut end = 0;
        Self::new(sequences.into_iter().map(|(query_rows, keys)| {
            end += query_rows;
            Segment { queries: end - query_rows..end, keys }
        }))
    }

    /// The positions of each sequence's queries in it; the last is that of its last key.
    pub fn texts(&self) -> Vec<Range<usize>> {
        self.sequences.iter().map(|s| s.keys.len() - s.queries.len()..s.keys.len()).collect()
    }

    /// What the sizes of a GPU's launches depend on as a cache grows, beside the number of queries.
    pub fn launch_shape(key_rows: usize) -> usize {
        cuda::decode_parts(key_rows)
    }

    fn refuse_misfits(&self, query_rows: usize, key_rows: usize) -> Result<()> {
        let covered = self.sequences.last().map_or(0, |last| last.queries.end);
        if covered != query_rows {
            return Err(Error::shape(OP, format!("the segments cover {covered} query rows, q has {query_rows}")));
        }
        let mut end = 0;
        for (i, Segment { queries, keys }) in self.sequences.iter().enumerate() {
            if keys.start < end || keys.end < keys.start || keys.end > key_rows {
                let detail = format!("key rows {keys:?} of segment {i} must lie in {end}..{key_rows}");
                return Err(Error::shape(OP, detail));
            }
            if queries.len() > keys.len() {
                let detail = format!("segment {i} has {} queries but {} keys", queries.len(), keys.len());
                return Err(Error::shape(OP, detail));
            }
            end = keys.end;
        }
        Ok(())
    }
}

/// What forward reads and backward reads again.
struct Inputs {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    heads: Heads,
    scale: f32,
}

/// Scaled dot-product attention: each query averages `v` over its sequence's keys up to its own, weighted by
/// `softmax(scale * q kᵀ)`.
///
/// - Shapes: `q` `[query rows, NH * D]`, `k`, `v` `[key rows, NKV * D]` → `[query rows, NH * D]`; query head `h` reads
///   key/value head `h / (NH / NKV)`
/// - Dtypes: f32, bf16, all alike; computed in f32. A GPU takes D that are multiples of 8 up to 256
/// - Gradients: `q`, `k`, `v`; saves them, the output, and its log-sum-exp, NH of each query row in f32, never `[T, T]`
/// - Source: Dao 2023, <https://arxiv.org/abs/2307.08691>
///
/// # Errors
/// [`Error::Shape`] if `q`, `k`, `v` do not have the columns of `heads` and the rows of `segments`, a segment has more
/// queries than keys, or a GPU does not take D; [`Error::Input`] if `scale` is not above 0; [`Error::DType`] if the
/// dtypes differ.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, heads: Heads, scale: f32) -> Result<Tensor> {
    refuse_misfits(q, k, v, segments, heads)?;
    if scale.is_nan() || scale <= 0.0 {
        return Err(Error::input("scale", format!("attention: it must be above 0, got {scale}")));
    }
    let inputs = Inputs { q: q.detach(), k: k.detach(), v: v.detach(), segments: segments.clone(), heads, scale };
    let (out, lse) = on_device!(q, forward(&inputs))?;
    let saved_out = out.clone();
    let wanted = [q, k, v].map(Tensor::is_tracked);
    let [out] = record([q, k, v], [out], move |[dout]| {
        let Some(dout) = dout else { return Ok([None, None, None]) };
        on_device!(dout, backward(&dout, &inputs, &saved_out, &lse, wanted))
    });
    Ok(out)
}

fn refuse_misfits(q: &Tensor, k: &Tensor, v: &Tensor, segments: &Segments, heads: Heads) -> Result<()> {
    heads.refuse_misfits()?;
    let (query_rows, key_rows) = (q.shape().rows(), k.shape().rows());
    check::shape(OP, "q", q, [query_rows, heads.num_attention_heads.saturating_mul(heads.head_dim)])?;
    for (name, x) in [("k", k), ("v", v)] {
        check::shape(OP, name, x, [key_rows, heads.num_key_value_heads.saturating_mul(heads.head_dim)])?;
        check::alike(OP, name, x, q)?;
    }
    check::float(OP, q.dtype())?;
    segments.refuse_misfits(query_rows, key_rows)
}
