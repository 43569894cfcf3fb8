//! 4-bit weights as bitsandbytes has them: blocks of the flattened weight, each scaled by its largest magnitude to one of 16
//! values.

use super::Real;

/// The values of nf4: quantiles of the normal distribution, from -1 to 1, ascending.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The values of fp4 in twelfths: a sign, two bits of exponent, one of significand.
pub const FP4_TWELFTHS: [f64; 16] =
    [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, 0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0];

/// The largest magnitude of each block of `weight`.
pub fn absmax<R: Real>(weight: &[R], blocksize: usize) -> Vec<R> {
    let mut absmax = Vec::new();
    for block in weight.chunks(blocksize) {
        let mut largest = R::zero();
        for x in block {
            let magnitude = if *x < R::zero() { -*x } else { *x };
            if magnitude > largest {
                largest = magnitude;
            }
        }
        absmax.push(largest);
    }
    absmax
}

/// The value of `table` nearest to `x`, where `table` is in any order.
pub fn nearest<R: Real>(x: R, table: &[R]) -> R {
    let mut best = table[0];
    for value in table {
        let distance = |v: R| if v < x { x - v } else { v - x };
        if distance(*value) < distance(best) {
            best = *value;
        }
    }
    best
}

/// What is left of `weight` when each element of a block is replaced by the nearest multiple of its absmax.
pub fn round_trip<R: Real>(weight: &[R], table: &[R], blocksize: usize) -> Vec<R> {
    let absmax = absmax(weight, blocksize);
    let mut rounded = Vec::new();
    for (i, x) in weight.iter().enumerate() {
        let scale = absmax[i / blocksize];
        rounded.push(if scale > R::zero() { nearest(*x / scale, table) * scale } else { R::zero() });
    }
    rounded
}

/// The code of the element `i` in `packed`, two a byte, the first in the upper half.
pub fn code(packed: &[u8], i: usize) -> usize {
    let byte = usize::from(packed[i / 2]);
    if i.is_multiple_of(2) { byte / 16 } else { byte % 16 }
}

/// `packed` `[ceil(N·K / 2)]`, `scales` `[blocks]` → the weight `[N·K]`: `table[code] * scale`.
pub fn dequantize<R: Real>(packed: &[u8], scales: &[R], table: &[R], blocksize: usize, numel: usize) -> Vec<R> {
    let mut weight = Vec::new();
    for i in 0..numel {
        weight.push(table[code(packed, i)] * scales[i / blocksize]);
    }
    weight
}

/// Scales that are themselves codes of 8 bits: `map[code] * absmax + offset`, with an absmax for each 256 of them.
pub fn nested_scales<R: Real>(codes: &[u8], map: &[R], absmax: &[R], offset: R) -> Vec<R> {
    let mut scales = Vec::new();
    for (i, code) in codes.iter().enumerate() {
        scales.push(map[usize::from(*code)] * absmax[i / 256] + offset);
    }
    scales
}
