//! One transformer block.

use super::{LlamaConfig, Load};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::nn::{LayerCache, Linear, Parameter, Pass, RmsNorm};
use crate::ops::attention::{Heads, attention};
use crate::ops::rope::rope;
use crate::ops::swiglu::swiglu;

/// Self-attention and a gated feed-forward layer, each added to the residual stream.
#[derive(Debug)]
pub(super) struct Block {
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    /// In the order of [`LlamaConfig::block_linears`].
    linears: [Linear; 7],
    heads: Heads,
}

impl Block {
    pub(super) fn new(config: &LlamaConfig, prefix: &str, load: &mut Load<'_>) -> Result<Self> {
        let mut norm = |name: &str| -> Result<RmsNorm> {
            let weight = load(&format!("{prefix}{name}.weight"), [config.hidden_size].into())?;
            Ok(RmsNorm { weight: Parameter::new(weight), eps: config.rms_norm_eps as f32 })
        };
        let (input_layernorm, post_attention_layernorm) = (norm("input_layernorm")?, norm("post_attention_layernorm")?);
        let [q, k, v, o, gate, up, down] = config.block_linears().map(|(name, shape, has_bias)| -> Result<Linear> {
            let weight = load(&format!("{prefix}{name}.weight"), shape.into())?;
            let bias = has_bias.then(|| load(&format!("{prefix}{name}.bias"), [shape[0]].into())).transpose()?;
            Ok(Linear::new(weight, bias))
        });
        let linears = [q?, k?, v?, o?, gate?, up?, down?];
        Ok(Self { input_layernorm, post_attention_layernorm, linears, heads: config.heads() })
    }

    /// `[rows, H]` → `[rows, H]`; with a cache, the rows continue what it holds.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass, cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj] = &self.linears;
        let normed = self.input_layernorm.forward(x)?;
        let q = q_proj.forward(&normed, pass)?;
        let k = k_proj.forward(&normed, pass)?;
        let v = v_proj.forward(&normed, pass)?;
        let (q, k) = rope(q, k, &pass.rope, &pass.positions)?;
        let scale = 1.0 / (self.heads.head_dim as f32).sqrt();
        let (k, v) = match cache {
            None => (&k, &v),
            Some(cache) => cache.append(&k, &v)?,
        };
        let attended = attention(&q, k, v, &pass.segments, self.heads, scale)?;
        let projected = o_proj.forward(&attended, pass)?;
        let (normed, x) = self.post_attention_layernorm.forward_residual(&projected, x)?;
        let gated = swiglu(&gate_proj.forward(&normed, pass)?, &up_proj.forward(&normed, pass)?)?;
        down_proj.forward_residual(&gated, Some(&x), pass)
    }

    pub(super) fn linears(&self) -> &[Linear; 7] {
        &self.linears
    }

    pub(super) fn norms(&self) -> [(&'static str, &RmsNorm); 2] {
        [("input_layernorm", &self.input_layernorm), ("post_attention_layernorm", &self.post_attention_layernorm)]
    }
}
