//! Tiles of flash attention: products of small f32 matrices in registers, and the softmax between them.
//!
//! A tile of scores is `[keys][ROWS]`, the query rows along the vector lanes: maximum, sum and log-sum-exp of a row are
//! then lanes of a vector and need no shuffles, and of all operands only `q` (and `dout`) is transposed.

use pulp::Simd;

use crate::dtype::Float;

/// Rows of a tile, at most: pairs of a query and a head of the group.
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

/// `c = a b`, `a` `[m][depth]`, `b` `[depth][n]`, `c` as wide as `b`; m a multiple of [`STEP`], n of [`LANES`].
#[inline(always)]
pub fn product<S: Simd>(simd: S, size: [usize; 3], a: Matrix, b: Matrix, c: &mut [f32]) {
    row_blocks(simd, size, a, b, c, false);
}

/// `c += a b`, otherwise as [`product`].
#[inline(always)]
pub fn add_product<S: Simd>(simd: S, size: [usize; 3], a: Matrix, b: Matrix, c: &mut [f32]) {
    row_blocks(simd, size, a, b, c, true);
}

#[inline(always)]
fn row_blocks<S: Simd>(simd: S, [m, n, depth]: [usize; 3], a: Matrix, b: Matrix, c: &mut [f32], add: bool) {
    for i in (0..m).step_by(STEP) {
        let mut rows: [&[f32]; STEP] = [&[]; STEP];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &a.data[(i + r) * a.width..][..depth];
        }
        blocks(simd, [n, depth], |p: usize, r: usize| rows[r][p], b, &mut c[i * b.width..], add);
    }
}

/// `c += aᵀ b`, `a` `[depth][m]`, otherwise as [`product`].
#[inline(always)]
pub fn add_transposed_product<S: Simd>(simd: S, [m, n, depth]: [usize; 3], a: Matrix, b: Matrix, c: &mut [f32]) {
    for i in (0..m).step_by(STEP) {
        let columns = &a.data[i..];
        let at = |p: usize, r: usize| columns[p * a.width..][..STEP][r];
        blocks(simd, [n, depth], at, b, &mut c[i * b.width..], true);
    }
}

/// [`STEP`] rows of a product, a pair of vectors at a time; `a(p, r)` is element `p` of row `r`.
#[inline(always)]
fn blocks<S: Simd>(
    simd: S,
    [n, depth]: [usize; 2],
    a: impl Fn(usize, usize) -> f32,
    b: Matrix,
    c: &mut [f32],
    add: bool,
) {
    let width = b.width / S::F32_LANES;
    let (b, c) = (S::as_simd_f32s(b.data).0, S::as_mut_simd_f32s(c).0);
    let mut j = 0;
    while (j + 2) * S::F32_LANES <= n {
        block::<S, 2>(simd, depth, &a, &b[j..], &mut c[j..], width, add);
        j += 2;
    }
    if j * S::F32_LANES < n {
        block::<S, 1>(simd, depth, &a, &b[j..], &mut c[j..], width, add);
    }
}

/// `N` vectors of [`STEP`] rows, summed in registers.
#[inline(always)]
fn block<S: Simd, const N: usize>(
    simd: S,
    depth: usize,
    a: impl Fn(usize, usize) -> f32,
    b: &[S::f32s],
    c: &mut [S::f32s],
    width: usize,
    add: bool,
) {
    let mut sums = [[simd.splat_f32s(0.0); N]; STEP];
    for p in 0..depth {
        let b: [S::f32s; N] = std::array::from_fn(|n| b[p * width + n]);
        for (r, sums) in sums.iter_mut().enumerate() {
            let a = simd.splat_f32s(a(p, r));
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = simd.mul_add_e_f32s(a, b, *sum);
            }
        }
    }
    for (c, sums) in c.chunks_mut(width).zip(sums) {
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = if add { simd.add_f32s(*c, sum) } else { sum };
        }
    }
}

/// Fills `tile` `[rows][width]` with f32 rows, padded with zeros on the right and below.
#[inline(always)]
pub fn load<'a, T: Float>(tile: &mut [f32], width: usize, scale: f32, rows: impl Iterator<Item = &'a [T]>) {
    let mut filled = 0;
    for (out, row) in tile.chunks_exact_mut(width).zip(rows) {
        let (out, padding) = out.split_at_mut(row.len());
        let (whole, rest) = row.as_chunks::<LANES>();
        let (whole_out, rest_out) = out.as_chunks_mut::<LANES>();
        for (out, row) in whole_out.iter_mut().zip(whole) {
            let mut lanes = [0.0; LANES]; // all reads before the first write: vectorises without a test for overlap
            for (lane, x) in lanes.iter_mut().zip(row) {
                *lane = x.to_f32() * scale;
            }
            *out = lanes;
        }
        for (out, x) in rest_out.iter_mut().zip(rest) {
            *out = x.to_f32() * scale;
        }
        padding.fill(0.0);
        filled += width;
    }
    tile[filled..].fill(0.0);
}

/// Transposes `tile` into `transposed` `[tile.width][rows]`.
#[inline(always)]
pub fn transpose(transposed: &mut [f32], rows: usize, tile: Matrix) {
    for (column, out) in transposed.chunks_exact_mut(rows).enumerate() {
        for (out, row) in out.iter_mut().zip(tile.data.chunks_exact(tile.width)) {
            *out = row[column];
        }
    }
}

/// Sets to -infinity those scores `[keys][rows]` whose key, counted from `start`, a row does not see.
#[inline(always)]
pub fn mask(scores: &mut [f32], start: usize, visible: &[i32]) {
    if visible.first().is_some_and(|&fewest| start + scores.len() / visible.len() <= fewest as usize) {
        return;
    }
    for (key, scores) in (start as i32..).zip(scores.chunks_exact_mut(visible.len())) {
        for (score, &visible) in scores.iter_mut().zip(visible) {
            *score = if key < visible { *score } else { f32::NEG_INFINITY };
        }
    }
}

/// Turns scores `[keys][rows]` into `exp(score - max)` with the maximum so far, adds them to `sum`, and leaves in
/// `correction` what earlier results have to be scaled by.
#[inline(always)]
pub fn online_softmax<S: Simd>(simd: S, scores: &mut [f32], max: &mut [f32], sum: &mut [f32], correction: &mut [f32]) {
    let (scores, max, sum) = (S::as_mut_simd_f32s(scores).0, S::as_mut_simd_f32s(max).0, S::as_mut_simd_f32s(sum).0);
    let width = max.len();
    for (c, correction) in S::as_mut_simd_f32s(correction).0.iter_mut().enumerate() {
        let before = max[c];
        for rows in scores.chunks_exact(4 * width) {
            let first = simd.max_f32s(rows[c], rows[width + c]);
            let second = simd.max_f32s(rows[2 * width + c], rows[3 * width + c]);
            max[c] = simd.max_f32s(simd.max_f32s(first, second), max[c]);
        }
        *correction = exp(simd, simd.sub_f32s(before, max[c]));
        sum[c] = simd.mul_f32s(sum[c], *correction);
        for rows in scores.chunks_exact_mut(4 * width) {
            let mut four = simd.splat_f32s(0.0);
            for row in rows.chunks_exact_mut(width) {
                row[c] = exp(simd, simd.sub_f32s(row[c], max[c]));
                four = simd.add_f32s(four, row[c]);
            }
            sum[c] = simd.add_f32s(sum[c], four);
        }
    }
}

/// Scales each row of `x` `[rows][width]`.
#[inline(always)]
pub fn scale_rows(x: &mut [f32], width: usize, scales: &[f32]) {
    for (row, &scale) in x.chunks_exact_mut(width).zip(scales) {
        if scale != 1.0 {
            for x in row {
                *x *= scale;
            }
        }
    }
}

/// Turns `n` scores of each row into probabilities, and `dp`, their gradients, into those of the scores;
/// `scores`, `dp` `[rows][KEYS]`, n a multiple of [`LANES`].
#[inline(always)]
pub fn softmax_backward<S: Simd>(simd: S, n: usize, scores: &mut [f32], dp: &mut [f32], lse: &[f32], delta: &[f32]) {
    let rows = scores.chunks_exact_mut(KEYS).zip(dp.chunks_exact_mut(KEYS));
    for (((scores, dp), lse), delta) in rows.zip(lse).zip(delta) {
        let (lse, delta) = (simd.splat_f32s(*lse), simd.splat_f32s(*delta));
        let (scores, dp) = (S::as_mut_simd_f32s(&mut scores[..n]).0, S::as_mut_simd_f32s(&mut dp[..n]).0);
        for (score, dp) in scores.iter_mut().zip(dp) {
            *score = exp(simd, simd.sub_f32s(*score, lse));
            *dp = simd.mul_f32s(*score, simd.sub_f32s(*dp, delta));
        }
    }
}

/// `eˣ` to 1 ulp or so for x not far above 0; 0 below -87, where it would leave the normal numbers; NaN for NaN.
///
/// [`crate::ops::math::exp`] in half the operations: fused multiply-adds, and no care for subnormal and huge results.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const LN2_HIGH: f32 = 0.693_359_4; // 10 bits of ln 2: n * LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0 + 127.0; // 1.5 * 2^23: adding it rounds to an integer, here in bits n + 127
    const POLYNOMIAL: [f32; 5] = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let splat = |value| simd.splat_f32s(value);
    let shifted = simd.mul_add_e_f32s(x, splat(std::f32::consts::LOG2_E), splat(ROUND));
    let n = simd.sub_f32s(shifted, splat(ROUND));
    let r = simd.mul_add_e_f32s(n, splat(-LN2_HIGH), x);
    let r = simd.mul_add_e_f32s(n, splat(-LN2_LOW), r);
    let mut p = splat(1.987_569_1e-4);
    for c in POLYNOMIAL {
        p = simd.mul_add_e_f32s(p, r, splat(c));
    }
    let y = simd.add_f32s(simd.mul_add_e_f32s(p, simd.mul_f32s(r, r), r), splat(1.0));
    let bits = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let y = simd.mul_f32s(y, simd.transmute_f32s_u32s(bits));
    simd.select_f32s(simd.less_than_f32s(x, splat(-87.0)), splat(0.0), y)
}

/// The sum of `a * b`.
#[inline(always)]
pub fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in S::as_simd_f32s(a).0.iter().zip(S::as_simd_f32s(b).0) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    simd.reduce_sum_f32s(sum)
}
