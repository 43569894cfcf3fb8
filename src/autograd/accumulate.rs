//! The sum rule: gradients of a tensor that was used more than once are added.

use super::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::Float;
use crate::error::{Error, Result};

/// `sum + term`, in place where `sum` is not shared.
pub(super) fn accumulate(mut sum: Tensor, term: &Tensor) -> Result<Tensor> {
    if sum.shape().numel() != term.shape().numel() {
        return Err(Error::shape("accumulate", format!("{} does not fit {}", term.shape(), sum.shape())));
    }
    let Device::Cpu = sum.device() else {
        return Err(Error::device(sum.device(), "has no kernel for accumulate"));
    };
    dispatch_float!("accumulate", sum.dtype(), T => {
        let term = term.slice::<T>()?;
        host::par_rows(sum.slice_mut::<T>()?, 1, #[inline(always)] |first, sum| {
            for (s, t) in sum.iter_mut().zip(&term[first..]) {
                *s = T::from_f32(s.to_f32() + t.to_f32());
            }
        });
        Ok(sum)
    })
}
