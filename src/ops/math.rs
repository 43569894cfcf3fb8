//! Elementary functions as straight-line code, so that loops over them vectorise.

use crate::dtype::Float;

/// `eˣ`, to 1 ulp or so over the whole range: 0 below -104, infinity above 88.73, NaN for NaN.
///
/// Cody-Waite reduction to `|r| <= ln 2 / 2`, a polynomial of degree 6, and two halves of the power of two, so that
/// subnormal results round once.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4; // 10 bits of ln 2: n * LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    let clamped = if x < -104.0 { -104.0 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_1e-4f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = (p * r * r + r) + 1.0;
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n - half)
}

/// `2ⁿ` for a normal result.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

const LANES: usize = 16;

/// `sum of a * b` in 16 running sums, so that it vectorises and its order is fixed.
#[inline(always)]
pub fn dot<A: Float, B: Float>(a: &[A], b: &[B]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        lanes = add_products(lanes, a, b);
    }
    add_products(lanes, a_rest, b_rest).iter().sum()
}

#[inline(always)]
fn add_products<A: Float, B: Float>(mut lanes: [f32; LANES], a: &[A], b: &[B]) -> [f32; LANES] {
    for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
        *lane += a.to_f32() * b.to_f32();
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_within_two_ulp_everywhere() {
        for bits in (0..=u32::MAX).step_by(10_007) {
            let x = f32::from_bits(bits);
            let (found, exact) = (exp(x), f64::from(x).exp());
            if x.is_nan() {
                assert!(found.is_nan());
                continue;
            }
            let nearest = exact as f32;
            let close = nearest == found || (i64::from(nearest.to_bits()) - i64::from(found.to_bits())).abs() <= 2;
            assert!(close, "exp({x:e}) = {found:e}, not {nearest:e}");
        }
    }
}
