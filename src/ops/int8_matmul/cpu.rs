//! From floats to integers and back.

use super::{Int8, OP};
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::ops::gemm::int8::{Outlier, Rows};

/// Elements that are looked at together: lanes of several vectors.
const LANES: usize = 64;

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
    let (absmax, is_all) = absmax_below(x, limit);
    let outliers = match is_all {
        true => Vec::new(),
        // A row that is not finite, all of which is to be quantized.
        false if limit.is_infinite() => {
            codes.fill(0);
            return Row { absmax: f32::NAN, ..Row::default() };
        }
        false => outliers(x, limit),
    };
    if absmax < LEAST {
        codes.fill(0);
        return Row { absmax: 0.0, sum: 0, outliers };
    }
    let sum = round(x, 127.0 / absmax, limit, codes);
    Row { absmax, sum, outliers }
}

/// The largest magnitude below `limit`, and whether all are below.
#[inline(always)]
fn absmax_below(x: &[f32], limit: f32) -> (f32, bool) {
    let (mut lanes, mut beyond) = ([0.0f32; LANES], [0u32; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        look(chunk, limit, &mut lanes, &mut beyond);
    }
    look(rest, limit, &mut lanes, &mut beyond);
    let absmax = lanes.iter().fold(0.0, |a, &b| if b > a { b } else { a });
    (absmax, beyond.iter().fold(0, |a, b| a | b) == 0)
}

#[inline(always)]
fn look(x: &[f32], limit: f32, lanes: &mut [f32; LANES], beyond: &mut [u32; LANES]) {
    for ((x, lane), beyond) in x.iter().zip(lanes).zip(beyond) {
        let magnitude = x.abs();
        let is_below = magnitude < limit;
        let counted = if is_below { magnitude } else { 0.0 };
        *lane = if counted > *lane { counted } else { *lane };
        *beyond |= u32::from(!is_below);
    }
}

#[inline(never)]
fn outliers(x: &[f32], limit: f32) -> Vec<Outlier> {
    let is_outlier = |(_, x): &(usize, &f32)| !matches!(x.abs().partial_cmp(&limit), Some(std::cmp::Ordering::Less));
    x.iter().enumerate().filter(is_outlier).map(|(column, &value)| Outlier { column, value }).collect()
}

/// Rounds `x * factor` to integers, half to even, elements that are not below `limit` to 0; returns the sum of all.
#[inline(always)]
fn round(x: &[f32], factor: f32, limit: f32, codes: &mut [i8]) -> i32 {
    /// The spacing of floats this large is 1, so adding it rounds; the lowest bits are the integer then.
    const TO_INTEGER: f32 = 12_582_912.0; // 1.5 * 2^23
    let mut sums = [0i32; LANES];
    let mut step = |x: &[f32], codes: &mut [i8]| {
        for ((x, code), sum) in x.iter().zip(codes).zip(&mut sums) {
            let inside = if x.abs() < limit { *x } else { 0.0 };
            // No more than 127 in magnitude: the largest is 127 times one and an ulp or two.
            *code = (inside * factor + TO_INTEGER).to_bits() as i8;
            *sum += i32::from(*code);
        }
    };
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (code_chunks, rest_codes) = codes.as_chunks_mut::<LANES>();
    for (chunk, codes) in chunks.iter().zip(code_chunks) {
        step(chunk, codes);
    }
    step(rest, rest_codes);
    sums.iter().sum()
}

/// `codes * absmax / 127`, rounded to `dtype`.
pub fn dequantize(weight: &Int8, dtype: DType) -> Result<Tensor> {
    let k = weight.shape().last();
    let mut out = Tensor::uninit(&Device::Cpu, dtype, weight.shape())?;
    let (codes, scales) = (weight.codes().slice::<i8>()?, weight.scales());
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
