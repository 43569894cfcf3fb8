//! Rows in parallel, each with 16 running sums, so that the loops vectorise and their order is fixed.

use rayon::prelude::*;

use super::OP;
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::Result;
use crate::ops::elementwise::add;
use crate::ops::math::dot;

/// `y` like `x`, `rstd` `[rows]`.
pub fn forward(x: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
    let h = x.shape().last();
    let mut y = Tensor::uninit(&Device::Cpu, x.dtype(), x.shape())?;
    let mut rstd = Tensor::uninit(&Device::Cpu, DType::F32, [x.shape().rows()])?;
    dispatch_float!(OP, x.dtype(), T => {
        let (x, weight) = (x.slice::<T>()?, weight.slice::<T>()?);
        let (y, rstd) = (y.slice_mut::<T>()?, rstd.slice_mut::<f32>()?);
        host::par_rows2((y, h), (rstd, 1), #[inline(always)] |first, y, rstd| {
            for ((y, rstd), x) in y.chunks_mut(h).zip(rstd).zip(x[first * h..].chunks(h)) {
                *rstd = 1.0 / (dot(x, x) / h as f32 + eps).sqrt();
                for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                    *y = T::from_f32(x.to_f32() * *rstd * w.to_f32());
                }
            }
        });
        Ok(())
    })?;
    Ok((y, rstd))
}

/// `y`, `sum = x + residual` like `x`, `rstd` `[rows]`.
pub fn residual_forward(x: &Tensor, residual: &Tensor, weight: &Tensor, eps: f32) -> Result<(Tensor, Tensor, Tensor)> {
    let sum = add(&x.detach(), &residual.detach())?;
    let (y, rstd) = forward(&sum, weight, eps)?;
    Ok((y, sum, rstd))
}

/// `dx = rstd * (dy * w - x * rstd² * mean(dy * w * x))`, and `dsum` where it is given.
pub fn backward_x(dy: &Tensor, dsum: Option<&Tensor>, x: &Tensor, weight: &Tensor, rstd: &Tensor) -> Result<Tensor> {
    let dx = backward_plain_x(dy, x, weight, rstd)?;
    dsum.map_or(Ok(dx.clone()), |dsum| add(&dx, dsum))
}

fn backward_plain_x(dy: &Tensor, x: &Tensor, weight: &Tensor, rstd: &Tensor) -> Result<Tensor> {
    let h = x.shape().last();
    let mut dx = Tensor::uninit(&Device::Cpu, x.dtype(), x.shape())?;
    dispatch_float!(OP, x.dtype(), T => {
        let (dy, x, weight) = (dy.slice::<T>()?, x.slice::<T>()?, weight.slice::<T>()?);
        let rstd = rstd.slice::<f32>()?;
        host::par_rows(dx.slice_mut::<T>()?, h, #[inline(always)] |first, dx| {
            let rows = dy[first * h..].chunks(h).zip(x[first * h..].chunks(h)).zip(&rstd[first..]);
            let mut dy_w = vec![0.0f32; h];
            for (dx, ((dy, x), rstd)) in dx.chunks_mut(h).zip(rows) {
                for ((dy_w, dy), w) in dy_w.iter_mut().zip(dy).zip(weight) {
                    *dy_w = dy.to_f32() * w.to_f32();
                }
                let mean = dot(&dy_w, x) / h as f32;
                let scale = rstd * rstd * mean;
                for ((dx, dy_w), x) in dx.iter_mut().zip(&dy_w).zip(x) {
                    *dx = T::from_f32(rstd * (dy_w - x.to_f32() * scale));
                }
            }
        });
        Ok(())
    })?;
    Ok(dx)
}

/// `dw = sum over rows of dy * x * rstd`: partial sums over fixed runs of rows, then over the runs in order.
pub fn backward_weight(dy: &Tensor, x: &Tensor, rstd: &Tensor) -> Result<Tensor> {
    let h = x.shape().last();
    let mut dw = Tensor::uninit(&Device::Cpu, x.dtype(), [h])?;
    dispatch_float!(OP, x.dtype(), T => {
        let (dy, x, rstd) = (dy.slice::<T>()?, x.slice::<T>()?, rstd.slice::<f32>()?);
        let rows = host::rows_per_task(h);
        let runs = dy.par_chunks(rows * h).zip(x.par_chunks(rows * h)).zip(rstd.par_chunks(rows));
        let sums = |((dy, x), rstd)| host::vectorize(#[inline(always)] || weight_sums(dy, x, rstd, h));
        let partial: Vec<Vec<f32>> = runs.map(sums).collect();
        for (i, dw) in dw.slice_mut::<T>()?.iter_mut().enumerate() {
            *dw = T::from_f32(partial.iter().map(|sums| sums[i]).sum());
        }
        Ok(())
    })?;
    Ok(dw)
}

#[inline(always)]
fn weight_sums<T: Float>(dy: &[T], x: &[T], rstd: &[f32], h: usize) -> Vec<f32> {
    let mut sums = vec![0.0; h];
    for ((dy, x), rstd) in dy.chunks(h).zip(x.chunks(h)).zip(rstd) {
        for ((sum, dy), x) in sums.iter_mut().zip(dy).zip(x) {
            *sum += dy.to_f32() * x.to_f32() * rstd;
        }
    }
    sums
}
