//! The refusals that all ops share.

use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

use super::gemm::with_last;

/// Refuses `tensor` unless it has `shape`.
pub fn shape(op: &'static str, name: &str, tensor: &Tensor, shape: impl Into<Shape>) -> Result<()> {
    let shape = shape.into();
    if tensor.shape() == shape {
        return Ok(());
    }
    Err(Error::shape(op, format!("{name} must be {shape}, got {}", tensor.shape())))
}

/// Refuses `tensor` unless it has `dtype`.
pub fn dtype(op: &'static str, name: &str, tensor: &Tensor, dtype: DType) -> Result<()> {
    if tensor.dtype() == dtype {
        return Ok(());
    }
    Err(Error::dtype(op, format!("{name} must be {dtype}, got {}", tensor.dtype())))
}

/// Refuses a `dtype` that is none of activations.
pub fn float(op: &'static str, dtype: DType) -> Result<()> {
    crate::dispatch_float!(op, dtype, _T => Ok(()))
}

/// Refuses `tensor` unless it has the float dtype of `like` and lives on its device.
pub fn alike(op: &'static str, name: &str, tensor: &Tensor, like: &Tensor) -> Result<()> {
    dtype(op, name, tensor, like.dtype())?;
    same_device(op, name, tensor, like)
}

/// Refuses `residual` unless it is like the output of a layer with `n` outputs and the input `x`.
pub fn residual(op: &'static str, residual: Option<&Tensor>, x: &Tensor, n: usize) -> Result<()> {
    let Some(residual) = residual else { return Ok(()) };
    shape(op, "residual", residual, with_last(op, x.shape(), n)?)?;
    alike(op, "residual", residual, x)
}

/// Refuses `tensor` unless it lives on the device of `like`.
pub fn same_device(op: &'static str, name: &str, tensor: &Tensor, like: &Tensor) -> Result<()> {
    on_device(op, name, tensor, &like.device())
}

/// Refuses `tensor` unless it lives on `device`.
pub fn on_device(op: &'static str, name: &str, tensor: &Tensor, device: &Device) -> Result<()> {
    if tensor.device().is_same(device) {
        return Ok(());
    }
    Err(Error::device(tensor.device(), format!("{op}: {name} must be on {device}")))
}

/// The first row of the u32 tensor `ids` that is not below `end`, and what it holds.
pub fn first_beyond(ids: &Tensor, end: usize) -> Result<Option<(usize, u32)>> {
    match ids.largest()? {
        Some(largest) if largest as usize >= end => {
            Ok(ids.to_vec()?.into_iter().enumerate().find(|(_, id): &(usize, u32)| *id as usize >= end))
        }
        _ => Ok(None),
    }
}
