//! Sums over fixed pieces, each in eight lanes, then over the pieces in order.

use rayon::prelude::*;

use super::OP;
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::Float;
use crate::error::Result;

/// The sum of the squares of each gradient.
pub fn squares(gradients: &[&Tensor]) -> Result<Vec<f64>> {
    Ok(pieces(gradients)?.into_iter().map(|pieces| pieces.into_iter().sum()).collect())
}

/// The sum of the squares of each piece of each gradient.
pub fn pieces(gradients: &[&Tensor]) -> Result<Vec<Vec<f64>>> {
    gradients.par_iter().map(|gradient| pieces_of(gradient)).collect()
}

/// `max_norm / (norm + 1e-6)`, at most 1; NaN if the norm is not finite.
pub fn clip_scale(squares: &[f64], max_norm: f64) -> Result<Tensor> {
    let norm = squares.iter().sum::<f64>().sqrt();
    let scale = if norm.is_finite() { (max_norm / (norm + 1e-6)).min(1.0) as f32 } else { f32::NAN };
    Tensor::from_slice(&Device::Cpu, [], &[scale])
}

fn pieces_of(gradient: &Tensor) -> Result<Vec<f64>> {
    dispatch_float!(OP, gradient.dtype(), T => {
        let pieces = gradient.slice::<T>()?.par_chunks(host::rows_per_task(1));
        Ok(pieces.map(squares_of_piece).collect())
    })
}

fn squares_of_piece<T: Float>(piece: &[T]) -> f64 {
    host::vectorize(
        #[inline(always)]
        || {
            let mut lanes = [0.0f64; 8];
            let (whole, rest) = piece.as_chunks::<8>();
            for values in whole {
                lanes.iter_mut().zip(values).for_each(
                    #[inline(always)]
                    |(lane, value)| *lane += square(*value),
                );
            }
            lanes.iter_mut().zip(rest).for_each(
                #[inline(always)]
                |(lane, value)| *lane += square(*value),
            );
            lanes.iter().sum()
        },
    )
}

#[inline(always)]
fn square<T: Float>(value: T) -> f64 {
    let value = f64::from(value.to_f32());
    value * value
}
