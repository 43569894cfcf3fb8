//! The values of ggml's blocks, bit for bit those of its `dequantize_row_*`.
//!
//! Source: `ggml-quants.c` of <https://github.com/ggml-org/ggml>. Numbers in a block are little-endian.

use super::blocks::{iq4_nl, q4_0, q4_1, q5_0, q5_1, q8_0};
use super::encoding::Encoding;
use super::super_blocks::{iq4_xs, q2_k, q3_k, q4_k, q5_k, q6_k};
use crate::dtype::Float;
use crate::io::convert::f16_to_f32 as f16;

/// Writes the values of `blocks` to `out`. Vectorises in [`vectorize`](crate::device::host::vectorize).
#[inline(always)]
pub(super) fn dequantize<T: Float>(encoding: Encoding, blocks: &[u8], out: &mut [T]) {
    match encoding {
        Encoding::F32 => each(blocks, out, |block, out| *out = [f32::from_le_bytes(*block)]),
        Encoding::F16 => each(blocks, out, |block, out| *out = [f16(*block)]),
        Encoding::Bf16 => each(blocks, out, |&[low, high], out| *out = [f32::from_le_bytes([0, 0, low, high])]),
        Encoding::Q4_0 => each(blocks, out, q4_0),
        Encoding::Q4_1 => each(blocks, out, q4_1),
        Encoding::Q5_0 => each(blocks, out, q5_0),
        Encoding::Q5_1 => each(blocks, out, q5_1),
        Encoding::Q8_0 => each(blocks, out, q8_0),
        Encoding::Iq4Nl => each(blocks, out, iq4_nl),
        Encoding::Q2K => each(blocks, out, q2_k),
        Encoding::Q3K => each(blocks, out, q3_k),
        Encoding::Q4K => each(blocks, out, q4_k),
        Encoding::Q5K => each(blocks, out, q5_k),
        Encoding::Q6K => each(blocks, out, q6_k),
        Encoding::Iq4Xs => each(blocks, out, iq4_xs),
    }
}

#[inline(always)]
fn each<T: Float, const SIZE: usize, const LEN: usize>(
    blocks: &[u8],
    out: &mut [T],
    decode: impl Fn(&[u8; SIZE], &mut [f32; LEN]),
) {
    let mut values = [0.0; LEN];
    for (block, out) in blocks.as_chunks().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
        decode(block, &mut values);
        *out = values.map(T::from_f32);
    }
}
