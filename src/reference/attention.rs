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

/// The weights of a row's visible keys: `exp(score - max) / sum`.
///
/// Maximum and sum enter as plain numbers: they are the same for all keys of the row, and carrying their terms through
/// the quotient would multiply condition numbers where errors only add. What a weight carries is the condition of its
/// own exponential: an error of the score is a relative error of the weight.
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
        *score = (*score - number(max)).exp();
        sum = sum + *score;
    }
    scores.iter().map(|&score| score / number(sum)).collect()
}

/// The value alone, as if it had been given.
fn number<R: Real>(x: R) -> R {
    R::from_f64(x.to_f64())
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
///
/// In `ds` the weights are plain numbers: the many terms of `dout vᵀ` outweigh their condition.
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
        let mut mean = R::zero();
        for (&p, &dp) in p.iter().zip(&dp) {
            mean = mean + number(p) * dp;
        }
        for ((&p, &dp), &key) in p.iter().zip(&dp).zip(&row.keys) {
            let ds = number(p) * (dp - mean) * R::from_f64(scale);
            add_scaled(&mut dv[key..][..d], p, dout);
            add_scaled(&mut dq[row.query..][..d], ds, &k[key..][..d]);
            add_scaled(&mut dk[key..][..d], ds, q);
        }
    }
    [dq, dk, dv]
}
