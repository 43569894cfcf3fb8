//! All parameters in one launch.

use super::{AdamWUpdate, Factors};
use crate::autograd::Tensor;
use crate::device::{Arg, Kernels, Launch};
use crate::error::Result;
use crate::kernels;
use crate::ops::tensor_table::{Record, TensorTable};

pub const KERNELS: Kernels = kernels!("adamw");

/// Updates every parameter and its state.
pub fn step(updates: &mut [AdamWUpdate<'_>], gradient_scale: &Tensor, factors: &Factors) -> Result<()> {
    let device = gradient_scale.device();
    let table = TensorTable::new(&device, updates.iter_mut().map(record).collect::<Result<_>>()?)?;
    let args = [&table.as_inputs()?[..], &[gradient_scale.as_input()?], &arguments(factors)].concat();
    let launch = Launch { kernel: "adamw", grid: [table.blocks, 1, 1], block: 256, shared: 0, args: &args };
    KERNELS.launch(&device, &launch)
}

fn record(update: &mut AdamWUpdate<'_>) -> Result<Record> {
    Ok(Record {
        parameter: update.parameter.buffer_mut()?.device_ptr()?.address(),
        m: update.m.buffer_mut()?.device_ptr()?.address(),
        v: update.v.buffer_mut()?.device_ptr()?.address(),
        ..Record::new(update.gradient)?
    })
}

fn arguments(factors: &Factors) -> [Arg; 7] {
    let Factors { decay, one_minus_beta1, beta2, one_minus_beta2, sqrt_c2, eps, step_size } = *factors;
    [decay, one_minus_beta1, beta2, one_minus_beta2, sqrt_c2, eps, step_size].map(Arg::F32)
}
