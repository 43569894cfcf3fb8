//! A counter's four words serve four neighbours; a pack of 16 bytes a thread.

use super::{Dropout, scale, threshold};
use crate::autograd::Tensor;
use crate::device::{Arg, Kernels};
use crate::error::Result;
use crate::kernels;

pub const KERNELS: Kernels = kernels!("dropout");

impl Dropout {
    /// Its numbers, as kernels take them.
    pub(in crate::ops) fn arguments(self) -> [Arg; 6] {
        let [first, seed] = [self.first_element, self.seed].map(|word| Arg::I64(word.cast_signed()));
        let words = [self.step as u32, self.site, threshold(self.p)].map(|word| Arg::I32(word.cast_signed()));
        let [step, site, threshold] = words;
        [first, seed, step, site, threshold, Arg::F32(scale(self.p))]
    }
}

/// `x` masked and scaled; the gradient of that is the same function of `dy`.
pub fn apply(x: &Tensor, key: Dropout) -> Result<Tensor> {
    let (dtype, n) = (x.dtype(), x.shape().numel());
    let mut y = Tensor::uninit(&x.device(), dtype, x.shape())?;
    let args = [&[y.as_output()?, x.as_input()?, Arg::I64(n as i64)][..], &key.arguments()].concat();
    KERNELS.launch_flat(&x.device(), &format!("dropout_{dtype}"), n, 16 / dtype.size(), &args)?;
    Ok(y)
}
