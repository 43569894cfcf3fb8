//! Llama 2, 3 and their relatives.

use crate::ops::rope::RopeScaling;

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
