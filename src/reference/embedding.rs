//! `y[i] = weight[ids[i]]`; the gradient of a row of `weight` is the sum over the places that read it.

use super::Real;

/// `ids` `[rows]`, `weight` `[V, H]` → `y` `[rows, H]`.
pub fn forward<R: Real>(ids: &[u32], weight: &[R], h: usize) -> Vec<R> {
    ids.iter().flat_map(|&id| weight[id as usize * h..][..h].to_vec()).collect()
}

/// `dy` `[rows, H]`, `ids` `[rows]` → `dweight` `[V, H]`.
pub fn backward<R: Real>(dy: &[R], ids: &[u32], v: usize, h: usize) -> Vec<R> {
    let mut dweight = vec![R::zero(); v * h];
    for (dy, &id) in dy.chunks(h).zip(ids) {
        for (sum, &dy) in dweight[id as usize * h..].iter_mut().zip(dy) {
            *sum = *sum + dy;
        }
    }
    dweight
}
