//! `y = a + b`. A cast is the identity, but for the rounding of the result.

use super::Real;

/// `a`, `b` `[n]` → `y` `[n]`. Both gradients are `dy`.
pub fn add<R: Real>(a: &[R], b: &[R]) -> Vec<R> {
    a.iter().zip(b).map(|(&a, &b)| a + b).collect()
}
