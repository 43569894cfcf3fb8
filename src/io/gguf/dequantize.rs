//! How ggml stores weights, and their values, bit for bit those of its `dequantize_row_*`.
//!
//! Source: `ggml-quants.c` of <https://github.com/ggml-org/ggml>. Numbers in a block are little-endian.

use crate::dtype::Float;
use crate::io::convert::f16_to_f32 as f16;

/// How a tensor's values are stored: in blocks along its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q8_0,
    Q4K,
    Q6K,
}

/// ggml's names in the order of their numbers.
const NAMES: [&str; 42] = [
    "F32",
    "F16",
    "Q4_0",
    "Q4_1",
    "Q4_2",
    "Q4_3",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q8_1",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q8_K",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ3_XXS",
    "IQ1_S",
    "IQ4_NL",
    "IQ3_S",
    "IQ2_S",
    "IQ4_XS",
    "I8",
    "I16",
    "I32",
    "I64",
    "F64",
    "IQ1_M",
    "BF16",
    "Q4_0_4_4",
    "Q4_0_4_8",
    "Q4_0_8_8",
    "TQ1_0",
    "TQ2_0",
    "IQ4_NL_4_4",
    "IQ4_NL_4_8",
    "IQ4_NL_8_8",
    "MXFP4",
    "NVFP4",
    "Q1_0",
];

/// The name of the encoding `number`, which need not be one that can be read.
pub(super) fn name(number: u32) -> String {
    NAMES.get(number as usize).map_or_else(|| format!("type {number}"), |name| (*name).to_owned())
}

impl Encoding {
    const ALL: [Self; 8] = [Self::F32, Self::F16, Self::Bf16, Self::Q4_0, Self::Q4_1, Self::Q8_0, Self::Q4K, Self::Q6K];

    /// The one with ggml's `number`, if it can be read.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.number() == number)
    }

    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    /// A block's number of values, and of bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }

    /// All names, for messages.
    pub fn names() -> String {
        Self::ALL.map(|encoding| encoding.to_string()).join(", ")
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&name(self.number()))
    }
}

/// Writes the values of `blocks` to `out`. Vectorises in [`vectorize`](crate::device::host::vectorize).
#[inline(always)]
pub(super) fn dequantize<T: Float>(encoding: Encoding, blocks: &[u8], out: &mut [T]) {
    match encoding {
        Encoding::F32 => each(blocks, out, |block, out| *out = [f32::from_le_bytes(*block)]),
        Encoding::F16 => each(blocks, out, |block, out| *out = [f16(*block)]),
        Encoding::Bf16 => each(blocks, out, |&[low, high], out| *out = [f32::from_le_bytes([0, 0, low, high])]),
        Encoding::Q4_0 => each(blocks, out, q4_0),
        Encoding::Q4_1 => each(blocks, out, q4_1),
        Encoding::Q8_0 => each(blocks, out, q8_0),
        Encoding::Q4K => each(blocks, out, q4_k),
        Encoding::Q6K => each(blocks, out, q6_k),
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

/// Scale f16, 16 bytes: values 0 to 15 in their low, 16 to 31 in their high halves; `(q - 8) * scale`.
#[inline(always)]
fn q4_0(&[d0, d1, ref quants @ ..]: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16([d0, d1]);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(quants) {
        *low = (i32::from(q & 15) - 8) as f32 * d;
        *high = (i32::from(q >> 4) - 8) as f32 * d;
    }
}

/// Scale f16, minimum f16, 16 bytes as in Q4_0; `q * scale + minimum`.
#[inline(always)]
fn q4_1(&[d0, d1, m0, m1, ref quants @ ..]: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16([d0, d1]), f16([m0, m1]));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(quants) {
        *low = f32::from(q & 15) * d + m;
        *high = f32::from(q >> 4) * d + m;
    }
}

/// Scale f16, 32 signed bytes; `q * scale`.
#[inline(always)]
fn q8_0(&[d0, d1, ref quants @ ..]: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16([d0, d1]);
    for (out, q) in out.iter_mut().zip(quants) {
        *out = f32::from(*q as i8) * d;
    }
}

/// Scale f16, minimum f16, 12 bytes of 6-bit scales and minima of 8 runs of 32, then 4 x 32 bytes: one run in their low,
/// the next in their high halves; `(scale * run's scale) * q - minimum * run's minimum`.
#[inline(always)]
fn q4_k(&[d0, d1, m0, m1, ref rest @ ..]: &[u8; 144], out: &mut [f32; 256]) {
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

/// 128 bytes of low halves, 64 bytes of upper pairs of bits, 16 signed scales of runs of 16, scale f16;
/// `(scale * run's scale) * (q - 32)`. Each half of the block has 64 low bytes, 32 upper bytes and 8 scales.
#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
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
