//! From floats to integers and back.

use super::{Int8, OP};
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::gemm::int8::{Outlier, Rows};

/// Elements that are looked at together: lanes of several vectors.
const LANES: usize = 32;

/// A row's absmax below this has no finite reciprocal to multiply by; the row counts as one of zeros.
const LEAST: f32 = 127.0 / f32::MAX;

/// The codes i8 `[N, K]` of a weight and the absmax f32 `[N]` of its rows.
pub fn quantize_weight(weight: &Tensor) -> Result<(Tensor, Tensor)> {
    let Rows { codes, scales, .. } = quantize(weight, None, f32::INFINITY, |absmax| absmax)?;
    if let Some(row) = scales.iter().position(|scale| scale.is_nan()) {
        return Err(Error::input(OP, format!("row {row} of the weight holds a NaN or an infinity")));
    }
    let absmax = Tensor::from_slice(&Device::Cpu, [scales.len()], &scales)?;
    Ok((codes, absmax))
}

/// The rows of `x`, each element times that of `factors` at its place, as integers.
pub fn quantize_rows(x: &Tensor, factors: Option<&[f32]>, threshold: f32) -> Result<Rows> {
    let limit = if threshold > 0.0 { threshold } else { f32::INFINITY };
    quantize(x, factors, limit, |absmax| absmax / 127.0)
}

/// Quantizes rows; `scale` is what is kept of an absmax. With an infinite `limit` no element stays a float.
fn quantize(x: &Tensor, factors: Option<&[f32]>, limit: f32, scale: impl Fn(f32) -> f32 + Sync) -> Result<Rows> {
    let (rows, k) = (x.shape().rows(), x.shape().last());
    let mut codes = Tensor::uninit(&Device::Cpu, DType::I8, [rows, k])?;
    let mut found = vec![Row::default(); rows];
    dispatch_float!(OP, x.dtype(), T => {
        let x = x.slice::<T>()?;
        host::par_rows2((codes.slice_mut::<i8>()?, k), (&mut found, 1), #[inline(always)] |first, codes, found| {
            let mut row = vec![0.0; k];
            for (i, (codes, found)) in codes.chunks_mut(k.max(1)).zip(found).enumerate() {
                read_row(&x[(first + i) * k..][..k], factors, &mut row);
                *found = quantize_row(&row, limit, codes);
            }
        });
        Ok(())
    })?;
    let scales = found.iter().map(|row| scale(row.absmax)).collect();
    let sums = found.iter().map(|row| row.sum).collect();
    let (mut outliers, mut ends) = (Vec::new(), Vec::with_capacity(rows));
    for row in found {
        outliers.extend(row.outliers);
        ends.push(outliers.len());
    }
    Ok(Rows { codes, scales, sums, outliers, ends })
}

/// What is known of a row beside its codes.
#[derive(Clone, Debug, Default)]
struct Row {
    absmax: f32,
    sum: i32,
    outliers: Vec<Outlier>,
}

#[inline(always)]
fn read_row<T: Float>(x: &[T], factors: Option<&[f32]>, row: &mut [f32]) {
    match factors {
        None => row.iter_mut().zip(x).for_each(|(to, x)| *to = x.to_f32()),
        Some(factors) => {
            for ((to, x), factor) in row.iter_mut().zip(x).zip(factors) {
                *to = x.to_f32() * factor;
            }
        }
    }
}

#[inline(always)]
fn quantize_row(x: &[f32], limit: f32, codes: &mut [i8]) -> Row {
    let (mut absmax, mut outliers) = (largest_magnitude(x), Vec::new());
    let mut inside = x;
    let mut kept = Vec::new();
    if !is_below(absmax, limit) {
        if limit.is_infinite() {
            // A row that is not finite, all of which is to be quantized.
            codes.fill(0);
            return Row { absmax: f32::NAN, ..Row::default() };
        }
        outliers = outliers_of(x, limit);
        kept.extend_from_slice(x);
        outliers.iter().for_each(|outlier| kept[outlier.column] = 0.0);
        inside = &kept;
        absmax = largest_magnitude(inside);
    }
    if absmax < LEAST {
        codes.fill(0);
        return Row { absmax: 0.0, sum: 0, outliers };
    }
    Row { absmax, sum: round(inside, 127.0 / absmax, codes), outliers }
}

/// Whether a magnitude, which may be no number, is below `limit`.
fn is_below(magnitude: f32, limit: f32) -> bool {
    matches!(magnitude.partial_cmp(&limit), Some(std::cmp::Ordering::Less))
}

/// The largest magnitude, NaN if there is one: in the order of their bits NaNs are behind all numbers.
#[inline(always)]
fn largest_magnitude(x: &[f32]) -> f32 {
    const SIGN: u32 = 1 << 31;
    let mut lanes = [0u32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = (*lane).max(x.to_bits() & !SIGN);
        }
    }
    let largest = rest.iter().map(|x| x.to_bits() & !SIGN).chain(lanes).max();
    f32::from_bits(largest.unwrap_or(0))
}

#[inline(always)]
fn outliers_of(x: &[f32], limit: f32) -> Vec<Outlier> {
    let mut outliers = Vec::new();
    for (i, chunk) in x.chunks(LANES).enumerate() {
        if !is_below(largest_magnitude(chunk), limit) {
            let columns = (i * LANES..).zip(chunk).filter(|(_, x)| !is_below(x.abs(), limit));
            outliers.extend(columns.map(|(column, &value)| Outlier { column, value }));
        }
    }
    outliers
}

/// Rounds `x * factor`, of which none is beyond 127, to integers, half to even; returns the sum of all.
#[inline(always)]
fn round(x: &[f32], factor: f32, codes: &mut [i8]) -> i32 {
    let mut sums = [0i32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (code_chunks, rest_codes) = codes.as_chunks_mut::<LANES>();
    for (chunk, codes) in chunks.iter().zip(code_chunks) {
        let rounded = chunk.map(
            #[inline(always)]
            |x| integer(x * factor),
        );
        *codes = rounded.map(
            #[inline(always)]
            |integer| integer as i8,
        );
        sums.iter_mut().zip(rounded).for_each(|(sum, integer)| *sum += integer);
    }
    let mut sum = sums.iter().sum();
    for (x, code) in rest.iter().zip(rest_codes) {
        *code = integer(x * factor) as i8;
        sum += i32::from(*code);
    }
    sum
}

/// The nearest integer to `x`, which is small, half to even.
#[inline(always)]
fn integer(x: f32) -> i32 {
    /// The spacing of floats this large is 1, so that a sum is rounded to an integer, which its lowest bits are then.
    const LARGE: f32 = 12_582_912.0; // 1.5 * 2^23
    (x + LARGE).to_bits().wrapping_sub(LARGE.to_bits()).cast_signed()
}

/// `codes * absmax / 127`, rounded to `dtype`.
pub fn dequantize(weight: &Int8, dtype: DType) -> Result<Tensor> {
    let k = weight.shape().last();
    let mut out = Tensor::uninit(&Device::Cpu, dtype, weight.shape())?;
    let (codes, scales) = (weight.codes().slice::<i8>()?, weight.scales()?);
    dispatch_float!(OP, dtype, T => {
        host::par_rows(out.slice_mut::<T>()?, k, #[inline(always)] |first, out| {
            let rows = codes[first * k..].chunks(k.max(1)).zip(&scales[first..]);
            for (out, (codes, scale)) in out.chunks_mut(k.max(1)).zip(rows) {
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = T::from_f32(f32::from(*code) * scale);
                }
            }
        });
        Ok(out)
    })
}
