//! Each pair `(x[i], x[i + D/2])` of a head is turned by the angle `position * frequency[i]`.
//! Su et al. 2021, arXiv:2104.09864, with the pairs of Hugging Face's `rotate_half`.

use super::Real;

/// `theta^(-2i/D)` for `i` in `0..D/2`.
pub fn frequencies(head_dim: usize, theta: f64) -> Vec<f64> {
    (0..head_dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / head_dim as f64)).collect()
}

/// Llama 3.1's frequencies, as in transformers' `_compute_llama3_parameters`.
pub fn llama3(
    frequencies: &[f64],
    factor: f64,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original: f64,
) -> Vec<f64> {
    let low_freq_wavelength = original / low_freq_factor;
    let high_freq_wavelength = original / high_freq_factor;
    let mut scaled = Vec::new();
    for &frequency in frequencies {
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        scaled.push(if wavelength < high_freq_wavelength {
            frequency
        } else if wavelength > low_freq_wavelength {
            frequency / factor
        } else {
            (1.0 - smooth) * frequency / factor + smooth * frequency
        });
    }
    scaled
}

/// The base of dynamic scaling in a text of `length` tokens, as in transformers' `_compute_dynamic_ntk_parameters`.
pub fn dynamic_theta(head_dim: usize, theta: f64, factor: f64, original: f64, length: f64) -> f64 {
    let d = head_dim as f64;
    theta * (factor * length.max(original) / original - (factor - 1.0)).powf(d / (d - 2.0))
}

/// YaRN's frequencies, as in transformers' `_compute_yarn_parameters`, of pairs of heads as wide as there are two each.
pub fn yarn(frequencies: &[f64], theta: f64, factor: f64, [beta_fast, beta_slow]: [f64; 2], original: f64) -> Vec<f64> {
    let d = 2.0 * frequencies.len() as f64;
    let correction =
        |rotations: f64| d * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
    let low = correction(beta_fast).floor().max(0.0);
    let mut high = correction(beta_slow).ceil().min(d - 1.0);
    if low == high {
        high += 0.001;
    }
    let mut scaled = Vec::new();
    for (i, &frequency) in frequencies.iter().enumerate() {
        let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        scaled.push(frequency / factor * interpolated + frequency * (1.0 - interpolated));
    }
    scaled
}

/// `x` `[rows, heads * D]`, `positions` `[rows]`, `frequencies` `[D/2]` → `y` like `x`.
pub fn forward<R: Real>(x: &[R], positions: &[u32], frequencies: &[f64]) -> Vec<R> {
    rotate(x, positions, frequencies, 1.0)
}

/// `dy` → `dx`: the turn back.
pub fn backward<R: Real>(dy: &[R], positions: &[u32], frequencies: &[f64]) -> Vec<R> {
    rotate(dy, positions, frequencies, -1.0)
}

fn rotate<R: Real>(x: &[R], positions: &[u32], frequencies: &[f64], direction: f64) -> Vec<R> {
    let half = frequencies.len();
    let mut y = x.to_vec();
    for (y, &position) in y.chunks_mut(x.len() / positions.len()).zip(positions) {
        for head in y.chunks_mut(2 * half) {
            for i in 0..half {
                let angle = direction * f64::from(position) * frequencies[i];
                let (cos, sin) = (R::from_f64(angle.cos()), R::from_f64(angle.sin()));
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * cos - b * sin;
                head[i + half] = b * cos + a * sin;
            }
        }
    }
    y
}
