//! Rotary position embedding.

/// How frequencies are changed to reach beyond the positions a model was first trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// All frequencies divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
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
    /// What in it cannot be, in words that name the field; `None` if all fits.
    pub fn contradiction(&self) -> Option<String> {
        let (Self::Linear { factor } | Self::Llama3 { factor, .. }) = *self;
        if !(factor >= 1.0 && factor.is_finite()) {
            return Some(format!("the factor of the rope scaling must be at least 1, got {factor}"));
        }
        match *self {
            Self::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } if !(low > 0.0 && high > low) => {
                Some(format!("high_freq_factor {high} must be above low_freq_factor {low}, and both above 0"))
            }
            Self::Llama3 { original_max_position_embeddings: 0, .. } => {
                Some("original_max_position_embeddings must be positive, got 0".into())
            }
            _ => None,
        }
    }
}
