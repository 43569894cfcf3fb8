//! What llama.cpp calls the parts of a Llama, and how its metadata spells the config.

use super::Gguf;
use super::rope::ROPE_FACTORS;
use crate::error::{Error, Result};
use crate::io::WeightSource;
use crate::models::llama::{LlamaConfig, ModelType};
use crate::shape::Shape;

/// Hugging Face's names and GGUF's.
const TENSORS: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Hugging Face's and llama.cpp's names of a block's tensors, between `model.layers.N.` or `blk.N.` and `.weight` or `.bias`.
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

/// Keys that change the computation where they are present and not zero, after the architecture's name.
const UNSUPPORTED: [&str; 5] =
    ["expert_count", "attention.clamp_kqv", "attention.max_alibi_bias", "attention.scale", "logit_scale"];

const HEADS: &str = "attention.head_count";
const KEY_VALUE_HEADS: &str = "attention.head_count_kv";

/// GGUF's name of Hugging Face's tensor `name`.
pub(super) fn gguf_name(name: &str) -> Option<String> {
    if let Some((_, gguf)) = TENSORS.iter().find(|(hf, _)| *hf == name) {
        return Some((*gguf).to_owned());
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.').filter(|(part, kind)| may_be(part, kind))?;
    let layer: usize = layer.parse().ok()?;
    let (_, gguf) = BLOCK_TENSORS.iter().find(|(hf, _)| *hf == part)?;
    Some(format!("blk.{layer}.{gguf}.{kind}"))
}

/// Whether a part of a block may have a tensor of that kind: all have weights, the linear layers biases too.
fn may_be(hf_part: &str, kind: &str) -> bool {
    kind == "weight" || kind == "bias" && hf_part.ends_with("_proj")
}

/// Hugging Face's name of GGUF's tensor `name`.
pub(super) fn hf_name(name: &str) -> Option<String> {
    if let Some((hf, _)) = TENSORS.iter().find(|(_, gguf)| *gguf == name) {
        return Some((*hf).to_owned());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (hf, _) = BLOCK_TENSORS.iter().find(|(hf, gguf)| *gguf == part && may_be(hf, kind))?;
    Some(format!("model.layers.{layer}.{hf}.{kind}"))
}

impl Gguf {
    /// The model's shape.
    ///
    /// # Errors
    /// [`Error::File`] if the file does not hold a Llama, or one whose computation or weights
    /// are not supported; the message names the key or tensor.
    pub fn config(&self) -> Result<LlamaConfig> {
        self.refuse_unsupported()?;
        let size = |name: &str| -> Result<usize> {
            let key = self.key(name)?;
            self.require(&key, self.unsigned(&key)?)
        };
        let (hidden_size, heads) = (size("embedding_length")?, size(HEADS)?);
        let (context, eps) = (size("context_length")?, self.key("attention.layer_norm_rms_epsilon")?);
        let head_dim = self.head_dim(hidden_size, heads)?;
        let rope_theta = self.float(&self.key("rope.freq_base")?)?.unwrap_or(10_000.0);
        let config = LlamaConfig {
            model_type: self.model_type()?,
            hidden_size,
            intermediate_size: size("feed_forward_length")?,
            num_hidden_layers: size("block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: self.unsigned(&self.key(KEY_VALUE_HEADS)?)?.unwrap_or(heads),
            head_dim,
            vocab_size: self.vocab_size()?,
            max_position_embeddings: context,
            rms_norm_eps: self.require(&eps, self.float(&eps)?)?,
            rope_theta,
            rope_scaling: self.rope_scaling(head_dim, rope_theta, context)?,
            tie_word_embeddings: !self.header.tensors.contains_key("output.weight"),
            bos_token_id: self.token_id("bos_token_id")?,
            eos_token_ids: self.eos_token_ids()?,
        };
        config.contradiction().map_or(Ok(config), |detail| Err(Error::file(&self.path, detail)))
    }

    /// The metadata key `name` of the file's architecture.
    pub(in crate::io) fn key(&self, name: &str) -> Result<String> {
        Ok(format!("{}.{name}", self.architecture()?))
    }

    fn architecture(&self) -> Result<&str> {
        const KEY: &str = "general.architecture";
        match self.require(KEY, self.string(KEY)?)? {
            supported @ ("llama" | "qwen2") => Ok(supported),
            other => Err(self.key_error(KEY, format!("must be llama or qwen2, is {other}"))),
        }
    }

    /// The model whose biases the first block has.
    fn model_type(&self) -> Result<ModelType> {
        let has_bias = |part| self.header.tensors.contains_key(&format!("blk.0.{part}.bias"));
        let biases = ["attn_q", "attn_output", "ffn_up"].map(has_bias);
        let window = self.key("attention.sliding_window")?;
        match (biases, self.unsigned(&window)?.filter(|&window| window > 0)) {
            ([attention, output, mlp], None) if attention == output => {
                Ok(ModelType::Llama { attention_bias: attention, mlp_bias: mlp })
            }
            ([true, false, false], None) => Ok(ModelType::Qwen2),
            ([false, false, false], sliding_window) => Ok(ModelType::Mistral { sliding_window }),
            (_, Some(_)) => Err(self.key_error(&window, "is not supported together with biases")),
            _ => {
                Err(self
                    .tensor_error("blk.0.attn_output.bias", "no model that is read has the biases that this one has"))
            }
        }
    }

    fn refuse_unsupported(&self) -> Result<()> {
        for name in UNSUPPORTED {
            let key = self.key(name)?;
            if self.float(&key)?.is_some_and(|value| value != 0.0) {
                return Err(self.key_error(&key, "is not supported"));
            }
        }
        let causal = self.key("attention.causal")?;
        if self.bool(&causal)? == Some(false) {
            return Err(self.key_error(&causal, "must be true"));
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
        let length = self.key("attention.key_length")?;
        let implied = hidden_size.checked_div(heads).filter(|head_dim| head_dim * heads == hidden_size);
        let head_dim = self.unsigned(&length)?.or(implied);
        let missing = || self.key_error(&length, format!("is missing, and {heads} heads do not divide {hidden_size}"));
        let head_dim = head_dim.ok_or_else(missing)?;
        for key in [self.key("attention.value_length")?, self.key("rope.dimension_count")?] {
            let other = self.unsigned(&key)?.unwrap_or(head_dim);
            if other != head_dim {
                return Err(self.key_error(&key, format!("must be that of a head, {head_dim}, is {other}")));
            }
        }
        Ok(head_dim)
    }

    fn vocab_size(&self) -> Result<usize> {
        let key = self.key("vocab_size")?;
        let rows = self.shape("model.embed_tokens.weight")?.rows();
        let vocab_size = self.unsigned(&key)?.unwrap_or(rows);
        if vocab_size == rows {
            return Ok(rows);
        }
        Err(self.key_error(&key, format!("is {vocab_size}, but token_embd.weight has {rows} rows")))
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

    /// The rows of one head of `name`, if it is of those that llama.cpp's converter permutes: a Llama's query and key, whose
    /// heads' two halves it interleaves.
    pub(super) fn interleaved(&self, name: &str, shape: Shape) -> Result<Option<usize>> {
        if self.architecture()? != "llama" {
            return Ok(None);
        }
        let heads_key = self.key(HEADS)?;
        let heads = self.require(&heads_key, self.unsigned(&heads_key)?)?;
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") => heads,
            Some("k_proj") => self.unsigned(&self.key(KEY_VALUE_HEADS)?)?.unwrap_or(heads),
            _ => return Ok(None),
        };
        let rows = shape.dims().first().copied().unwrap_or(1);
        let head_dim = rows.checked_div(heads).filter(|d| d * heads == rows && d.is_multiple_of(2));
        let misfit = || self.tensor_error(name, format!("{shape} is not {heads} heads of an even number of rows"));
        head_dim.map(Some).ok_or_else(misfit)
    }
}
