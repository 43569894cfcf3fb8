//! Values in another float dtype. Not differentiated: ops use it inside.

use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::Result;

/// `x` in `dtype`: itself where it is of that dtype, else a copy, rounded to nearest.
pub fn cast(op: &'static str, x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.detach());
    }
    let mut y = Tensor::uninit(&Device::Cpu, dtype, x.shape())?;
    dispatch_float!(op, x.dtype(), From => dispatch_float!(op, dtype, To => {
        let x = x.slice::<From>()?;
        host::par_rows(y.slice_mut::<To>()?, 1, #[inline(always)] |first, y| {
            y.iter_mut().zip(&x[first..]).for_each(|(y, x)| *y = To::from_f32(x.to_f32()));
        });
        Ok(y)
    }))
}
