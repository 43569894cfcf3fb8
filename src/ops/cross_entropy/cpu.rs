//! Chunk by chunk: logits, the loss of each row, the gradient of the logits in their place, its two products.

use rayon::prelude::*;

use super::{CHUNK_LOGITS, OP};
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::elementwise::cast;
use crate::ops::gemm::{Matrix, add_product, product};
use crate::ops::math::exp;

/// The loss, and those of the gradients of `hidden` and `lm_head` that are wanted, for an upstream gradient of 1.
pub fn forward(
    hidden: &Tensor,
    lm_head: &Tensor,
    counted: &[(usize, usize)],
    normalizer: f32,
    [want_dhidden, want_dlm_head]: [bool; 2],
) -> Result<(Tensor, [Option<Tensor>; 2])> {
    let zeros = |like: &Tensor, dtype| Tensor::zeros(&Device::Cpu, dtype, like.shape());
    let mut dhidden = want_dhidden.then(|| zeros(hidden, hidden.dtype())).transpose()?;
    let mut dlm_head = want_dlm_head.then(|| zeros(lm_head, DType::F32)).transpose()?;
    let scale = (want_dhidden || want_dlm_head).then_some(1.0 / normalizer);
    let mut loss = 0.0;
    for chunk in counted.chunks(chunk_rows(counted.len(), lm_head.shape().rows())) {
        let rows = gather(hidden, chunk)?;
        let shape = [chunk.len(), lm_head.shape().rows()];
        let mut logits = product(OP, shape, DType::F32, &[[Matrix::new(OP, &rows)?, Matrix::new(OP, lm_head)?.t()]])?;
        loss += losses(&mut logits, chunk, scale)?;
        if let Some(dhidden) = &mut dhidden {
            let terms = [[Matrix::new(OP, &logits)?, Matrix::new(OP, lm_head)?]];
            let drows = product(OP, rows.shape(), dhidden.dtype(), &terms)?;
            scatter(dhidden, &drows, chunk)?;
        }
        if let Some(dlm_head) = &mut dlm_head {
            let terms = [[Matrix::new(OP, &logits)?.t(), Matrix::new(OP, &rows)?]];
            add_product(dlm_head.slice_mut::<f32>()?, rows.shape().last(), &terms)?;
        }
    }
    let loss = Tensor::from_slice(&Device::Cpu, [], &[(loss / f64::from(normalizer)) as f32])?;
    let dlm_head = dlm_head.map(|dlm_head| cast(&dlm_head, lm_head.dtype())).transpose()?;
    Ok((loss, [dhidden, dlm_head]))
}

/// `gradient * dy`, in place; NaN if `loss` is not finite.
pub fn scale(mut gradient: Tensor, dy: &Tensor, loss: &Tensor) -> Result<Tensor> {
    let ([dy], [loss]) = (dy.slice::<f32>()?, loss.slice::<f32>()?) else { return Ok(gradient) };
    let factor = if loss.is_finite() { *dy } else { f32::NAN };
    if factor == 1.0 {
        return Ok(gradient);
    }
    dispatch_float!(OP, gradient.dtype(), T => {
        host::par_rows(gradient.slice_mut::<T>()?, 1, #[inline(always)] |_, gradient| {
            gradient.iter_mut().for_each(|g| *g = T::from_f32(g.to_f32() * factor));
        });
        Ok(gradient)
    })
}

/// Rows of a chunk: all chunks alike.
fn chunk_rows(rows: usize, classes: usize) -> usize {
    let most = (CHUNK_LOGITS / classes.max(1)).max(1);
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

fn gather(hidden: &Tensor, chunk: &[(usize, usize)]) -> Result<Tensor> {
    let h = hidden.shape().last();
    let mut rows = Tensor::uninit(&Device::Cpu, hidden.dtype(), [chunk.len(), h])?;
    dispatch_float!(OP, hidden.dtype(), T => {
        let hidden = hidden.slice::<T>()?;
        for (to, &(row, _)) in rows.slice_mut::<T>()?.chunks_mut(h.max(1)).zip(chunk) {
            to.copy_from_slice(&hidden[row * h..][..h]);
        }
        Ok(rows)
    })
}

fn scatter(dhidden: &mut Tensor, drows: &Tensor, chunk: &[(usize, usize)]) -> Result<()> {
    let h = drows.shape().last();
    dispatch_float!(OP, drows.dtype(), T => {
        let dhidden = dhidden.slice_mut::<T>()?;
        for (from, &(row, _)) in drows.slice::<T>()?.chunks(h.max(1)).zip(chunk) {
            dhidden[row * h..][..h].copy_from_slice(from);
        }
        Ok(())
    })
}

/// The sum of the rows' losses. Where `scale` is given, `logits` become `scale * (softmax - onehot)`.
fn losses(logits: &mut Tensor, chunk: &[(usize, usize)], scale: Option<f32>) -> Result<f64> {
    let classes = logits.shape().last();
    let rows = logits.slice_mut::<f32>()?.par_chunks_mut(classes.max(1)).zip(chunk);
    let losses: Vec<f64> = rows.map(|(row, &(_, target))| row_loss(row, target, scale)).collect();
    Ok(losses.iter().sum())
}

#[inline(never)]
fn row_loss(row: &mut [f32], target: usize, scale: Option<f32>) -> f64 {
    host::vectorize(
        #[inline(always)]
        || {
            let (max, at_target) = (largest(row), row[target]);
            let sum = exponentials(row, max);
            if let Some(scale) = scale {
                let factor = (f64::from(scale) / sum) as f32;
                row.iter_mut().for_each(|p| *p *= factor);
                row[target] -= scale;
            }
            sum.ln() - (f64::from(at_target) - f64::from(max))
        },
    )
}

const LANES: usize = 16;

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in row.chunks(LANES) {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    lanes.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}

/// Replaces each `v` by `exp(v - max)` and returns their sum: in f32 over short runs, then in f64.
#[inline(always)]
fn exponentials(row: &mut [f32], max: f32) -> f64 {
    let mut sum = 0.0;
    for run in row.chunks_mut(32 * LANES) {
        let mut lanes = [0.0f32; LANES];
        for chunk in run.chunks_mut(LANES) {
            for (lane, v) in lanes.iter_mut().zip(chunk) {
                *v = exp(*v - max);
                *lane += *v;
            }
        }
        sum += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    }
    sum
}
