//! All parameters at once, each in fixed pieces.

use rayon::prelude::*;

use super::{AdamWOptions, AdamWUpdate, OP};
use crate::device::host;
use crate::dispatch_float;
use crate::dtype::Float;
use crate::error::Result;

/// What the elements are multiplied by, computed in f64 once per step.
pub struct Factors {
    gradient_scale: f32,
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    sqrt_c2: f32,
    eps: f32,
    step_size: f32,
}

impl Factors {
    /// Those of step number `step`.
    pub fn new(options: &AdamWOptions, step: u64, gradient_scale: f32) -> Self {
        let AdamWOptions { learning_rate, beta1, beta2, eps, weight_decay } = *options;
        let (c1, c2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
        Self {
            gradient_scale,
            decay: (1.0 - learning_rate * weight_decay) as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            sqrt_c2: c2.sqrt() as f32,
            eps: eps as f32,
            step_size: (learning_rate / c1) as f32,
        }
    }
}

/// Updates every parameter and its state.
pub fn step(updates: &mut [AdamWUpdate<'_>], factors: &Factors) -> Result<()> {
    let piece = host::rows_per_task(1);
    updates.par_iter_mut().try_for_each(|update| {
        let parameter = update.parameter.slice_mut::<f32>()?.par_chunks_mut(piece);
        let m = update.m.slice_mut::<f32>()?.par_chunks_mut(piece);
        let v = update.v.slice_mut::<f32>()?.par_chunks_mut(piece);
        dispatch_float!(OP, update.gradient.dtype(), T => {
            let gradient = update.gradient.slice::<T>()?.par_chunks(piece);
            parameter.zip(m).zip(v).zip(gradient).for_each(|(((p, m), v), g)| step_piece(p, m, v, g, factors));
            Ok(())
        })
    })
}

fn step_piece<T: Float>(parameter: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[T], factors: &Factors) {
    host::vectorize(
        #[inline(always)]
        || {
            for (((p, m), v), g) in parameter.iter_mut().zip(m).zip(v).zip(gradient) {
                let g = factors.gradient_scale * g.to_f32();
                *m += factors.one_minus_beta1 * (g - *m);
                *v = factors.beta2 * *v + factors.one_minus_beta2 * g * g;
                let denominator = v.sqrt() / factors.sqrt_c2 + factors.eps;
                *p = factors.decay * *p - factors.step_size * *m / denominator;
            }
        },
    );
}
