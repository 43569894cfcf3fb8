//! Super-blocks: 256 values in runs of 16 or 32, each with a scale of its own.

use super::blocks::iq4;
use crate::io::convert::f16_to_f32 as f16;

/// 16 bytes of 4-bit scales and minima of 16 runs of 16, 64 bytes of quants, scale f16, minimum f16;
/// `(scale * run's scale) * q - minimum * run's minimum`.
#[inline(always)]
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, rest) = block.split_at(16);
    let (quants, rest) = rest.split_at(64);
    let (d, m) = (f16([rest[0], rest[1]]), f16([rest[2], rest[3]]));
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        let (scale, min) = (d * f32::from(scales[i] & 15), m * f32::from(scales[i] >> 4));
        for (out, q) in out.iter_mut().zip(pairs(quants, i)) {
            *out = scale * f32::from(q) - min;
        }
    }
}

/// 32 bytes of third bits, 64 bytes of lower pairs of bits, 12 bytes of 6-bit scales of 16 runs of 16, scale f16;
/// `(scale * (run's scale - 32)) * (q - 4)`.
#[inline(always)]
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (third, rest) = block.split_at(32);
    let (quants, rest) = rest.split_at(64);
    let (packed, d) = rest.split_at(12);
    let d = f16([d[0], d[1]]);
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = packed[i % 8] >> (i / 8 * 4) & 15 | (packed[8 + i % 4] >> (i / 4 * 2) & 3) << 4;
        let scale = d * (i32::from(scale) - 32) as f32;
        for ((out, q), third) in out.iter_mut().zip(pairs(quants, i)).zip(&third[i % 2 * 16..]) {
            let q = q | (third >> (i / 2) & 1) << 2;
            *out = scale * (i32::from(q) - 4) as f32;
        }
    }
}

/// The pairs of bits of run `run` of 16: a half of the block has 32 bytes, whose lowest pairs are its runs 0 and 1, the
/// next its runs 2 and 3.
#[inline(always)]
fn pairs(quants: &[u8], run: usize) -> impl Iterator<Item = u8> {
    let (half, shift) = (run / 8, run % 8 / 2 * 2);
    quants[half * 32 + run % 2 * 16..].iter().map(move |q| q >> shift & 3)
}

/// Scale f16, minimum f16, 12 bytes of 6-bit scales and minima of 8 runs of 32, then 4 x 32 bytes: one run in their low,
/// the next in their high halves; `(scale * run's scale) * q - minimum * run's minimum`.
#[inline(always)]
pub(super) fn q4_k(&[d0, d1, m0, m1, ref rest @ ..]: &[u8; 144], out: &mut [f32; 256]) {
    let (d, m) = (f16([d0, d1]), f16([m0, m1]));
    let (packed, quants) = rest.split_at(12);
    let runs = unpack_6_bits(packed).map(|(scale, min)| (d * f32::from(scale), m * f32::from(min)));
    for ((out, quants), runs) in out.chunks_exact_mut(64).zip(quants.chunks_exact(32)).zip(runs.chunks_exact(2)) {
        let (low, high) = out.split_at_mut(32);
        for ((low, high), q) in low.iter_mut().zip(high).zip(quants) {
            *low = runs[0].0 * f32::from(q & 15) - runs[0].1;
            *high = runs[1].0 * f32::from(q >> 4) - runs[1].1;
        }
    }
}

/// The scale and minimum of each run. Of runs 0 to 3: the low 6 bits of bytes i and i + 4. Of runs 4 to 7: the halves of
/// byte i + 4 below the upper 2 bits of bytes i - 4 and i.
#[inline(always)]
fn unpack_6_bits(packed: &[u8]) -> [(u8, u8); 8] {
    std::array::from_fn(|i| match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4),
    })
}

/// Scale f16, minimum f16, 12 bytes as in Q4_K, 32 bytes of fifth bits, then 4 x 32 bytes as in Q4_K; bit i of the fifth
/// bits is that of run i.
#[inline(always)]
pub(super) fn q5_k(&[d0, d1, m0, m1, ref rest @ ..]: &[u8; 176], out: &mut [f32; 256]) {
    let (d, m) = (f16([d0, d1]), f16([m0, m1]));
    let (packed, rest) = rest.split_at(12);
    let (fifth, quants) = rest.split_at(32);
    let runs = unpack_6_bits(packed).map(|(scale, min)| (d * f32::from(scale), m * f32::from(min)));
    for (i, (out, (scale, min))) in out.chunks_exact_mut(32).zip(runs).enumerate() {
        for ((out, q), fifth) in out.iter_mut().zip(&quants[i / 2 * 32..]).zip(fifth) {
            let q = q >> (i % 2 * 4) & 15 | (fifth >> i & 1) << 4;
            *out = scale * f32::from(q) - min;
        }
    }
}

/// 128 bytes of low halves, 64 bytes of upper pairs of bits, 16 signed scales of runs of 16, scale f16;
/// `(scale * run's scale) * (q - 32)`. Each half of the block has 64 low bytes, 32 upper bytes and 8 scales.
#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, rest) = block.split_at(128);
    let (upper, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = f16([d[0], d[1]]);
    let halves = low.chunks_exact(64).zip(upper.chunks_exact(32)).zip(scales.chunks_exact(8));
    for (out, ((low, upper), scales)) in out.chunks_exact_mut(128).zip(halves) {
        for (i, out) in out.chunks_exact_mut(16).enumerate() {
            let (half, at) = (i / 4, i % 4 * 16); // 32 low bytes hold runs 0, 1 and 4, 5; the next 32 runs 2, 3 and 6, 7
            let scale = d * f32::from(scales[i] as i8);
            for ((out, low), upper) in out.iter_mut().zip(&low[at..]).zip(&upper[i % 2 * 16..]) {
                let q = low >> (4 * half) & 15 | (upper >> (2 * (i / 2)) & 3) << 4;
                *out = scale * (i32::from(q) - 32) as f32;
            }
        }
    }
}

/// Scale f16, upper pairs of bits of 8 runs' scales, their lower halves, 8 x 16 bytes: of each run of 32 as in Q4_0;
/// `(scale * (run's scale - 32)) * iq4(q)`.
#[inline(always)]
pub(super) fn iq4_xs(&[d0, d1, h0, h1, ref rest @ ..]: &[u8; 136], out: &mut [f32; 256]) {
    let (d, upper) = (f16([d0, d1]), u16::from_le_bytes([h0, h1]));
    let (lower, quants) = rest.split_at(4);
    for (i, (out, quants)) in out.chunks_exact_mut(32).zip(quants.chunks_exact(16)).enumerate() {
        let scale = u16::from(lower[i / 2] >> (i % 2 * 4) & 15) | (upper >> (2 * i) & 3) << 4;
        let scale = d * (i32::from(scale) - 32) as f32;
        let (low, high) = out.split_at_mut(16);
        for ((low, high), q) in low.iter_mut().zip(high).zip(quants) {
            *low = scale * iq4(q & 15);
            *high = scale * iq4(q >> 4);
        }
    }
}
