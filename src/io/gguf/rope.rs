//! How a GGUF's metadata, or its tensor of factors, spells scaled rotary frequencies.

use super::{Gguf, dequantize};
use crate::error::Result;
use crate::ops::rope::RopeScaling;
use crate::shape::Shape;

/// Divisors of the rotary frequencies, `[D/2]`: how Llama 3's scaling is stored.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

impl Gguf {
    pub(super) fn rope_scaling(&self, head_dim: usize, rope_theta: f64, context: usize) -> Result<Option<RopeScaling>> {
        let (kind, factor) = (self.key("rope.scaling.type")?, self.float(&self.key("rope.scaling.factor")?)?);
        let factor = factor.or(self.float(&self.key("rope.scale_linear")?)?).filter(|&factor| factor != 0.0);
        let scaling = match (self.string(&kind)?.unwrap_or("linear"), factor) {
            ("none", _) | ("linear", None | Some(1.0)) => None,
            ("linear", Some(factor)) => Some(RopeScaling::Linear { factor }),
            ("yarn", factor) => Some(self.yarn(factor.unwrap_or(1.0), context)?),
            (other, _) => return Err(self.key_error(&kind, format!("{other} is not supported"))),
        };
        if !self.header.tensors.contains_key(ROPE_FACTORS) {
            return Ok(scaling);
        }
        if scaling.is_some() {
            return Err(self.tensor_error(ROPE_FACTORS, "is not supported together with another scaling"));
        }
        self.llama3_scaling(head_dim, rope_theta)
    }

    /// What `yarn_log_multiplier` means differs between architectures, of which none is read here.
    fn yarn(&self, factor: f64, context: usize) -> Result<RopeScaling> {
        let number = |name: &str| self.float(&self.key(&format!("rope.scaling.{name}"))?);
        for (name, supported) in [("yarn_log_multiplier", 0.0), ("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0)] {
            if let Some(other) = number(name)?.filter(|&value| value != supported) {
                return Err(
                    self.key_error(&self.key(&format!("rope.scaling.{name}"))?, format!("{other} is not supported"))
                );
            }
        }
        let original =
            self.unsigned(&self.key("rope.scaling.original_context_length")?)?.filter(|&original| original > 0);
        Ok(RopeScaling::Yarn {
            factor,
            attention_factor: RopeScaling::mscale(factor, 1.0) * number("attn_factor")?.unwrap_or(1.0),
            beta_fast: number("yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: number("yarn_beta_slow")?.unwrap_or(1.0),
            truncate: true,
            original_max_position_embeddings: original.unwrap_or(context),
        })
    }

    /// The scaling whose divisors of the frequencies the file has. They do not tell its parameters, but all Llamas
    /// share them, except for the factor, which is the divisor of the lowest frequency.
    fn llama3_scaling(&self, head_dim: usize, rope_theta: f64) -> Result<Option<RopeScaling>> {
        let factors = self.rope_factors(head_dim)?;
        if factors.iter().all(|&factor| factor == 1.0) {
            return Ok(None);
        }
        let factor = f64::from(factors.last().copied().unwrap_or(1.0));
        for (i, &found) in factors.iter().enumerate() {
            let frequency = rope_theta.powf(-2.0 * i as f64 / head_dim as f64);
            let expected = llama3_factor(frequency, factor);
            let fits = (f64::from(found) / expected - 1.0).abs() <= 1e-4; // they were computed in f32
            if !fits {
                let detail = format!(
                    "divides frequency {i} by {found}, where Llama 3's scaling with factor {factor} and context 8192 \
                     divides it by {expected}; another scaling is not supported"
                );
                return Err(self.tensor_error(ROPE_FACTORS, detail));
            }
        }
        Ok(Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor: LOW_FREQ_FACTOR,
            high_freq_factor: HIGH_FREQ_FACTOR,
            original_max_position_embeddings: ORIGINAL_CONTEXT,
        }))
    }

    fn rope_factors(&self, head_dim: usize) -> Result<Vec<f32>> {
        let wanted = Shape::from([head_dim / 2]);
        let info = self.header.tensors.get(ROPE_FACTORS).filter(|info| info.shape == wanted);
        let info = info.ok_or_else(|| self.tensor_error(ROPE_FACTORS, format!("must be {wanted}")))?;
        let encoding = self.encoding(ROPE_FACTORS, info)?;
        let mut factors = vec![0.0; wanted.numel()];
        dequantize(encoding, self.blocks(info), &mut factors);
        Ok(factors)
    }
}

const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
const ORIGINAL_CONTEXT: usize = 8192;

/// What Llama 3's scaling divides `frequency` by.
fn llama3_factor(frequency: f64, factor: f64) -> f64 {
    let turns = ORIGINAL_CONTEXT as f64 * frequency / std::f64::consts::TAU; // in the original context
    let smooth = (turns - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR);
    1.0 / (smooth.clamp(0.0, 1.0) * (1.0 - 1.0 / factor) + 1.0 / factor)
}
