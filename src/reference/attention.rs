//! `o = softmax(scale * q kᵀ, over the keys up to the query's own) v`, one head at a time. Vaswani et al. 2017,
//! arXiv:1706.03762; query heads share key/value heads in groups: Ainslie et al. 2023, arXiv:2305.13245.

use std::ops::Range;

use super::Real;

/// NH, NKV and D.
pub type Heads = [usize; 3];

/// The query rows and the key rows of each sequence; the last query sees all keys.
pub type Segments<'a> = &'a [(Range<usize>, Range<usize>)];

/// One head of one query row, as offsets of `[D]` runs: into `q`, and into `k` and `v` for each visible key.
struct Row {
    query: usize,
    keys: Vec<usize>,
}

fn rows(segments: Segments, [nh, nkv, d]: Heads) -> Vec<Row> {
    let mut rows = Vec::new();
    for (queries, keys) in segments {
        for (i, query) in queries.clone().enumerate() {
            let visible = keys.len() - queries.len() + i + 1;
            for head in 0..nh {
                let keys = keys.clone().take(visible).map(|key| (key * nkv + head / (nh / nkv)) * d).collect();
                rows.push(Row { query: (query * nh + head) * d, keys });
            }
        }
    }
    rows
}

/// The weights of a row's visible keys.
///
/// A weight that leaves here is a term of its own, `from_f64(to_f64)`: the quotient of two sums of exponentials would
/// otherwise carry the product of their condition numbers, hundreds of times the error that any evaluation makes.
fn probabilities<R: Real>(row: &Row, q: &[R], k: &[R], d: usize, scale: f64) -> Vec<R> {
    let mut scores = Vec::new();
    for &key in &row.keys {
        scores.push(dot(&q[row.query..][..d], &k[key..][..d]) * R::from_f64(scale));
    }
    let mut max = scores[0];
    for &score in &scores {
        max = if score > max { score } else { max };
    }
    let mut sum = R::zero();
    for score in &mut scores {
        *score = (*score - max).exp();
        sum = sum + *score;
    }
    scores.iter().map(|&score| R::from_f64((score / sum).to_f64())).collect()
}

fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    let mut sum = R::zero();
    for (&a, &b) in a.iter().zip(b) {
        sum = sum + a * b;
    }
    sum
}

/// `y += a * x`
fn add_scaled<R: Real>(y: &mut [R], a: R, x: &[R]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = *y + a * x;
    }
}

/// `q` `[query rows, NH * D]`, `k`, `v` `[key rows, NKV * D]` → `out` `[query rows, NH * D]`.
pub fn forward<R: Real>(q: &[R], k: &[R], v: &[R], segments: Segments, heads: Heads, scale: f64) -> Vec<R> {
    let d = heads[2];
    let mut out = vec![R::zero(); q.len()];
    for row in rows(segments, heads) {
        let p = probabilities(&row, q, k, d, scale);
        for (&p, &key) in p.iter().zip(&row.keys) {
            add_scaled(&mut out[row.query..][..d], p, &v[key..][..d]);
        }
    }
    out
}

/// `dout` like `q` → `dq`, `dk`, `dv`, with `p` the weights and `ds = p * (dout vᵀ - sum(p * dout vᵀ)) * scale`:
/// `dv = pᵀ dout`, `dq = ds k`, `dk = dsᵀ q`.
pub fn backward<R: Real>(
    dout: &[R],
    q: &[R],
    k: &[R],
    v: &[R],
    segments: Segments,
    heads: Heads,
    scale: f64,
) -> [Vec<R>; 3] {
    let d = heads[2];
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![R::zero(); x.len()]);
    for row in rows(segments, heads) {
        let p = probabilities(&row, q, k, d, scale);
        let (q, dout) = (&q[row.query..][..d], &dout[row.query..][..d]);
        let dp: Vec<R> = row.keys.iter().map(|&key| dot(dout, &v[key..][..d])).collect();
        let mean = dot(&p, &dp);
        for ((&p, &dp), &key) in p.iter().zip(&dp).zip(&row.keys) {
            let ds = p * (dp - mean) * R::from_f64(scale);
            add_scaled(&mut dv[key..][..d], p, dout);
            add_scaled(&mut dq[row.query..][..d], ds, &k[key..][..d]);
            add_scaled(&mut dk[key..][..d], ds, q);
        }
    }
    [dq, dk, dv]
}
