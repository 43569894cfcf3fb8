//! How rotary frequencies are changed to reach beyond the positions a model was first trained on.

use std::f64::consts::TAU;

/// A change of all frequencies, in the terms of config.json.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// All frequencies divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// The base raised for each text that is longer than the model was trained on, by its length: "dynamic NTK".
    Dynamic {
        /// At least 1.
        factor: f64,
        /// The context the model was first trained on, its `max_position_embeddings`.
        original_max_position_embeddings: usize,
    },
    /// YaRN's: low frequencies divided by `factor`, high ones kept, a ramp between them; cosines and sines scaled.
    /// Peng et al. 2023, <https://arxiv.org/abs/2309.00071>
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// The ramp begins at the pair that turns so often in the original context.
        beta_fast: f64,
        /// The ramp ends at the pair that turns so often in the original context.
        beta_slow: f64,
        /// Whether the ramp's ends are whole numbers of pairs.
        truncate: bool,
        /// The context the model was first trained on.
        original_max_position_embeddings: usize,
    },
    /// Llama 3.1's: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// The context the model was first trained on.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// YaRN's attention factor where a config does not give it: `0.1 · weight · ln factor + 1`, with `weight` 1; 1 where
    /// nothing is stretched. DeepSeek's is the quotient of two, whose weights are `mscale` and `mscale_all_dim`.
    pub fn mscale(factor: f64, weight: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
    }

    fn factor(&self) -> f64 {
        let (Self::Linear { factor }
        | Self::Dynamic { factor, .. }
        | Self::Yarn { factor, .. }
        | Self::Llama3 { factor, .. }) = *self;
        factor
    }

    /// What in it cannot be in a model of `max_position_embeddings`, in words that name the field; `None` if all fits.
    pub fn contradiction(&self, max_position_embeddings: usize) -> Option<String> {
        match *self {
            Self::Dynamic { original_max_position_embeddings: original, .. } if original != max_position_embeddings => {
                Some(format!(
                    "dynamic rope scaling starts at max_position_embeddings {max_position_embeddings}, not {original}"
                ))
            }
            _ => self.refusal(),
        }
    }

    /// What in it alone cannot be.
    pub(super) fn refusal(&self) -> Option<String> {
        let factor = self.factor();
        if !(factor >= 1.0 && factor.is_finite()) {
            return Some(format!("the factor of the rope scaling must be at least 1, got {factor}"));
        }
        match *self {
            Self::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } if !(low > 0.0 && high > low) => {
                Some(format!("high_freq_factor {high} must be above low_freq_factor {low}, and both above 0"))
            }
            Self::Yarn { beta_slow: slow, beta_fast: fast, .. } if !(slow > 0.0 && fast > slow) => {
                Some(format!("beta_fast {fast} must be above beta_slow {slow}, and both above 0"))
            }
            Self::Yarn { attention_factor, .. } if !(attention_factor > 0.0 && attention_factor.is_finite()) => {
                Some(format!("attention_factor must be positive, got {attention_factor}"))
            }
            Self::Llama3 { original_max_position_embeddings: 0, .. }
            | Self::Yarn { original_max_position_embeddings: 0, .. }
            | Self::Dynamic { original_max_position_embeddings: 0, .. } => {
                Some("original_max_position_embeddings must be positive, got 0".into())
            }
            _ => None,
        }
    }

    /// The longest text that it is for, in a model of `max_position_embeddings`. Llama 3's configs name that; those of
    /// linear and dynamic scaling name the context before it, and of YaRN's some do the one and some the other.
    pub fn context(&self, max_position_embeddings: usize) -> usize {
        let stretched = |original: usize| (original as f64 * self.factor()) as usize;
        match *self {
            Self::Linear { .. } | Self::Dynamic { .. } => stretched(max_position_embeddings),
            Self::Yarn { original_max_position_embeddings: original, .. } => {
                stretched(original).max(max_position_embeddings)
            }
            Self::Llama3 { .. } => max_position_embeddings,
        }
    }

    /// Whether a text's frequencies depend on how long it is.
    pub fn depends_on_length(&self) -> bool {
        matches!(self, Self::Dynamic { .. })
    }

    /// What cosines and sines are multiplied by.
    pub(super) fn attention_factor(&self) -> f64 {
        match *self {
            Self::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// The base that takes the place of `theta` in a text of `length` tokens.
    fn theta(&self, theta: f64, head_dim: usize, length: usize) -> f64 {
        let Self::Dynamic { factor, original_max_position_embeddings: original } = *self else { return theta };
        let (d, stretch) = (head_dim as f64, length.max(original) as f64 / original as f64);
        theta * (1.0 + factor * (stretch - 1.0)).powf(d / (d - 2.0))
    }

    /// The frequency that takes the place of `frequency`, that of pair `i` of a head.
    fn apply(&self, frequency: f64, i: usize, head_dim: usize, theta: f64) -> f64 {
        match *self {
            Self::Linear { factor } => frequency / factor,
            Self::Dynamic { .. } => frequency,
            Self::Yarn { factor, beta_fast, beta_slow, truncate, original_max_position_embeddings, .. } => {
                let d = head_dim as f64;
                let pair = |turns: f64| {
                    d * (original_max_position_embeddings as f64 / (turns * TAU)).ln() / (2.0 * theta.ln())
                };
                let (low, high) = (pair(beta_fast), pair(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                mix(frequency, factor, 1.0 - ramp(i as f64, low.max(0.0), high.min(d - 1.0)))
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let turns = original_max_position_embeddings as f64 * frequency / TAU;
                mix(frequency, factor, ramp(turns, low_freq_factor, high_freq_factor))
            }
        }
    }
}

/// From 0 at `low` to 1 at `high`.
fn ramp(at: f64, low: f64, high: f64) -> f64 {
    let width = if low == high { 0.001 } else { high - low };
    ((at - low) / width).clamp(0.0, 1.0)
}

/// `frequency`, as much of it as `kept` says, the rest divided by `factor`.
fn mix(frequency: f64, factor: f64, kept: f64) -> f64 {
    (1.0 - kept) * frequency / factor + kept * frequency
}

/// The frequencies `theta^(-2i/D)` of a head's pairs, scaled, in a text of `length` tokens.
pub(super) fn frequencies(scaling: Option<RopeScaling>, head_dim: usize, theta: f64, length: usize) -> Vec<f64> {
    let theta = scaling.map_or(theta, |scaling| scaling.theta(theta, head_dim, length));
    let frequency = |i: usize| theta.powf(-((2 * i) as f64) / head_dim as f64);
    let scaled = |i| scaling.map_or(frequency(i), |scaling| scaling.apply(frequency(i), i, head_dim, theta));
    (0..head_dim / 2).map(scaled).collect()
}
