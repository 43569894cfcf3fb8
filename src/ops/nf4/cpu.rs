//! Blocks in parallel. The operations and their order are bitsandbytes', whose bits these are.

use super::mean::mean;
use super::{Kind, NESTED_BLOCKSIZE, Nested, OP, View, dynamic_map};
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};

/// What divides in place of a smaller absmax.
const SMALLEST: f32 = 1e-38;

/// The codes u8 `[ceil(N·K / 2)]` of `weight`, and the largest magnitude of each block.
pub fn quantize(weight: &Tensor, kind: Kind, blocksize: usize) -> Result<(Tensor, Tensor)> {
    let numel = weight.shape().numel();
    let mut codes = Tensor::uninit(&Device::Cpu, DType::U8, [numel.div_ceil(2)])?;
    let mut absmax = Tensor::uninit(&Device::Cpu, DType::F32, [numel.div_ceil(blocksize)])?;
    let (thresholds, order, width) = (kind.thresholds(), kind.order(), blocksize / 2);
    dispatch_float!(OP, weight.dtype(), T => {
        let weight = weight.slice::<T>()?;
        let (codes, absmax) = (codes.slice_mut::<u8>()?, absmax.slice_mut::<f32>()?);
        host::par_rows2((codes, width), (absmax, 1), #[inline(always)] |first, codes, absmax| {
            let blocks = weight[first * blocksize..].chunks(blocksize);
            let mut scaled = vec![0.0; blocksize];
            for ((codes, absmax), block) in codes.chunks_mut(width).zip(absmax).zip(blocks) {
                *absmax = scale(&mut scaled, block);
                pack(codes, &scaled, &thresholds, order);
            }
        });
        Ok(())
    })?;
    refuse_infinite(absmax.slice()?, blocksize, weight)?;
    Ok((codes, absmax))
}

/// `scaled` = `block` over its largest magnitude, zeros beyond its end; that magnitude, not finite if an element is not.
#[inline(always)]
fn scale<T: Float>(scaled: &mut [f32], block: &[T]) -> f32 {
    let (inside, beyond) = scaled.split_at_mut(block.len());
    for (scaled, x) in inside.iter_mut().zip(block) {
        *scaled = x.to_f32();
    }
    let absmax = largest(inside);
    if beyond.is_empty() {
        let inverse = 1.0 / if absmax < SMALLEST { SMALLEST } else { absmax };
        inside.iter_mut().for_each(
            #[inline(always)]
            |x| *x = (*x * inverse).clamp(-1.0, 1.0),
        );
        return absmax;
    }
    // A short block is divided, and its absmax is never below that smallest number.
    let absmax = if absmax < SMALLEST { SMALLEST } else { absmax };
    inside.iter_mut().for_each(|x| *x = (*x / absmax).clamp(-1.0, 1.0));
    beyond.fill(0.0);
    absmax
}

/// The largest magnitude: bits of magnitudes are in the order of what they stand for, infinity and NaN above all.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    f32::from_bits(values.iter().fold(
        0,
        #[inline(always)]
        |most, x| most.max(x.to_bits() & 0x7fff_ffff),
    ))
}

/// Two codes a byte: that of a value is the number of thresholds below it, in the order of the values.
#[inline(always)]
fn pack(codes: &mut [u8], scaled: &[f32], thresholds: &[f32; 15], order: &[u8; 16]) {
    const PAIRS: usize = 16;
    for (codes, scaled) in codes.chunks_mut(PAIRS).zip(scaled.as_chunks::<{ 2 * PAIRS }>().0) {
        let mut ranks = [0u32; 2 * PAIRS];
        for threshold in thresholds {
            for (rank, x) in ranks.iter_mut().zip(scaled) {
                *rank += u32::from(x > threshold);
            }
        }
        for (code, pair) in codes.iter_mut().zip(ranks.as_chunks::<2>().0) {
            let [upper, lower] = pair.map(|rank| order[rank as usize & 15]);
            *code = upper << 4 | lower;
        }
    }
}

fn refuse_infinite(absmax: &[f32], blocksize: usize, weight: &Tensor) -> Result<()> {
    let Some(block) = absmax.iter().position(|x| !x.is_finite()) else { return Ok(()) };
    let (first, end) = (block * blocksize, ((block + 1) * blocksize).min(weight.shape().numel()));
    let detail = format!("the weight of {} is not finite within its elements {first} to {}", weight.shape(), end - 1);
    Err(Error::input(OP, detail))
}

/// The scales in 8 bits.
pub fn nest(absmax: &Tensor) -> Result<Nested> {
    let absmax = absmax.slice::<f32>()?;
    let (offset, map) = (mean(absmax), dynamic_map());
    if !offset.is_finite() {
        return Err(Error::input(OP, "the weights are too large: the sum of their scales is not finite"));
    }
    let middles: [f32; 255] = std::array::from_fn(|i| 0.5 * (map[i] + map[i + 1]));
    let (mut codes, mut largest_of) = (vec![0; absmax.len()], Vec::new());
    for (codes, absmax) in codes.chunks_mut(NESTED_BLOCKSIZE).zip(absmax.chunks(NESTED_BLOCKSIZE)) {
        let centred: Vec<f32> = absmax.iter().map(|x| x - offset).collect();
        let largest = largest(&centred);
        for (code, x) in codes.iter_mut().zip(centred).filter(|_| largest != 0.0) {
            *code = nested_code(x * (1.0 / largest), &middles);
        }
        largest_of.push(largest);
    }
    let tensor = |values: &[f32]| Tensor::from_slice(&Device::Cpu, [values.len()], values);
    let codes = Tensor::from_slice(&Device::Cpu, [codes.len()], &codes)?;
    Ok(Nested { codes, map: tensor(&map)?, absmax: tensor(&largest_of)?, offset, blocksize: NESTED_BLOCKSIZE })
}

/// The code of the nearest value of the map, as bitsandbytes finds it on a CPU: that of the nearest of 65536 steps.
fn nested_code(x: f32, middles: &[f32; 255]) -> u8 {
    const STEPS: f32 = 65535.0;
    let step = ((x.clamp(-1.0, 1.0) + 1.0) * 0.5 * STEPS + 0.5) as u16;
    let x = -1.0 + 2.0 * f32::from(step) / STEPS;
    middles.partition_point(|middle| *middle < x) as u8
}

/// `map[code] * absmax + offset` of each block.
pub fn scales(nested: &Nested) -> Result<Vec<f32>> {
    let (codes, map) = (nested.codes.slice::<u8>()?, nested.map.slice::<f32>()?);
    let blocks = codes.chunks(NESTED_BLOCKSIZE).zip(nested.absmax.slice::<f32>()?);
    let scale = |code: u8, absmax: f32| map.get(usize::from(code)).map_or(0.0, |value| value * absmax) + nested.offset;
    Ok(blocks.flat_map(|(codes, absmax)| codes.iter().map(move |code| scale(*code, *absmax))).collect())
}

/// The weight in `dtype`.
pub fn dequantize(view: &View<'_>, shape: [usize; 2], dtype: DType) -> Result<Tensor> {
    const RUN: usize = 4096;
    let mut weight = Tensor::uninit(&Device::Cpu, dtype, shape)?;
    dispatch_float!(OP, dtype, T => {
        host::par_rows(weight.slice_mut::<T>()?, RUN, #[inline(always)] |first, out| view.fill(first * RUN, out));
        Ok(weight)
    })
}
