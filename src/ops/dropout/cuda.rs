//! A counter's four words serve four neighbours; a pack of 16 bytes a thread.

use super::{Dropout, scale, threshold};
use crate::autograd::Tensor;
use crate::device::{Arg, Kernels};
use crate::error::Result;
use crate::kernels;

pub const KERNELS: Kernels = kernels!("dropout");

/// `x` masked and scaled; the gradient of that is the same function of `dy`.
pub fn apply(x: &Tensor, key: Dropout) -> Result<Tensor> {
    let (dtype, n) = (x.dtype(), x.shape().numel());
    let mut y = Tensor::uninit(&x.device(), dtype, x.shape())?;
    let wide = [n as u64, key.first_element, key.seed].map(|word| Arg::I64(word.cast_signed()));
    let narrow = [key.step as u32, key.site, threshold(key.p)].map(|word| Arg::I32(word.cast_signed()));
    let args = [&[y.as_output()?, x.as_input()?][..], &wide, &narrow, &[Arg::F32(scale(key.p))]].concat();
    KERNELS.launch_flat(&x.device(), &format!("dropout_{dtype}"), n, 16 / dtype.size(), &args)?;
    Ok(y)
}
