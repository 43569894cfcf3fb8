//! Tiles of flash attention: products of small f32 matrices in registers, and the softmax between them.
//!
//! A tile of scores is `[keys][ROWS]`, the query rows along the vector lanes: maximum, sum and log-sum-exp of a row are
//! then lanes of a vector and need no shuffles, and of all operands only `q` (and `dout`) is transposed.

use pulp::Simd;

use crate::dtype::Float;

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
    for i in (0..m).step_by(STEP) {
        let rows: [&[f32]; STEP] = std::array::from_fn(|r| &a.data[(i + r) * a.width..][..depth]);
        add_rows(simd, depth, |p: usize, r: usize| rows[r][p], b, &mut c[i * b.width..][..STEP * b.width]);
    }
}

/// `c += aᵀ b`, `a` `[depth][m]`, `b` `[depth][n]`; m a multiple of [`STEP`], n of [`LANES`].
#[inline(always)]
pub fn add_transposed_product<S: Simd>(simd: S, m: usize, depth: usize, a: Matrix, b: Matrix, c: &mut [f32]) {
    for i in (0..m).step_by(STEP) {
        let columns = &a.data[i..];
        let at = |p: usize, r: usize| columns[p * a.width..][..STEP][r];
        add_rows(simd, depth, at, b, &mut c[i * b.width..][..STEP * b.width]);
    }
}

/// Adds to [`STEP`] rows.
#[inline(always)]
fn add_rows<S: Simd>(simd: S, depth: usize, a: impl Fn(usize, usize) -> f32, b: Matrix, c: &mut [f32]) {
    let width = b.width / S::F32_LANES;
    let (b, _) = S::as_simd_f32s(b.data);
    let (c, _) = S::as_mut_simd_f32s(c);
    let mut j = 0;
    while j + 2 <= width {
        add_block::<S, 2>(simd, depth, &a, &b[j..], &mut c[j..], width);
        j += 2;
    }
    if j < width {
        add_block::<S, 1>(simd, depth, &a, &b[j..], &mut c[j..], width);
    }
}

/// Adds to `N` vectors of [`STEP`] rows, summed in registers.
#[inline(always)]
fn add_block<S: Simd, const N: usize>(
    simd: S,
    depth: usize,
    a: impl Fn(usize, usize) -> f32,
    b: &[S::f32s],
    c: &mut [S::f32s],
    width: usize,
) {
    let mut sums = [[simd.splat_f32s(0.0); N]; STEP];
    for p in 0..depth {
        let b: [S::f32s; N] = std::array::from_fn(|n| b[p * width + n]);
        for r in 0..STEP {
            let a = simd.splat_f32s(a(p, r));
            for n in 0..N {
                sums[r][n] = simd.mul_add_e_f32s(a, b[n], sums[r][n]);
            }
        }
    }
    for (c, sums) in c.chunks_mut(width).zip(sums) {
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = simd.add_f32s(*c, sum);
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
            *out = std::array::from_fn(|i| row[i].to_f32() * scale);
        }
        for (out, x) in rest_out.iter_mut().zip(rest) {
            *out = x.to_f32() * scale;
        }
        padding.fill(0.0);
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
    if start + scores.len() / ROWS <= visible[0] as usize {
        return;
    }
    for (key, scores) in (start as i32..).zip(scores.chunks_exact_mut(ROWS)) {
        for (score, &visible) in scores.iter_mut().zip(visible) {
            *score = if key < visible { *score } else { f32::NEG_INFINITY };
        }
    }
}

/// Turns scores into `exp(score - max)` with the maximum so far, and returns what to scale earlier results by.
#[inline(always)]
pub fn online_softmax<S: Simd>(
    simd: S,
    scores: &mut [f32],
    max: &mut [f32; ROWS],
    sum: &mut [f32; ROWS],
) -> [f32; ROWS] {
    let width = ROWS / S::F32_LANES;
    let mut correction = [0.0; ROWS];
    let (scores, _) = S::as_mut_simd_f32s(scores);
    let (max, _) = S::as_mut_simd_f32s(max);
    let (sum, _) = S::as_mut_simd_f32s(sum);
    for (c, correction) in S::as_mut_simd_f32s(&mut correction).0.iter_mut().enumerate() {
        let before = max[c];
        for rows in scores.chunks_exact(4 * width) {
            let (a, b) =
                (simd.max_f32s(rows[c], rows[width + c]), simd.max_f32s(rows[2 * width + c], rows[3 * width + c]));
            max[c] = simd.max_f32s(simd.max_f32s(a, b), max[c]);
        }
        *correction = exp(simd, simd.sub_f32s(before, max[c]));
        let mut total = simd.mul_f32s(sum[c], *correction);
        for rows in scores.chunks_exact_mut(4 * width) {
            let mut four = simd.splat_f32s(0.0);
            for row in rows.chunks_exact_mut(width) {
                row[c] = exp(simd, simd.sub_f32s(row[c], max[c]));
                four = simd.add_f32s(four, row[c]);
            }
            total = simd.add_f32s(total, four);
        }
        sum[c] = total;
    }
    correction
}

/// Turns scores into probabilities, and `dp`, their gradients, into those of the scores.
#[inline(always)]
pub fn softmax_backward<S: Simd>(simd: S, scores: &mut [f32], dp: &mut [f32], lse: &[f32; ROWS], delta: &[f32; ROWS]) {
    let (scores, _) = S::as_mut_simd_f32s(scores);
    let (dp, _) = S::as_mut_simd_f32s(dp);
    let (lse, _) = S::as_simd_f32s(lse);
    let (delta, _) = S::as_simd_f32s(delta);
    let width = ROWS / S::F32_LANES;
    for (scores, dp) in scores.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width)) {
        for (((score, dp), lse), delta) in scores.iter_mut().zip(dp).zip(lse).zip(delta) {
            *score = exp(simd, simd.sub_f32s(*score, *lse));
            *dp = simd.mul_f32s(*score, simd.sub_f32s(*dp, *delta));
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
pub fn dot<T: Float>(a: &[T], b: &[T]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a.to_f32() * b.to_f32();
        }
    }
    lanes.iter().sum()
}
