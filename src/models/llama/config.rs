//! A Llama's shape.

use super::model_type::{Biases, ModelType};
use crate::ops::attention::Heads;
use crate::ops::rope::RopeScaling;
use crate::shape::Shape;

/// The shape of a Llama, in the terms of its config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Which of the models that compute as Llama does it is.
    pub model_type: ModelType,
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
    /// The context it was trained on; [`LlamaConfig::context`] is the longest.
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
        if let Some(0) = self.model_type.sliding_window() {
            return Some("sliding_window must be at least 1, got 0".into());
        }
        self.rope_scaling.and_then(|scaling| scaling.contradiction(self.max_position_embeddings))
    }

    /// The longest text it takes: what its rotary frequencies are made for, and no more than an attention window, within
    /// which alone its attention is Llama's.
    pub fn context(&self) -> usize {
        let max = self.max_position_embeddings;
        let context = self.rope_scaling.map_or(max, |scaling| scaling.context(max));
        self.model_type.sliding_window().map_or(context, |window| window.min(context))
    }

    /// What [`LlamaConfig::context`] is, in words: `context of 4096`.
    pub fn limit(&self) -> String {
        let context = self.context();
        match self.model_type.sliding_window() {
            Some(window) if window == context => {
                format!("attention window of {window}, beyond which nothing is computed")
            }
            _ => format!("context of {context}"),
        }
    }

    /// The linear layers of a block in the order of the computation: name, `[out, in]`, and whether it has a bias.
    pub(super) fn block_linears(&self) -> [(&'static str, [usize; 2], bool); 7] {
        let (h, i) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let Biases { qkv: qkv_bias, o: o_bias, mlp: mlp_bias } = self.model_type.biases();
        [
            ("self_attn.q_proj", [q, h], qkv_bias),
            ("self_attn.k_proj", [kv, h], qkv_bias),
            ("self_attn.v_proj", [kv, h], qkv_bias),
            ("self_attn.o_proj", [h, q], o_bias),
            ("mlp.gate_proj", [i, h], mlp_bias),
            ("mlp.up_proj", [i, h], mlp_bias),
            ("mlp.down_proj", [h, i], mlp_bias),
        ]
    }

    /// Whether the weight `name` is that of a block's linear layer.
    pub fn is_block_linear(name: &str) -> bool {
        name.starts_with("model.layers.") && name.ends_with("_proj.weight")
    }

    /// The Hugging Face name and shape of every weight and bias, in the order of the computation but for a block's norms,
    /// which come first.
    pub fn parameters(&self) -> Vec<(String, Shape)> {
        let embedding = Shape::from([self.vocab_size, self.hidden_size]);
        let blocks = (0..self.num_hidden_layers).flat_map(|layer| {
            let named = self.block_parameters().into_iter();
            named.map(move |(name, shape)| (format!("model.layers.{layer}.{name}"), shape))
        });
        let head = (!self.tie_word_embeddings).then(|| ("lm_head.weight".into(), embedding));
        std::iter::once(("model.embed_tokens.weight".into(), embedding))
            .chain(blocks)
            .chain([("model.norm.weight".into(), [self.hidden_size].into())])
            .chain(head)
            .collect()
    }

    fn block_parameters(&self) -> Vec<(String, Shape)> {
        let norms =
            ["input_layernorm", "post_attention_layernorm"].map(|name| (name, [self.hidden_size].into(), false));
        let linears = self.block_linears().map(|(name, shape, has_bias)| (name, Shape::from(shape), has_bias));
        let parameters = norms.into_iter().chain(linears).flat_map(|(name, shape, has_bias)| {
            let bias = has_bias.then(|| (format!("{name}.bias"), [shape.rows()].into()));
            std::iter::once((format!("{name}.weight"), shape)).chain(bias)
        });
        parameters.collect()
    }
}
