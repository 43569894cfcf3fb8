//! Tiles of flash attention: products of small f32 matrices in registers, and the softmax between them.
//!
//! A tile of scores is `[keys][ROWS]`, the query rows along the vector lanes: maximum, sum and log-sum-exp of a row are
//! then lanes of a vector and need no shuffles, and of all operands only `q` (and `dout`) is transposed.

use pulp::Simd;

use crate::dtype::Float;
use crate::ops::math;

/// Query rows of a tile: pairs of a query and a head of the group.
pub const ROWS: usize = 32;
/// Keys of a tile.
pub const KEYS: usize = 64;
/// Columns are padded with zeros to a multiple of this, the widest vector.
pub const LANES: usize = 16;

/// Rows of the left matrix that a product handles at a time; tiles have a multiple of them.
pub const STEP: usize = 8;

/// A row-major matrix within a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub data: &'a [f32],
    pub width: usize,
}

/// `c += a b`, `a` `[m][depth]`, `b` `[depth][n]`; m a multiple of [`STEP`], n of [`LANES`].
#[inline(always)]
pub fn add_product<S: Simd>(simd: S, m: usize, depth: usize, a: Matrix, b: Matrix, c: &mut [f32]) {
    blocks(simd, m, depth, |i, p| std::array::from_fn(|r| a.data[(i + r) * a.width + p]), b, c);
}

/// `c += aᵀ b`, `a` `[depth][m]`, `b` `[depth][n]`; m a multiple of [`STEP`], n of [`LANES`].
#[inline(always)]
pub fn add_transposed_product<S: Simd>(simd: S, m: usize, depth: usize, a: Matrix, b: Matrix, c: &mut [f32]) {
    blocks(simd, m, depth, |i, p| std::array::from_fn(|r| a.data[p * a.width + i + r]), b, c);
}

#[inline(always)]
fn blocks<S: Simd>(simd: S, m: usize, depth: usize, a: impl Fn(usize, usize) -> [f32; STEP], b: Matrix, c: &mut [f32]) {
    for i in (0..m).step_by(STEP) {
        for j in (0..b.width).step_by(S::F32_LANES) {
            let mut sums = [simd.splat_f32s(0.0); STEP];
            for p in 0..depth {
                let b = simd.partial_load_f32s(&b.data[p * b.width + j..][..S::F32_LANES]);
                for (sum, a) in sums.iter_mut().zip(a(i, p)) {
                    *sum = simd.mul_add_f32s(simd.splat_f32s(a), b, *sum);
                }
            }
            for (r, sum) in sums.into_iter().enumerate() {
                let c = &mut c[(i + r) * b.width + j..][..S::F32_LANES];
                let sum = simd.add_f32s(simd.partial_load_f32s(c), sum);
                simd.partial_store_f32s(c, sum);
            }
        }
    }
}

/// Fills `tile` `[rows][width]` with f32 rows, padded with zeros on the right and below.
#[inline(always)]
pub fn load<'a, T: Float>(tile: &mut [f32], width: usize, scale: f32, rows: impl Iterator<Item = &'a [T]>) {
    let mut filled = 0;
    for (out, row) in tile.chunks_exact_mut(width).zip(rows) {
        for (out, x) in out.iter_mut().zip(row) {
            *out = x.to_f32() * scale;
        }
        out[row.len()..].fill(0.0);
        filled += width;
    }
    tile[filled..].fill(0.0);
}

/// `[ROWS][width]` → `[width][ROWS]`
#[inline(always)]
pub fn transpose(transposed: &mut [f32], tile: &[f32], width: usize) {
    for (column, out) in transposed.chunks_exact_mut(ROWS).enumerate() {
        for (out, row) in out.iter_mut().zip(tile.chunks_exact(width)) {
            *out = row[column];
        }
    }
}

/// Sets the scores of keys that a row does not see to -infinity; the tile starts at the key `start`.
#[inline(always)]
pub fn mask(scores: &mut [f32], start: usize, visible: &[i32; ROWS]) {
    for (key, scores) in (start as i32..).zip(scores.chunks_exact_mut(ROWS)) {
        for (score, &visible) in scores.iter_mut().zip(visible) {
            *score = if key < visible { *score } else { f32::NEG_INFINITY };
        }
    }
}

/// Turns scores into `exp(score - max)` with the maximum so far, and returns what to scale earlier results by.
#[inline(always)]
pub fn online_softmax(scores: &mut [f32], max: &mut [f32; ROWS], sum: &mut [f32; ROWS]) -> [f32; ROWS] {
    let before = *max;
    for scores in scores.chunks_exact(ROWS) {
        for (max, &score) in max.iter_mut().zip(scores) {
            *max = if score > *max { score } else { *max };
        }
    }
    let correction: [f32; ROWS] = std::array::from_fn(|r| math::exp(before[r] - max[r]));
    for (sum, correction) in sum.iter_mut().zip(correction) {
        *sum *= correction;
    }
    for scores in scores.chunks_exact_mut(ROWS) {
        for ((score, max), sum) in scores.iter_mut().zip(max.iter()).zip(sum.iter_mut()) {
            *score = math::exp(*score - max);
            *sum += *score;
        }
    }
    correction
}

/// Turns scores into probabilities, and `dp`, their gradients, into those of the scores.
#[inline(always)]
pub fn softmax_backward(scores: &mut [f32], dp: &mut [f32], lse: &[f32; ROWS], delta: &[f32; ROWS]) {
    for (scores, dp) in scores.chunks_exact_mut(ROWS).zip(dp.chunks_exact_mut(ROWS)) {
        for (((score, dp), lse), delta) in scores.iter_mut().zip(dp).zip(lse).zip(delta) {
            *score = math::exp(*score - lse);
            *dp = *score * (*dp - delta);
        }
    }
}

/// The sum of `a * b`.
#[inline(always)]
pub fn dot<T: Float>(a: &[T], b: &[T]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a.to_f32() * b.to_f32();
        }
    }
    lanes.iter().sum()
}
