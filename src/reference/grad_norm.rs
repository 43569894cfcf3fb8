//! The Euclidean norm over all elements of all tensors, and PyTorch's `clip_grad_norm_`.

use super::Real;

/// `gradients` → the root of the sum of all squares.
pub fn norm<R: Real>(gradients: &[Vec<R>]) -> R {
    let mut sum = R::zero();
    for &g in gradients.iter().flatten() {
        sum = sum + g * g;
    }
    sum.sqrt()
}

/// What gradients of that norm are multiplied by: `max_norm / (norm + 1e-6)`, at most 1.
pub fn clip_scale<R: Real>(norm: R, max_norm: f64) -> R {
    let scale = R::from_f64(max_norm) / (norm + R::from_f64(1e-6));
    if scale < R::one() { scale } else { R::one() }
}
