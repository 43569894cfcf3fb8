//! `y = x · wᵀ + scaling * (dropout(x) · aᵀ) · bᵀ`. Hu et al. 2021, arXiv:2106.09685.

use super::Real;

/// A frozen layer `w` `[N, K]` with its adapter.
#[derive(Clone, Debug)]
pub struct Lora<R> {
    /// `[N, K]`.
    pub w: Vec<R>,
    /// `[R, K]`.
    pub a: Vec<R>,
    /// `[N, R]`.
    pub b: Vec<R>,
    /// The factor of the adapter's output.
    pub scaling: R,
    /// `[rows, K]`: what dropout multiplies each element of `x` with, 0 or `1 / (1 - p)`.
    pub mask: Vec<R>,
}

/// The gradients of `x`, `w`, `a`, `b`.
pub type Gradients<R> = [Vec<R>; 4];

impl<R: Real> Lora<R> {
    /// `x` `[rows, K]` → `y` `[rows, N]`.
    pub fn forward(&self, x: &[R], k: usize) -> Vec<R> {
        let r = self.a.len() / k;
        let xa = product(&self.dropped(x), |i, j| self.a[j * k + i], k, r);
        let base = product(x, |i, j| self.w[j * k + i], k, self.w.len() / k);
        let adapter = product(&xa, |i, j| self.b[j * r + i], r, self.w.len() / k);
        base.iter().zip(adapter).map(|(&base, adapter)| base + self.scaling * adapter).collect()
    }

    /// `dy` `[rows, N]`, `x` `[rows, K]` → `dx`, `dw`, `da`, `db`.
    pub fn backward(&self, dy: &[R], x: &[R], k: usize) -> Gradients<R> {
        let (r, n) = (self.a.len() / k, self.w.len() / k);
        let dropped = self.dropped(x);
        let dy_scaled: Vec<R> = dy.iter().map(|&dy| self.scaling * dy).collect();
        let xa = product(&dropped, |i, j| self.a[j * k + i], k, r);
        let dxa = product(&dy_scaled, |i, j| self.b[i * r + j], n, r);
        let through_base = product(dy, |i, j| self.w[i * k + j], n, k);
        let through_adapter = self.dropped(&product(&dxa, |i, j| self.a[i * k + j], r, k));
        let dx = through_base.iter().zip(through_adapter).map(|(&base, adapter)| base + adapter).collect();
        let rows = x.len() / k;
        let dw = product(&transposed(dy, n), |i, j| x[i * k + j], rows, k);
        let da = product(&transposed(&dxa, r), |i, j| dropped[i * k + j], rows, k);
        let db = product(&transposed(&dy_scaled, n), |i, j| xa[i * r + j], rows, r);
        [dx, dw, da, db]
    }

    fn dropped(&self, x: &[R]) -> Vec<R> {
        x.iter().zip(&self.mask).map(|(&x, &mask)| x * mask).collect()
    }
}

/// `x` `[rows, k]` times the matrix `[k, n]` whose element `(i, j)` is `m(i, j)`.
fn product<R: Real>(x: &[R], m: impl Fn(usize, usize) -> R, k: usize, n: usize) -> Vec<R> {
    let mut y = Vec::new();
    for x in x.chunks(k) {
        y.extend((0..n).map(|j| (0..k).fold(R::zero(), |sum, i| sum + x[i] * m(i, j))));
    }
    y
}

fn transposed<R: Real>(x: &[R], columns: usize) -> Vec<R> {
    (0..columns).flat_map(|j| x.iter().skip(j).step_by(columns).copied()).collect()
}
