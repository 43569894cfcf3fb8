//! Chunk by chunk: logits, the loss of each row, the gradient of the logits in their place, its two products.

use rayon::prelude::*;

use super::{CHUNK_LOGITS, OP, Term, gradient_scale};
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::elementwise::cast;
use crate::ops::gemm::{Matrix, add_product, product};
use crate::ops::math::exp;

/// The loss, and those of the gradients of each term's operands that are wanted, for an upstream gradient of 1.
pub fn forward(
    terms: &[Term],
    counted: &[(usize, usize)],
    normalizer: f32,
) -> Result<(Tensor, Vec<[Option<Tensor>; 2]>)> {
    let classes = terms.first().map_or(0, |term| term.weight.shape().rows());
    let mut gradients = terms.iter().map(Sums::zeros).collect::<Result<Vec<_>>>()?;
    let scale = gradient_scale(terms, normalizer);
    let mut loss = 0.0;
    for chunk in counted.chunks(chunk_rows(counted.len(), classes)) {
        let rows = terms.iter().map(|term| gather(&term.x, chunk)).collect::<Result<Vec<_>>>()?;
        let products = rows.iter().zip(terms);
        let products = products.map(|(rows, term)| Ok([Matrix::new(OP, rows)?, Matrix::new(OP, &term.weight)?.t()]));
        let products = products.collect::<Result<Vec<_>>>()?;
        let mut logits = product(OP, [chunk.len(), classes], DType::F32, &products)?;
        loss += losses(&mut logits, chunk, scale)?;
        for ((gradients, rows), term) in gradients.iter_mut().zip(&rows).zip(terms) {
            gradients.add(&logits, rows, term, chunk)?;
        }
    }
    let loss = Tensor::from_slice(&Device::Cpu, [], &[(loss / f64::from(normalizer)) as f32])?;
    Ok((loss, gradients.into_iter().zip(terms).map(Sums::finish).collect::<Result<_>>()?))
}

/// The gradients of a term's operands that are wanted, added up chunk by chunk.
struct Sums {
    dx: Option<Tensor>,
    dweight: Option<Tensor>,
}

impl Sums {
    fn zeros(term: &Term) -> Result<Self> {
        let zeros = |like: &Tensor, dtype| Tensor::zeros(&Device::Cpu, dtype, like.shape());
        let [want_dx, want_dweight] = term.want;
        Ok(Self {
            dx: want_dx.then(|| zeros(&term.x, term.x.dtype())).transpose()?,
            dweight: want_dweight.then(|| zeros(&term.weight, DType::F32)).transpose()?,
        })
    }

    fn add(&mut self, dlogits: &Tensor, rows: &Tensor, term: &Term, chunk: &[(usize, usize)]) -> Result<()> {
        let dlogits = Matrix::new(OP, dlogits)?;
        if let Some(dx) = &mut self.dx {
            let drows = product(OP, rows.shape(), dx.dtype(), &[[dlogits, Matrix::new(OP, &term.weight)?]])?;
            scatter(dx, &drows, chunk)?;
        }
        if let Some(dweight) = &mut self.dweight {
            let terms = [[dlogits.t(), Matrix::new(OP, rows)?]];
            add_product(dweight.slice_mut::<f32>()?, rows.shape().last(), &terms)?;
        }
        Ok(())
    }

    fn finish((Self { dx, dweight }, term): (Self, &Term)) -> Result<[Option<Tensor>; 2]> {
        Ok([dx, dweight.map(|dweight| cast(&dweight, term.weight.dtype())).transpose()?])
    }
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
