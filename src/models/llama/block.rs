//! One transformer block.

use super::{LlamaConfig, Load};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::nn::{LayerCache, Linear, Parameter, Pass, RmsNorm, int8_threshold, operands, project};
use crate::ops::attention::{Heads, attention};
use crate::ops::lora::Operands;
use crate::ops::rope::rope;
use crate::ops::swiglu::swiglu_int8;

/// How many inputs the linear layers of a block have.
pub(super) const GROUPS: usize = 4;

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
    pub(super) fn new(config: &LlamaConfig, prefix: &str, load: &mut dyn Load) -> Result<Self> {
        let mut norm = |name: &str| -> Result<RmsNorm> {
            let weight = load.tensor(&format!("{prefix}{name}.weight"), [config.hidden_size].into())?;
            Ok(RmsNorm { weight: Parameter::new(weight), eps: config.rms_norm_eps as f32 })
        };
        let (input_layernorm, post_attention_layernorm) = (norm("input_layernorm")?, norm("post_attention_layernorm")?);
        let [q, k, v, o, gate, up, down] = config.block_linears().map(|(name, shape, has_bias)| -> Result<Linear> {
            let weight = load.linear(&format!("{prefix}{name}.weight"), shape.into())?;
            let bias = has_bias.then(|| load.tensor(&format!("{prefix}{name}.bias"), [shape[0]].into())).transpose()?;
            Ok(Linear::new(weight, bias))
        });
        let linears = [q?, k?, v?, o?, gate?, up?, down?];
        Ok(Self { input_layernorm, post_attention_layernorm, linears, heads: config.heads() })
    }

    /// `[rows, H]` → `[rows, H]`; with a cache, the rows continue what it holds. `adapters` are those of [`Self::groups`].
    pub(super) fn forward(
        &self,
        x: &Tensor,
        pass: &Pass,
        adapters: &[Operands; GROUPS],
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj] = &self.linears;
        let [of_qkv, of_o, of_gate_up, of_down] = adapters;
        let [qkv, _, gate_up, down] = self.groups().map(int8_threshold);
        let (normed, rows) = self.input_layernorm.forward(x, qkv)?;
        let [q, k, v] = project([q_proj, k_proj, v_proj], (&normed, rows.as_ref()), None, of_qkv, pass)?;
        let (q, k) = rope(q, k, &pass.rope, &pass.positions)?;
        let scale = 1.0 / (self.heads.head_dim as f32).sqrt();
        let (k, v) = match cache {
            None => (&k, &v),
            Some(cache) => cache.append(&k, &v)?,
        };
        let attended = attention(&q, k, v, &pass.segments, self.heads, scale)?;
        let [projected] = project([o_proj], (&attended, None), None, of_o, pass)?;
        let (normed, x, rows) = self.post_attention_layernorm.forward_residual(&projected, x, gate_up)?;
        let [gate, up] = project([gate_proj, up_proj], (&normed, rows.as_ref()), None, of_gate_up, pass)?;
        let (gated, rows) = swiglu_int8(&gate, &up, down)?;
        let [y] = project([down_proj], (&gated, rows.as_ref()), Some(&x), of_down, pass)?;
        Ok(y)
    }

    /// Its linear layers, those together that share an input: q, k, v; o; gate, up; down.
    pub(super) fn groups(&self) -> [&[Linear]; GROUPS] {
        let ([qkv @ .., _, _, _, _], [_, _, _, o, gate_up @ .., down]) = (&self.linears, &self.linears);
        [qkv, std::slice::from_ref(o), gate_up, std::slice::from_ref(down)]
    }

    /// The adapters of [`Self::groups`] as the products of a pass read them.
    pub(super) fn operands(&self, dtype: DType, device: &Device) -> Result<[Operands; GROUPS]> {
        let operands = operands(&self.groups(), dtype, device)?;
        operands.try_into().map_err(|_| Error::shape("llama", "operands of each group"))
    }

    pub(super) fn linears(&self) -> &[Linear; 7] {
        &self.linears
    }

    pub(super) fn norms(&self) -> [(&'static str, &RmsNorm); 2] {
        [("input_layernorm", &self.input_layernorm), ("post_attention_layernorm", &self.post_attention_layernorm)]
    }
}
