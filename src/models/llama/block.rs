//! One transformer block.

use super::{LlamaConfig, Load};
use crate::autograd::Tensor;
use crate::error::Result;
use crate::nn::{LayerCache, Linear, Parameter, Pass, RmsNorm};
use crate::ops::attention::{Heads, attention};
use crate::ops::rope::rope;
use crate::ops::swiglu::swiglu;
use crate::shape::Shape;

/// Self-attention and a gated feed-forward layer, each added to the residual stream.
#[derive(Debug)]
pub(super) struct Block {
    input_layernorm: RmsNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    heads: Heads,
}

impl Block {
    pub(super) fn new(config: &LlamaConfig, prefix: &str, load: &mut Load<'_>) -> Result<Self> {
        let (h, i, d) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (q, kv) = (config.num_attention_heads * d, config.num_key_value_heads * d);
        let mut weight = |name: &str, shape: Shape| load(&format!("{prefix}{name}.weight"), shape);
        let mut norm = |name: &str| -> Result<RmsNorm> {
            Ok(RmsNorm { weight: Parameter::new(weight(name, [h].into())?), eps: config.rms_norm_eps as f32 })
        };
        let (input_layernorm, post_attention_layernorm) = (norm("input_layernorm")?, norm("post_attention_layernorm")?);
        let mut linear = |name: &str, n: usize, k: usize| Ok(Linear::new(weight(name, [n, k].into())?));
        Ok(Self {
            input_layernorm,
            q_proj: linear("self_attn.q_proj", q, h)?,
            k_proj: linear("self_attn.k_proj", kv, h)?,
            v_proj: linear("self_attn.v_proj", kv, h)?,
            o_proj: linear("self_attn.o_proj", h, q)?,
            post_attention_layernorm,
            gate_proj: linear("mlp.gate_proj", i, h)?,
            up_proj: linear("mlp.up_proj", i, h)?,
            down_proj: linear("mlp.down_proj", h, i)?,
            heads: config.heads(),
        })
    }

    /// `[rows, H]` → `[rows, H]`; with a cache, the rows continue what it holds.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass, cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let normed = self.input_layernorm.forward(x)?;
        let q = self.q_proj.forward(&normed, pass)?;
        let k = self.k_proj.forward(&normed, pass)?;
        let v = self.v_proj.forward(&normed, pass)?;
        let (q, k) = rope(q, k, &pass.rope, &pass.positions)?;
        let scale = 1.0 / (self.heads.head_dim as f32).sqrt();
        let (k, v) = match cache {
            None => (&k, &v),
            Some(cache) => cache.append(&k, &v)?,
        };
        let attended = attention(&q, k, v, &pass.segments, self.heads, scale)?;
        let projected = self.o_proj.forward(&attended, pass)?;
        let (normed, x) = self.post_attention_layernorm.forward_residual(&projected, x)?;
        let gated = swiglu(&self.gate_proj.forward(&normed, pass)?, &self.up_proj.forward(&normed, pass)?)?;
        self.down_proj.forward_residual(&gated, Some(&x), pass)
    }

    pub(super) fn linears(&self) -> [(&'static str, &Linear); 7] {
        [
            ("self_attn.q_proj", &self.q_proj),
            ("self_attn.k_proj", &self.k_proj),
            ("self_attn.v_proj", &self.v_proj),
            ("self_attn.o_proj", &self.o_proj),
            ("mlp.gate_proj", &self.gate_proj),
            ("mlp.up_proj", &self.up_proj),
            ("mlp.down_proj", &self.down_proj),
        ]
    }

    pub(super) fn norms(&self) -> [(&'static str, &RmsNorm); 2] {
        [("input_layernorm", &self.input_layernorm), ("post_attention_layernorm", &self.post_attention_layernorm)]
    }
}
