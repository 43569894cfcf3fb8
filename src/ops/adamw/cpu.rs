//! All parameters at once, each in fixed pieces.

use rayon::prelude::*;

use super::{AdamWUpdate, Factors, OP};
use crate::autograd::Tensor;
use crate::device::host;
use crate::dispatch_float;
use crate::dtype::Float;
use crate::error::Result;

/// Updates every parameter and its state.
pub fn step(updates: &mut [AdamWUpdate<'_>], gradient_scale: &Tensor, factors: &Factors) -> Result<()> {
    let [scale] = *gradient_scale.slice::<f32>()? else { return Ok(()) };
    if !scale.is_finite() {
        return Ok(());
    }
    let piece = host::rows_per_task(1);
    updates.par_iter_mut().try_for_each(|update| {
        let parameter = update.parameter.slice_mut::<f32>()?.par_chunks_mut(piece);
        let m = update.m.slice_mut::<f32>()?.par_chunks_mut(piece);
        let v = update.v.slice_mut::<f32>()?.par_chunks_mut(piece);
        dispatch_float!(OP, update.gradient.dtype(), T => {
            let gradient = update.gradient.slice::<T>()?.par_chunks(piece);
            parameter.zip(m).zip(v).zip(gradient).for_each(|(((p, m), v), g)| step_piece(p, m, v, g, scale, factors));
            Ok(())
        })
    })
}

fn step_piece<T: Float>(p: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[T], scale: f32, factors: &Factors) {
    host::vectorize(
        #[inline(always)]
        || {
            for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(gradient) {
                let g = scale * g.to_f32();
                *m += factors.one_minus_beta1 * (g - *m);
                *v = factors.beta2 * *v + factors.one_minus_beta2 * g * g;
                let denominator = v.sqrt() / factors.sqrt_c2 + factors.eps;
                *p = factors.decay * *p - factors.step_size * *m / denominator;
            }
        },
    );
}
