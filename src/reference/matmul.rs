//! `y = x · wᵀ`: a linear layer without bias.

use super::Real;

/// `x` `[rows, K]`, `w` `[N, K]` → `y` `[rows, N]`.
pub fn forward<R: Real>(x: &[R], w: &[R], k: usize) -> Vec<R> {
    let mut y = Vec::new();
    for x in x.chunks(k) {
        for w in w.chunks(k) {
            let mut sum = R::zero();
            for i in 0..k {
                sum = sum + x[i] * w[i];
            }
            y.push(sum);
        }
    }
    y
}

/// `dy` `[rows, N]`, `x` `[rows, K]`, `w` `[N, K]` → `dx = dy · w` `[rows, K]`, `dw = dyᵀ · x` `[N, K]`.
pub fn backward<R: Real>(dy: &[R], x: &[R], w: &[R], k: usize) -> (Vec<R>, Vec<R>) {
    let n = w.len() / k;
    let mut dx = vec![R::zero(); x.len()];
    let mut dw = vec![R::zero(); w.len()];
    for row in 0..x.len() / k {
        for j in 0..n {
            for i in 0..k {
                dx[row * k + i] = dx[row * k + i] + dy[row * n + j] * w[j * k + i];
                dw[j * k + i] = dw[j * k + i] + dy[row * n + j] * x[row * k + i];
            }
        }
    }
    (dx, dw)
}
