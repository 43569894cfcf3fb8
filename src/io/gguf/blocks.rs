//! Blocks: 32 values with one scale.

use crate::io::convert::f16_to_f32 as f16;

/// Scale f16, 16 bytes: values 0 to 15 in their low, 16 to 31 in their high halves; `(q - 8) * scale`.
#[inline(always)]
pub(super) fn q4_0(&[d0, d1, ref quants @ ..]: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16([d0, d1]);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(quants) {
        *low = (i32::from(q & 15) - 8) as f32 * d;
        *high = (i32::from(q >> 4) - 8) as f32 * d;
    }
}

/// Scale f16, minimum f16, 16 bytes as in Q4_0; `q * scale + minimum`.
#[inline(always)]
pub(super) fn q4_1(&[d0, d1, m0, m1, ref quants @ ..]: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16([d0, d1]), f16([m0, m1]));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(quants) {
        *low = f32::from(q & 15) * d + m;
        *high = f32::from(q >> 4) * d + m;
    }
}

/// Scale f16, 32 signed bytes; `q * scale`.
#[inline(always)]
pub(super) fn q8_0(&[d0, d1, ref quants @ ..]: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16([d0, d1]);
    for (out, q) in out.iter_mut().zip(quants) {
        *out = f32::from(*q as i8) * d;
    }
}

/// Scale f16, 32 fifth bits, 16 bytes as in Q4_0; `(q - 16) * scale`.
#[inline(always)]
pub(super) fn q5_0(&[d0, d1, b0, b1, b2, b3, ref quants @ ..]: &[u8; 22], out: &mut [f32; 32]) {
    let (d, fifth) = (f16([d0, d1]), u32::from_le_bytes([b0, b1, b2, b3]));
    let (low, high) = out.split_at_mut(16);
    for (i, ((low, high), q)) in low.iter_mut().zip(high).zip(quants).enumerate() {
        *low = (i32::from(q & 15) + fifth_bit(fifth, i) - 16) as f32 * d;
        *high = (i32::from(q >> 4) + fifth_bit(fifth, i + 16) - 16) as f32 * d;
    }
}

/// Scale f16, minimum f16, 32 fifth bits, 16 bytes as in Q4_0; `q * scale + minimum`.
#[inline(always)]
pub(super) fn q5_1(&[d0, d1, m0, m1, b0, b1, b2, b3, ref quants @ ..]: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, fifth) = (f16([d0, d1]), f16([m0, m1]), u32::from_le_bytes([b0, b1, b2, b3]));
    let (low, high) = out.split_at_mut(16);
    for (i, ((low, high), q)) in low.iter_mut().zip(high).zip(quants).enumerate() {
        *low = (i32::from(q & 15) + fifth_bit(fifth, i)) as f32 * d + m;
        *high = (i32::from(q >> 4) + fifth_bit(fifth, i + 16)) as f32 * d + m;
    }
}

/// 16 if bit `i` is set.
#[inline(always)]
fn fifth_bit(bits: u32, i: usize) -> i32 {
    (bits >> i & 1) as i32 * 16
}

/// What the halves of IQ4's bytes stand for: closer together near 0.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The value of the lower half of `q`.
#[inline(always)]
pub(super) fn iq4(q: u8) -> f32 {
    f32::from(IQ4[usize::from(q & 15)])
}

/// Scale f16, 16 bytes as in Q4_0; `iq4(q) * scale`.
#[inline(always)]
pub(super) fn iq4_nl(&[d0, d1, ref quants @ ..]: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16([d0, d1]);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(quants) {
        *low = iq4(q & 15) * d;
        *high = iq4(q >> 4) * d;
    }
}
