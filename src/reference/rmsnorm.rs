//! `y = x * rstd * weight`, `rstd = 1 / sqrt(mean(x²) + eps)` over each row. Zhang & Sennrich 2019, arXiv:1910.07467.

use super::Real;

/// `x` `[rows, H]`, `weight` `[H]` → `y` `[rows, H]`, `rstd` `[rows]`.
pub fn forward<R: Real>(x: &[R], weight: &[R], eps: f64) -> (Vec<R>, Vec<R>) {
    let h = weight.len();
    let mut y = Vec::new();
    let mut rstds = Vec::new();
    for row in x.chunks(h) {
        let mut sum = R::zero();
        for &v in row {
            sum = sum + v * v;
        }
        let rstd = R::one() / (sum / R::from_f64(h as f64) + R::from_f64(eps)).sqrt();
        y.extend(row.iter().zip(weight).map(|(&v, &w)| v * rstd * w));
        rstds.push(rstd);
    }
    (y, rstds)
}

/// `dy`, `x` `[rows, H]`, `weight` `[H]` → `dx` `[rows, H]`, `dw` `[H]`.
///
/// `dx = rstd * (dy * w - x * rstd² * mean(dy * w * x))`, `dw = sum over rows of dy * x * rstd`.
pub fn backward<R: Real>(dy: &[R], x: &[R], weight: &[R], eps: f64) -> (Vec<R>, Vec<R>) {
    let h = weight.len();
    let (_, rstds) = forward(x, weight, eps);
    let mut dx = Vec::new();
    let mut dw = vec![R::zero(); h];
    for ((dy, x), &rstd) in dy.chunks(h).zip(x.chunks(h)).zip(&rstds) {
        let mut dot = R::zero();
        for i in 0..h {
            dot = dot + dy[i] * weight[i] * x[i];
        }
        let mean = dot / R::from_f64(h as f64);
        for i in 0..h {
            dx.push(rstd * (dy[i] * weight[i] - x[i] * rstd * rstd * mean));
            dw[i] = dw[i] + dy[i] * x[i] * rstd;
        }
    }
    (dx, dw)
}
