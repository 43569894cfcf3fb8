//! Adam with decoupled weight decay, in the operations of PyTorch's `AdamW`. Loshchilov & Hutter 2019, arXiv:1711.05101.

use super::Real;

/// The options of AdamW; in PyTorch they are `lr`, `betas`, `eps`, `weight_decay`.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The step size.
    pub learning_rate: f64,
    /// The decay of `m`.
    pub beta1: f64,
    /// The decay of `v`.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// The decay of the parameter, times the learning rate.
    pub weight_decay: f64,
}

/// `p`, `m`, `v`, `gradient` `[n]`, the number of this step from 1 → `p`, `m`, `v`.
///
/// `m = m + (1 - beta1) * (g - m)`, `v = beta2 * v + (1 - beta2) * g²`,
/// `p = (1 - learning_rate * weight_decay) * p - learning_rate / c1 * m / (sqrt(v) / sqrt(c2) + eps)`,
/// where `g = scale * gradient`, `c1 = 1 - beta1^step`, `c2 = 1 - beta2^step`.
pub fn step<R: Real>([p, m, v, gradient]: [&[R]; 4], options: Options, step: u64, scale: f64) -> [Vec<R>; 3] {
    let Options { learning_rate, beta1, beta2, eps, weight_decay } = options;
    let real = R::from_f64;
    let (c1, c2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
    let mut stepped = [Vec::new(), Vec::new(), Vec::new()];
    for i in 0..p.len() {
        let g = real(scale) * gradient[i];
        let m = m[i] + real(1.0 - beta1) * (g - m[i]);
        let v = real(beta2) * v[i] + real(1.0 - beta2) * g * g;
        let denominator = v.sqrt() / real(c2.sqrt()) + real(eps);
        let p = real(1.0 - learning_rate * weight_decay) * p[i] - real(learning_rate / c1) * m / denominator;
        for (stepped, value) in stepped.iter_mut().zip([p, m, v]) {
            stepped.push(value);
        }
    }
    stepped
}
