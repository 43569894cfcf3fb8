//! A Llama's shape.

use crate::ops::attention::Heads;
use crate::ops::rope::RopeScaling;
use crate::shape::Shape;

/// The shape of a Llama, in the terms of its config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// H, the width of the residual stream.
    pub hidden_size: usize,
    /// I, the width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub num_hidden_layers: usize,
    /// NH, query heads.
    pub num_attention_heads: usize,
    /// NKV, key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// D, the width of a head; even.
    pub head_dim: usize,
    /// V, the number of token ids.
    pub vocab_size: usize,
    /// The longest context.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are changed.
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end one.
    pub eos_token_ids: Vec<u32>,
}

impl LlamaConfig {
    /// How many heads, and how wide.
    pub(super) fn heads(&self) -> Heads {
        let Self { num_attention_heads, num_key_value_heads, head_dim, .. } = *self;
        Heads { num_attention_heads, num_key_value_heads, head_dim }
    }

    /// What in it cannot be, in words that name the field; `None` if all fits.
    pub fn contradiction(&self) -> Option<String> {
        /// Keeps every product of two sizes far from overflow, and lists of all weights short.
        const LARGEST: usize = 1 << 28;
        const MOST_LAYERS: usize = 1 << 14;
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=LARGEST).contains(size)) {
            return Some(format!("{name} must be from 1 to {LARGEST}, got {size}"));
        }
        if !(1..=MOST_LAYERS).contains(&self.num_hidden_layers) {
            return Some(format!("num_hidden_layers must be from 1 to {MOST_LAYERS}, got {}", self.num_hidden_layers));
        }
        let (heads, shared) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(shared) {
            return Some(format!("num_attention_heads {heads} is not a multiple of num_key_value_heads {shared}"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Some(format!("head_dim must be even, got {}", self.head_dim));
        }
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps.is_finite()) {
            return Some(format!("rms_norm_eps must not be negative, got {}", self.rms_norm_eps));
        }
        if !(self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            return Some(format!("rope_theta must be positive, got {}", self.rope_theta));
        }
        self.rope_scaling.and_then(|scaling| scaling.contradiction())
    }

    /// The Hugging Face name and shape of every weight, in the order of the computation.
    pub fn parameters(&self) -> Vec<(String, Shape)> {
        let (h, i, v) = (self.hidden_size, self.intermediate_size, self.vocab_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let block: [(&str, Shape); 9] = [
            ("input_layernorm", [h].into()),
            ("self_attn.q_proj", [q, h].into()),
            ("self_attn.k_proj", [kv, h].into()),
            ("self_attn.v_proj", [kv, h].into()),
            ("self_attn.o_proj", [h, q].into()),
            ("post_attention_layernorm", [h].into()),
            ("mlp.gate_proj", [i, h].into()),
            ("mlp.up_proj", [i, h].into()),
            ("mlp.down_proj", [h, i].into()),
        ];
        let blocks = (0..self.num_hidden_layers)
            .flat_map(|layer| block.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
        let head = (!self.tie_word_embeddings).then(|| ("lm_head.weight".into(), [v, h].into()));
        std::iter::once(("model.embed_tokens.weight".into(), [v, h].into()))
            .chain(blocks)
            .chain([("model.norm.weight".into(), [h].into())])
            .chain(head)
            .collect()
    }
}
