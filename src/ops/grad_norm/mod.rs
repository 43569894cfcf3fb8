//! The norm of gradients: what clips them and what tells that one is not finite. Not on the tape.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use crate::autograd::Tensor;
use crate::error::Result;

const OP: &str = "grad_norm";

/// The Euclidean norms of some gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct GradNorm {
    /// Over all elements of all gradients.
    pub total: f64,
    /// Of each gradient.
    pub each: Vec<f64>,
}

impl GradNorm {
    /// The first gradient with an element that is infinite or not a number.
    pub fn first_not_finite(&self) -> Option<usize> {
        self.each.iter().position(|norm| !norm.is_finite())
    }

    /// What the gradients are to be multiplied by so that their norm is at most `max_norm`, as PyTorch's
    /// `clip_grad_norm_` does: `max_norm / (total + 1e-6)`, at most 1.
    pub fn clip_scale(&self, max_norm: f64) -> f32 {
        (max_norm / (self.total + 1e-6)).min(1.0) as f32
    }
}

/// The norms of `gradients`.
///
/// - Dtypes: f32, bf16; a norm is finite just where all elements are. Squares and sums are in f64 on the CPU; on a GPU
///   in f32 over chunks of 8192 elements, of which those below 2⁻⁷⁵ in size count as 0, and in f64 over the chunks
///
/// # Errors
/// [`Error::DType`](crate::error::Error::DType) if a gradient is not a float tensor; [`Error::Device`](crate::error::Error::Device) if
/// they are not all on one device.
pub fn grad_norm(gradients: &[&Tensor]) -> Result<GradNorm> {
    let [first, ..] = gradients else { return Ok(GradNorm { total: 0.0, each: Vec::new() }) };
    gradients.iter().try_for_each(|gradient| check::same_device(OP, "every gradient", gradient, first))?;
    let squares = on_device!(first, squares(gradients))?;
    Ok(GradNorm { total: squares.iter().sum::<f64>().sqrt(), each: squares.into_iter().map(f64::sqrt).collect() })
}
