//! Flat arrays, one pack of each a thread.

use crate::autograd::Tensor;
use crate::device::{Arg, Kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels;

pub const KERNELS: Kernels = kernels!("elementwise");

/// `a + b`, rounded to their dtype.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (dtype, n) = (a.dtype(), a.shape().numel());
    let mut sum = Tensor::uninit(&a.device(), dtype, a.shape())?;
    let args = [sum.as_output()?, a.as_input()?, b.as_input()?, Arg::I64(n as i64)];
    KERNELS.launch_flat(&a.device(), &format!("add_{dtype}"), n, 16 / dtype.size(), &args)?;
    Ok(sum)
}

/// `x`, rounded to `dtype`.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let (from, n) = (x.dtype(), x.shape().numel());
    let mut y = Tensor::uninit(&x.device(), dtype, x.shape())?;
    let args = [y.as_output()?, x.as_input()?, Arg::I64(n as i64)];
    KERNELS.launch_flat(&x.device(), &format!("cast_{from}_{dtype}"), n, 4, &args)?;
    Ok(y)
}
