//! What llama.cpp calls the parts of a Llama, and how its metadata spells the config.

use super::{Gguf, dequantize};
use crate::error::{Error, Result};
use crate::io::WeightSource;
use crate::models::llama::{LlamaConfig, ModelType};
use crate::ops::rope::RopeScaling;
use crate::shape::Shape;

/// Hugging Face's names and GGUF's.
const TENSORS: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// The same inside a block, between `model.layers.N.` or `blk.N.` and `.weight`.
const BLOCK_TENSORS: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Divisors of the rotary frequencies, `[D/2]`: how Llama 3's scaling is stored.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Keys that change the computation where they are present and not zero.
const UNSUPPORTED: [&str; 6] = [
    "llama.expert_count",
    "llama.attention.clamp_kqv",
    "llama.attention.max_alibi_bias",
    "llama.attention.scale",
    "llama.attention.sliding_window",
    "llama.logit_scale",
];

const HEADS: &str = "llama.attention.head_count";
const KEY_VALUE_HEADS: &str = "llama.attention.head_count_kv";
const NORM_EPS: &str = "llama.attention.layer_norm_rms_epsilon";

/// GGUF's name of Hugging Face's tensor `name`.
pub(super) fn gguf_name(name: &str) -> Option<String> {
    if let Some((_, gguf)) = TENSORS.iter().find(|(hf, _)| *hf == name) {
        return Some((*gguf).to_owned());
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.strip_suffix(".weight")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (_, gguf) = BLOCK_TENSORS.iter().find(|(hf, _)| *hf == part)?;
    Some(format!("blk.{layer}.{gguf}.weight"))
}

/// Hugging Face's name of GGUF's tensor `name`.
pub(super) fn hf_name(name: &str) -> Option<String> {
    if let Some((hf, _)) = TENSORS.iter().find(|(_, gguf)| *gguf == name) {
        return Some((*hf).to_owned());
    }
    let (layer, part) = name.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (hf, _) = BLOCK_TENSORS.iter().find(|(_, gguf)| *gguf == part)?;
    Some(format!("model.layers.{layer}.{hf}.weight"))
}

impl Gguf {
    /// The model's shape.
    ///
    /// # Errors
    /// [`Error::File`] if the file does not hold a Llama, or one whose computation or weights
    /// are not supported; the message names the key or tensor.
    pub fn config(&self) -> Result<LlamaConfig> {
        self.refuse_unsupported()?;
        let size = |key| self.require(key, self.unsigned(key)?);
        let hidden_size = size("llama.embedding_length")?;
        let heads = size(HEADS)?;
        let head_dim = self.head_dim(hidden_size, heads)?;
        let rope_theta = self.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
        let config = LlamaConfig {
            model_type: ModelType::default(),
            hidden_size,
            intermediate_size: size("llama.feed_forward_length")?,
            num_hidden_layers: size("llama.block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: self.unsigned(KEY_VALUE_HEADS)?.unwrap_or(heads),
            head_dim,
            vocab_size: self.vocab_size()?,
            max_position_embeddings: size("llama.context_length")?,
            rms_norm_eps: self.require(NORM_EPS, self.float(NORM_EPS)?)?,
            rope_theta,
            rope_scaling: self.rope_scaling(head_dim, rope_theta)?,
            tie_word_embeddings: !self.header.tensors.contains_key("output.weight"),
            bos_token_id: self.token_id("bos_token_id")?,
            eos_token_ids: self.eos_token_ids()?,
        };
        config.contradiction().map_or(Ok(config), |detail| Err(Error::file(&self.path, detail)))
    }

    fn refuse_unsupported(&self) -> Result<()> {
        let architecture = self.require("general.architecture", self.string("general.architecture")?)?;
        if architecture != "llama" {
            return Err(self.key_error("general.architecture", format!("must be llama, is {architecture}")));
        }
        for key in UNSUPPORTED {
            if self.float(key)?.is_some_and(|value| value != 0.0) {
                return Err(self.key_error(key, "is not supported"));
            }
        }
        if self.bool("llama.attention.causal")? == Some(false) {
            return Err(self.key_error("llama.attention.causal", "must be true"));
        }
        for (name, info) in &self.header.tensors {
            let known = hf_name(name).is_some() || name == ROPE_FACTORS || name.ends_with(".attn_rot_embd.weight");
            if !known {
                return Err(self.tensor_error(name, "is not part of a Llama that is supported"));
            }
            self.encoding(name, info)?;
        }
        Ok(())
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize> {
        const LENGTH: &str = "llama.attention.key_length";
        let implied = hidden_size.checked_div(heads).filter(|head_dim| head_dim * heads == hidden_size);
        let head_dim = self.unsigned(LENGTH)?.or(implied);
        let missing = || self.key_error(LENGTH, format!("is missing, and {heads} heads do not divide {hidden_size}"));
        let head_dim = head_dim.ok_or_else(missing)?;
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            let other = self.unsigned(key)?.unwrap_or(head_dim);
            if other != head_dim {
                return Err(self.key_error(key, format!("must be that of a head, {head_dim}, is {other}")));
            }
        }
        Ok(head_dim)
    }

    fn vocab_size(&self) -> Result<usize> {
        const KEY: &str = "llama.vocab_size";
        let rows = self.shape("model.embed_tokens.weight")?.rows();
        let vocab_size = self.unsigned(KEY)?.unwrap_or(rows);
        if vocab_size == rows {
            return Ok(rows);
        }
        Err(self.key_error(KEY, format!("is {vocab_size}, but token_embd.weight has {rows} rows")))
    }

    /// The id that the key `key` of the tokenizer's names. -1, signed or not, says that there is no such token.
    pub(in crate::io) fn token_id(&self, key: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{key}");
        let id = self.integer(&key)?.filter(|&id| id >= 0 && id != i64::from(u32::MAX));
        id.map(|id| id.try_into().map_err(|_| self.key_error(&key, format!("{id} is not a token id")))).transpose()
    }

    /// The end of a text, and of a turn and a message where they are tokens of their own.
    fn eos_token_ids(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            ids.extend(self.token_id(key)?.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }

    fn rope_scaling(&self, head_dim: usize, rope_theta: f64) -> Result<Option<RopeScaling>> {
        const KEY: &str = "llama.rope.scaling.type";
        let factor = self.float("llama.rope.scaling.factor")?.or(self.float("llama.rope.scale_linear")?);
        let linear = match (self.string(KEY)?.unwrap_or("linear"), factor) {
            ("none", _) | ("linear", None | Some(0.0 | 1.0)) => None,
            ("linear", Some(factor)) => Some(RopeScaling::Linear { factor }),
            (kind, _) => return Err(self.key_error(KEY, format!("{kind} is not supported"))),
        };
        if !self.header.tensors.contains_key(ROPE_FACTORS) {
            return Ok(linear);
        }
        if linear.is_some() {
            return Err(self.tensor_error(ROPE_FACTORS, "is not supported together with linear scaling"));
        }
        self.llama3_scaling(head_dim, rope_theta)
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

    /// The rows of one head of `name`, if it is a matrix that llama.cpp's converter permutes: query and key, whose heads'
    /// two halves it interleaves.
    pub(super) fn interleaved(&self, name: &str, shape: Shape) -> Result<Option<usize>> {
        let heads = self.require(HEADS, self.unsigned(HEADS)?)?;
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") => heads,
            Some("k_proj") => self.unsigned(KEY_VALUE_HEADS)?.unwrap_or(heads),
            _ => return Ok(None),
        };
        let rows = shape.rows();
        let head_dim = rows.checked_div(heads).filter(|d| d * heads == rows && d.is_multiple_of(2));
        let misfit = || self.tensor_error(name, format!("{shape} is not {heads} heads of an even number of rows"));
        head_dim.map(Some).ok_or_else(misfit)
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
