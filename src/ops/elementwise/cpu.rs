//! One read of each operand, one write of the result.

use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::Result;

/// `a + b`, rounded to their dtype.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut sum = Tensor::uninit(&Device::Cpu, a.dtype(), a.shape())?;
    dispatch_float!("add", a.dtype(), T => {
        let (a, b) = (a.slice::<T>()?, b.slice::<T>()?);
        host::par_rows(sum.slice_mut::<T>()?, 1, #[inline(always)] |first, sum| {
            for ((sum, a), b) in sum.iter_mut().zip(&a[first..]).zip(&b[first..]) {
                *sum = T::from_f32(a.to_f32() + b.to_f32());
            }
        });
        Ok(sum)
    })
}

/// `x`, rounded to `dtype`.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let mut y = Tensor::uninit(&Device::Cpu, dtype, x.shape())?;
    dispatch_float!("cast", x.dtype(), From => dispatch_float!("cast", dtype, To => {
        let x = x.slice::<From>()?;
        host::par_rows(y.slice_mut::<To>()?, 1, #[inline(always)] |first, y| {
            y.iter_mut().zip(&x[first..]).for_each(|(y, x)| *y = To::from_f32(x.to_f32()));
        });
        Ok(y)
    }))
}
