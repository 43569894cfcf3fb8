//! Element by element; the exponential is the only arithmetic that counts.

use super::OP;
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::Float;
use crate::error::Result;
use crate::ops::math::exp;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `gate * sigmoid(gate) * up`.
pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let mut y = Tensor::uninit(&Device::Cpu, gate.dtype(), gate.shape())?;
    dispatch_float!(OP, gate.dtype(), T => {
        let (gate, up) = (gate.slice::<T>()?, up.slice::<T>()?);
        host::par_rows(y.slice_mut::<T>()?, 1, #[inline(always)] |first, y| {
            for ((y, gate), up) in y.iter_mut().zip(&gate[first..]).zip(&up[first..]) {
                let gate = gate.to_f32();
                *y = T::from_f32(gate * sigmoid(gate) * up.to_f32());
            }
        });
        Ok(y)
    })
}

/// `dgate = dy * up * s * (1 + gate * (1 - s))`, `dup = dy * gate * s`, where `s = sigmoid(gate)`.
pub fn backward(dy: Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    let mut dgate = Tensor::uninit(&Device::Cpu, gate.dtype(), gate.shape())?;
    let mut dup = dy;
    dispatch_float!(OP, gate.dtype(), T => {
        let (gate, up) = (gate.slice::<T>()?, up.slice::<T>()?);
        let (dgate, dup) = (dgate.slice_mut::<T>()?, dup.slice_mut::<T>()?);
        host::par_rows2((dgate, 1), (dup, 1), #[inline(always)] |first, dgate, dup| {
            for (((dgate, dup), gate), up) in dgate.iter_mut().zip(dup).zip(&gate[first..]).zip(&up[first..]) {
                let (dy, gate) = (dup.to_f32(), gate.to_f32());
                let s = sigmoid(gate);
                *dgate = T::from_f32(dy * up.to_f32() * s * (1.0 + gate * (1.0 - s)));
                *dup = T::from_f32(dy * gate * s);
            }
        });
        Ok(())
    })?;
    Ok((dgate, dup))
}
