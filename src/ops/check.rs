//! The refusals that all ops share.

use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

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

/// Refuses `tensor` unless it lives on the device of `like`.
pub fn same_device(op: &'static str, name: &str, tensor: &Tensor, like: &Tensor) -> Result<()> {
    if tensor.device().is_same(&like.device()) {
        return Ok(());
    }
    Err(Error::device(tensor.device(), format!("{op}: {name} must be on {}", like.device())))
}

/// Refuses a GPU that has no kernel for `op`.
pub fn cpu(op: &'static str, tensor: &Tensor) -> Result<()> {
    match tensor.device() {
        Device::Cpu => Ok(()),
        device @ Device::Cuda(_) => Err(Error::device(device, format!("has no kernel for {op}"))),
    }
}
