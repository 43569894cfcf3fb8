//! Setting examples aside for evaluation.

use super::shuffle::order;

/// Divides `items` into those to train on and those to evaluate on, both in their order.
///
/// Evaluation gets `len · ratio` of them, rounded up, but never the last one left to train on; which ones depends on
/// `seed` and `len` alone.
pub fn split<T>(items: Vec<T>, ratio: f64, seed: u64) -> (Vec<T>, Vec<T>) {
    let wanted = (items.len() as f64 * ratio.clamp(0.0, 1.0) - 1e-9).ceil() as usize; // 100 · 0.07 is above 7 in f64
    let mut is_evaluated = vec![false; items.len()];
    for index in order(items.len(), seed, 0).into_iter().take(wanted.min(items.len().saturating_sub(1))) {
        is_evaluated[index] = true;
    }
    let mut is_evaluated = is_evaluated.into_iter();
    items.into_iter().partition(|_| is_evaluated.next() == Some(false))
}
