//! All parameters whose gradients are of one dtype in one launch.

use super::{AdamWUpdate, Factors};
use crate::device::{Arg, Kernels, Launch};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels;
use crate::ops::tensor_table::{Record, TensorTable};

pub const KERNELS: Kernels = kernels!("adamw");

/// Updates every parameter and its state.
pub fn step(updates: &mut [AdamWUpdate<'_>], factors: &Factors) -> Result<()> {
    let Some(device) = updates.first().map(|update| update.parameter.device()) else { return Ok(()) };
    for dtype in [DType::F32, DType::Bf16] {
        let alike = updates.iter_mut().filter(|update| update.gradient.dtype() == dtype);
        let records = alike.map(record).collect::<Result<Vec<_>>>()?;
        let table = TensorTable::new(&device, &records)?;
        let args = [&table.as_inputs()?[..], &arguments(factors)].concat();
        let kernel = format!("adamw_{dtype}");
        let launch = Launch { kernel: &kernel, grid: [table.blocks, 1, 1], block: 256, shared: 0, args: &args };
        KERNELS.launch(&device, &launch)?;
    }
    Ok(())
}

fn record(update: &mut AdamWUpdate<'_>) -> Result<Record> {
    Ok(Record {
        parameter: update.parameter.buffer_mut()?.device_ptr()?.0,
        gradient: update.gradient.buffer().device_ptr()?.0,
        m: update.m.buffer_mut()?.device_ptr()?.0,
        v: update.v.buffer_mut()?.device_ptr()?.0,
        n: update.parameter.shape().numel() as u64,
    })
}

fn arguments(factors: &Factors) -> [Arg; 8] {
    let Factors { gradient_scale, decay, one_minus_beta1, beta2, one_minus_beta2, sqrt_c2, eps, step_size } = *factors;
    [gradient_scale, decay, one_minus_beta1, beta2, one_minus_beta2, sqrt_c2, eps, step_size].map(Arg::F32)
}
