//! The sum rule: gradients of a tensor that was used more than once are added.

use super::Tensor;
use crate::device::{Arg, Device, Kernels, host};
use crate::dtype::Float;
use crate::error::{Error, Result};
use crate::{dispatch_float, kernels};

const OP: &str = "accumulate";
const KERNELS: Kernels = kernels!("elementwise");

/// `sum + term`, in place where `sum` is not shared. Not on the tape.
///
/// # Errors
/// [`Error::Shape`] if they have not as many elements; [`Error::DType`] if their dtypes differ.
pub fn accumulate(sum: Tensor, term: &Tensor) -> Result<Tensor> {
    if sum.shape().numel() != term.shape().numel() {
        return Err(Error::shape(OP, format!("{} does not fit {}", term.shape(), sum.shape())));
    }
    match sum.device() {
        Device::Cpu => on_cpu(sum, term),
        device @ Device::Cuda(_) => on_gpu(&device, sum, term),
    }
}

fn on_gpu(device: &Device, mut sum: Tensor, term: &Tensor) -> Result<Tensor> {
    let (dtype, n) = (sum.dtype(), sum.shape().numel());
    if term.dtype() != dtype {
        return Err(Error::dtype(OP, format!("{} does not fit {dtype}", term.dtype())));
    }
    let y = sum.as_output()?;
    let args = [y, y, term.as_input()?, Arg::I64(n as i64)];
    KERNELS.launch_flat(device, &format!("add_{dtype}"), n, 16 / dtype.size(), &args)?;
    Ok(sum)
}

fn on_cpu(mut sum: Tensor, term: &Tensor) -> Result<Tensor> {
    dispatch_float!(OP, sum.dtype(), T => {
        let term = term.slice::<T>()?;
        host::par_rows(sum.slice_mut::<T>()?, 1, #[inline(always)] |first, sum| {
            for (s, t) in sum.iter_mut().zip(&term[first..]) {
                *s = T::from_f32(s.to_f32() + t.to_f32());
            }
        });
        Ok(sum)
    })
}
