//! From the bytes of a file, at any alignment, to the elements of a tensor.

use half::bf16;
use safetensors::Dtype;

use crate::autograd::Tensor;
use crate::device::host;
use crate::dtype::{DType, Element, Float};
use crate::error::Result;

/// Fills a tensor from little-endian bytes, whose elements follow each other unless there are strides.
pub(super) type Convert = fn(&[u8], Option<&Strides>, &mut Tensor) -> Result<()>;

/// How far apart the elements of a tensor are that do not follow each other row by row. Counts elements.
#[derive(Debug)]
pub(super) struct Strides {
    /// Size and stride of each dimension but the innermost.
    outer: Vec<(usize, usize)>,
    /// Size and stride of the innermost dimension.
    inner: (usize, usize),
}

impl Strides {
    /// The strides of a tensor of one dimension or more, none of them empty.
    pub fn new(dims: &[usize], strides: &[usize]) -> Self {
        let mut outer: Vec<(usize, usize)> = dims.iter().copied().zip(strides.iter().copied()).collect();
        let inner = outer.pop().unwrap_or((1, 1));
        Self { outer, inner }
    }

    /// Where row number `row` begins, of all rows in their order.
    fn start(&self, mut row: usize) -> usize {
        let mut start = 0;
        for (size, stride) in self.outer.iter().rev() {
            start += row % size * stride;
            row /= size;
        }
        start
    }
}

/// How a tensor stored as `from` becomes one of `to`; `None` if it cannot.
pub(super) fn from_dtype(from: Dtype, to: DType) -> Option<Convert> {
    Some(match (from, to) {
        (Dtype::F32, DType::F32) => |bytes, strides, out| fill::<4, f32>(bytes, strides, out, f32::from_le_bytes),
        (Dtype::F32, DType::Bf16) => {
            |bytes, strides, out| fill::<4, bf16>(bytes, strides, out, |b| Float::from_f32(f32::from_le_bytes(b)))
        }
        (Dtype::BF16, DType::F32) => {
            |bytes, strides, out| fill::<2, f32>(bytes, strides, out, |b| bf16::from_le_bytes(b).to_f32())
        }
        (Dtype::BF16, DType::Bf16) => |bytes, strides, out| fill::<2, bf16>(bytes, strides, out, bf16::from_le_bytes),
        (Dtype::F16, DType::F32) => |bytes, strides, out| fill::<2, f32>(bytes, strides, out, f16_to_f32),
        (Dtype::F16, DType::Bf16) => {
            |bytes, strides, out| fill::<2, bf16>(bytes, strides, out, |b| Float::from_f32(f16_to_f32(b)))
        }
        (Dtype::F64, DType::F32) => {
            |bytes, strides, out| fill::<8, f32>(bytes, strides, out, |b| f64::from_le_bytes(b) as f32)
        }
        (Dtype::F64, DType::Bf16) => {
            |bytes, strides, out| fill::<8, bf16>(bytes, strides, out, |b| bf16::from_f64(f64::from_le_bytes(b)))
        }
        (Dtype::I32, DType::I32) => |bytes, strides, out| fill::<4, i32>(bytes, strides, out, i32::from_le_bytes),
        (Dtype::I8, DType::I8) => |bytes, strides, out| fill::<1, i8>(bytes, strides, out, i8::from_le_bytes),
        (Dtype::U8, DType::U8) => |bytes, strides, out| fill::<1, u8>(bytes, strides, out, u8::from_le_bytes),
        (Dtype::U32, DType::U32) => |bytes, strides, out| fill::<4, u32>(bytes, strides, out, u32::from_le_bytes),
        _ => return None,
    })
}

/// In parallel, and vectorised where elements follow each other: files are read at memory speed.
fn fill<const N: usize, T: Element>(
    bytes: &[u8],
    strides: Option<&Strides>,
    out: &mut Tensor,
    element: impl Fn([u8; N]) -> T + Sync,
) -> Result<()> {
    let (elements, _) = bytes.as_chunks::<N>();
    let Some(strides) = strides else {
        host::par_rows(out.slice_mut::<T>()?, 1, |first, out| {
            for (out, bytes) in out.iter_mut().zip(&elements[first..]) {
                *out = element(*bytes);
            }
        });
        return Ok(());
    };
    let (length, stride) = strides.inner;
    host::par_rows(out.slice_mut::<T>()?, length, |first, out| {
        for (row, out) in out.chunks_mut(length).enumerate() {
            let row = &elements[strides.start(first + row)..];
            for (i, out) in out.iter_mut().enumerate() {
                *out = element(row[i * stride]);
            }
        }
    });
    Ok(())
}

/// Straight-line, so that loops over it vectorise: the exponent is moved to f32's place, then scaled to f32's bias.
#[inline(always)]
pub(super) fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    const BIAS: f32 = f32::from_bits((127 + 112) << 23); // 2^112
    let bits = u32::from(u16::from_le_bytes(bytes));
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * BIAS;
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 }; // infinity and NaN
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::f16_to_f32;

    #[test]
    fn every_f16_is_converted_exactly() {
        for bits in 0..=u16::MAX {
            let (found, exact) = (f16_to_f32(bits.to_le_bytes()), half::f16::from_bits(bits).to_f32());
            let equal = found.to_bits() == exact.to_bits() || (found.is_nan() && exact.is_nan());
            assert!(equal, "{bits:#06x}: {found:e}, not {exact:e}");
        }
    }
}
