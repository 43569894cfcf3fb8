//! The norm of gradients: what clips them and what tells that one is not finite. Not on the tape.

mod cpu;

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
/// - Dtypes: f32, bf16; squares and sums in f64, so a norm is finite just where all elements are
///
/// # Errors
/// [`Error::DType`](crate::error::Error::DType) if a gradient is not a float tensor.
pub fn grad_norm(gradients: &[&Tensor]) -> Result<GradNorm> {
    gradients.iter().try_for_each(|gradient| check::cpu(OP, gradient))?;
    let squares = cpu::squares(gradients)?;
    Ok(GradNorm { total: squares.iter().sum::<f64>().sqrt(), each: squares.into_iter().map(f64::sqrt).collect() })
}
