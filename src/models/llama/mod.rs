//! Llama 2, 3 and their relatives. Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>

mod block;
mod config;
mod model_type;
mod rope;

use block::{Block, GROUPS};
pub use config::LlamaConfig;
pub use model_type::ModelType;
use rope::Rope;

use std::sync::Arc;

use crate::autograd::Tensor;
use crate::device::Device;
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::nn::{
    Batch, DropoutSeed, Embedding, KvCache, Linear, Parameter, Pass, Plain, RmsNorm, Unit, UnitHook, Visitor, Weight,
    operands,
};
use crate::ops::Packed;
use crate::ops::attention::Segments;
use crate::ops::cross_entropy::cross_entropy_low_rank;
use crate::ops::elementwise::{add, cast};
use crate::ops::grad_norm::grad_norm;
use crate::ops::lora::Operands;
use crate::ops::matmul::matmul_f32;
use crate::shape::Shape;

/// Where a model's weights come from.
pub trait Load {
    /// The weight of a Hugging Face name, which must have that shape.
    ///
    /// # Errors
    /// What the source of the weights says.
    fn tensor(&mut self, name: &str, shape: Shape) -> Result<Tensor>;

    /// The weight of a block's linear layer, likewise.
    ///
    /// # Errors
    /// What the source of the weights says.
    fn linear(&mut self, name: &str, shape: Shape) -> Result<Weight> {
        self.tensor(name, shape).map(Weight::from)
    }
}

impl<F: FnMut(&str, Shape) -> Result<Tensor>> Load for F {
    fn tensor(&mut self, name: &str, shape: Shape) -> Result<Tensor> {
        self(name, shape)
    }
}

/// A Llama.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    /// The type of the activations; trained weights are f32 all the same.
    dtype: DType,
    embed_tokens: Arc<Embedding>,
    blocks: Vec<Arc<Block>>,
    head: Arc<Head>,
    rope: Rope,
}

/// What is behind the blocks.
#[derive(Debug)]
struct Head {
    norm: RmsNorm,
    /// Where the config ties it, its weight is the embedding's.
    lm_head: Linear,
}

impl Head {
    /// The output layer's weight, in `dtype` or narrower.
    fn weight(&self, dtype: DType) -> Result<Tensor> {
        let parameter = self.lm_head.weight.parameter();
        let weight = parameter.ok_or_else(|| Error::dtype("llama", "the output layer stays in floats"))?.get();
        if dtype == DType::F32 { Ok(weight) } else { cast(&weight, dtype) }
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(x, None).map(|(y, _)| y)
    }

    /// The sum of the losses of all rows of the residual stream with a target, divided by `normalizer`.
    fn loss(&self, x: &Tensor, targets: &Tensor, normalizer: f32, dropout: Option<DropoutSeed>) -> Result<Tensor> {
        let hidden = self.norm(x)?;
        let weight = self.weight(hidden.dtype())?;
        let low_rank = self.lm_head.lora().map(|lora| lora.factors(&hidden, dropout)).transpose()?;
        let low_rank = low_rank.as_ref().map(|[xa, b]| [xa, b]);
        cross_entropy_low_rank(&hidden, &weight, low_rank, targets, normalizer)
    }
}

/// The unit that a weight belongs to, by its Hugging Face name, or an adapter's by PEFT's.
pub fn unit_of(name: &str) -> Unit {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let block = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
    match block {
        Some(index) => Unit::Block(index),
        None if name.starts_with("model.embed_tokens.") => Unit::Embedding,
        None => Unit::Head,
    }
}

/// What is shown each weight: its name, and what gives it.
pub type See<'a> = dyn FnMut(&str, &dyn Fn() -> Result<Tensor>) -> Result<()> + 'a;

/// A weight of floats, where it is held.
enum Floats<'a> {
    Cell(&'a Parameter),
    Packed(&'a Packed),
}

impl<'a> Floats<'a> {
    /// The floats of a linear layer's weight, if it is of such.
    fn of(weight: &'a Weight) -> Option<Self> {
        match weight {
            Weight::Dense(parameter) => Some(Self::Cell(parameter)),
            Weight::Packed(weight) => Some(Self::Packed(weight)),
            Weight::Quantized(_) => None,
        }
    }
}

impl Llama {
    /// Asks `load` for each weight once, block by block; activations are of `dtype`.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn new(config: LlamaConfig, dtype: DType, load: &mut dyn Load) -> Result<Self> {
        let (v, h) = (config.vocab_size, config.hidden_size);
        let embedding = load.tensor("model.embed_tokens.weight", [v, h].into())?;
        let embed_tokens = Arc::new(Embedding { weight: Parameter::new(embedding) });
        let block = |i| Ok(Arc::new(Block::new(&config, &format!("model.layers.{i}."), load)?));
        let blocks = (0..config.num_hidden_layers).map(block).collect::<Result<_>>()?;
        let norm = Parameter::new(load.tensor("model.norm.weight", [h].into())?);
        let norm = RmsNorm { weight: norm, eps: config.rms_norm_eps as f32 };
        let lm_head = match config.tie_word_embeddings {
            true => Linear::tied(&embed_tokens.weight),
            false => Linear::new(load.tensor("lm_head.weight", [v, h].into())?, None),
        };
        let head = Arc::new(Head { norm, lm_head });
        Ok(Self { config, dtype, embed_tokens, blocks, head, rope: Rope::default() })
    }

    /// Its shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The final hidden states of a batch, normalised: `[rows, H]`.
    ///
    /// # Errors
    /// [`Error::Input`] if a sequence is longer than the context.
    pub fn hidden(&self, batch: &Batch, dropout: Option<DropoutSeed>, hook: &dyn UnitHook) -> Result<Tensor> {
        let (x, head) = (self.stream(batch, dropout, hook)?, self.head.clone());
        hook.run(Unit::Head, &x, Arc::new(move |x| head.norm(x)))
    }

    /// The sum of the losses of all rows with a target, divided by `normalizer`; a scalar.
    ///
    /// # Errors
    /// As [`Llama::hidden`]; [`Error::Input`] naming a label that is neither a token id nor -100.
    pub fn loss(
        &self,
        batch: &Batch,
        normalizer: f32,
        dropout: Option<DropoutSeed>,
        hook: &dyn UnitHook,
    ) -> Result<Tensor> {
        let x = self.stream(batch, dropout, hook)?;
        let (head, targets) = (self.head.clone(), batch.targets.clone());
        let loss = hook.run(Unit::Head, &x, Arc::new(move |x| head.loss(x, &targets, normalizer, dropout)));
        loss.map_err(|error| batch.bad_label(self.config.vocab_size).unwrap_or(error))
    }

    /// The residual stream behind the last block.
    fn stream(&self, batch: &Batch, dropout: Option<DropoutSeed>, hook: &dyn UnitHook) -> Result<Tensor> {
        let pass = Arc::new(self.pass(batch.segments.clone(), batch.positions.clone(), dropout)?);
        let mut x = self.embed(&batch.input_ids, hook)?;
        // Where all weights are there, one launch makes what the products read of all adapters.
        let mut adapters = if hook.keeps_weights() { self.adapters()?.into_iter() } else { Vec::new().into_iter() };
        for (i, block) in self.blocks.iter().enumerate() {
            let (block, pass, adapters, dtype) = (block.clone(), pass.clone(), adapters.next(), self.dtype);
            let f = move |x: &Tensor| match &adapters {
                Some(adapters) => block.forward(x, &pass, adapters, None),
                None => block.forward(x, &pass, &block.operands(dtype, &x.device())?, None),
            };
            x = hook.run(Unit::Block(i), &x, Arc::new(f))?;
        }
        Ok(x)
    }

    /// Hidden states `[rows, H]` → logits `[rows, V]` in f32.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = matmul_f32(hidden, &self.head.weight(hidden.dtype())?)?;
        let Some(lora) = self.head.lm_head.lora() else { return Ok(logits) };
        let [xa, b] = lora.factors(hidden, None)?;
        add(&logits, &matmul_f32(&xa, &b)?)
    }

    /// Room for `capacity` tokens of a generation.
    ///
    /// # Errors
    /// [`Error::Input`] if they are more than the context.
    pub fn cache(&self, capacity: usize) -> Result<KvCache> {
        // Grown here, it does not grow between two tokens.
        self.rope.of_positions(&self.config, &self.device(), capacity)?;
        let width = self.config.num_key_value_heads * self.config.head_dim;
        KvCache::new(self.blocks.len(), capacity, width, self.dtype, &self.device())
    }

    /// The final hidden states of `input_ids` (u32 `[rows]`), which continue what `cache` holds; appends them to it.
    ///
    /// # Errors
    /// [`Error::Input`] if the text grows beyond the context.
    pub fn hidden_cached(&self, input_ids: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let (first, rows) = (cache.rows(), input_ids.shape().numel());
        let positions: Vec<u32> = (first..first + rows).map(|p| p as u32).collect();
        let positions = Tensor::from_slice(&input_ids.device(), [rows], &positions)?;
        let pass = self.pass(Segments::cached(rows, first + rows), positions, None)?;
        let mut x = self.embed(input_ids, &Plain)?;
        for ((block, adapters), layer) in self.blocks.iter().zip(self.adapters()?).zip(&mut cache.layers) {
            x = block.forward(&x, &pass, &adapters, Some(layer))?;
        }
        cache.advance(rows);
        self.head.norm(&x)
    }

    /// Its linear layers with their module paths (`model.layers.0.self_attn.q_proj`), always in the same order; `lm_head`
    /// comes last.
    pub fn linears(&self) -> Vec<(String, &Linear)> {
        let mut linears = self.block_linears();
        linears.push(("lm_head".into(), &self.head.lm_head));
        linears
    }

    fn block_linears(&self) -> Vec<(String, &Linear)> {
        let names = self.config.block_linears().map(|(name, ..)| name);
        let blocks = self.blocks.iter().enumerate();
        let linears = blocks.flat_map(|(i, block)| names.iter().zip(block.linears()).map(move |named| (i, named)));
        linears.map(|(i, (name, linear))| (format!("model.layers.{i}.{name}"), linear)).collect()
    }

    /// Visits the base weights under their Hugging Face names, but for linear layers' that are packed or in fewer bits than a
    /// float has.
    pub fn visit_weights<'p>(&'p self, visit: &mut Visitor<'_, 'p>) {
        for (name, weight) in self.floats() {
            if let Floats::Cell(parameter) = weight {
                visit(name, parameter);
            }
        }
    }

    /// Shows every base weight that is of floats, packed or not, with its Hugging Face name: what gives it, row by row.
    ///
    /// # Errors
    /// What `see` returns.
    pub fn each_weight(&self, see: &mut See<'_>) -> Result<()> {
        self.floats().into_iter().try_for_each(|(name, weight)| match weight {
            Floats::Cell(parameter) => see(&name, &|| Ok(parameter.get())),
            Floats::Packed(weight) => see(&name, &|| weight.unpack()),
        })
    }

    /// The base weights of floats in their order: the embedding, norms, linear layers, what is behind the blocks.
    fn floats(&self) -> Vec<(String, Floats<'_>)> {
        let mut floats = vec![("model.embed_tokens.weight".into(), Floats::Cell(&self.embed_tokens.weight))];
        for (i, block) in self.blocks.iter().enumerate() {
            let norm = |(name, norm): (&str, _)| (format!("model.layers.{i}.{name}.weight"), Floats::Cell(norm));
            floats.extend(block.norms().into_iter().map(|(name, layer)| norm((name, &layer.weight))));
        }
        for (name, linear) in self.block_linears() {
            floats.extend(Floats::of(&linear.weight).map(|weight| (format!("{name}.weight"), weight)));
            floats.extend(linear.bias.as_ref().map(|bias| (format!("{name}.bias"), Floats::Cell(bias))));
        }
        floats.push(("model.norm.weight".into(), Floats::Cell(&self.head.norm.weight)));
        let head = Floats::of(&self.head.lm_head.weight).filter(|_| !self.config.tie_word_embeddings);
        floats.extend(head.map(|weight| ("lm_head.weight".into(), weight)));
        floats
    }

    /// Visits the adapters' weights under PEFT's names.
    pub fn visit_adapters<'p>(&'p self, visit: &mut Visitor<'_, 'p>) {
        for (name, linear) in self.linears() {
            if let Some(lora) = linear.lora() {
                visit(format!("base_model.model.{name}.lora_A.weight"), &lora.a);
                visit(format!("base_model.model.{name}.lora_B.weight"), &lora.b);
            }
        }
    }

    /// All that is trained, under the names it is stored with: beside adapters those are PEFT's.
    pub fn trained(&self) -> Vec<(String, &Parameter)> {
        let mut trained = Vec::new();
        let prefix =
            if self.linears().iter().any(|(_, linear)| linear.lora().is_some()) { "base_model.model." } else { "" };
        self.visit_weights(&mut |name, parameter| trained.push((format!("{prefix}{name}"), parameter)));
        self.visit_adapters(&mut |name, parameter| trained.push((name, parameter)));
        trained.retain(|(_, parameter)| parameter.is_trained());
        trained
    }

    /// Makes every base weight that is none yet a leaf of the tape, in f32, but for linear layers' that are packed or in fewer
    /// bits than a float has.
    pub fn train_weights(&self) -> Result<()> {
        let mut weights = Vec::new();
        self.visit_weights(&mut |_, parameter| weights.push(parameter));
        weights.into_iter().filter(|parameter| !parameter.is_trained()).try_for_each(|parameter| {
            parameter.set(cast(&parameter.get().detach(), DType::F32)?.with_grad());
            Ok(())
        })
    }

    /// Takes everything off the tape, base weights in the dtype of the activations: nothing is trained any more.
    pub fn freeze(&self) -> Result<()> {
        let mut parameters = Vec::new();
        self.visit_weights(&mut |_, parameter| parameters.push((parameter, self.dtype)));
        self.visit_adapters(&mut |_, parameter| parameters.push((parameter, DType::F32)));
        parameters.into_iter().filter(|(parameter, _)| parameter.is_trained()).try_for_each(|(parameter, dtype)| {
            parameter.set(cast(&parameter.get().detach(), dtype)?);
            Ok(())
        })
    }

    /// The name of the first weight with an element that is infinite or not a number; those of adapters come last.
    ///
    /// # Errors
    /// Those of [`grad_norm`].
    pub fn first_weight_not_finite(&self) -> Result<Option<String>> {
        let mut first = None;
        let mut look = |name: &str, weight: &Tensor| -> Result<()> {
            if first.is_none() && grad_norm(&[weight])?.read()?.first_not_finite().is_some() {
                first = Some(name.to_string());
            }
            Ok(())
        };
        self.each_weight(&mut |name, weight| look(name, &weight()?))?;
        let mut adapters = Vec::new();
        self.visit_adapters(&mut |name, parameter| adapters.push((name, parameter.get())));
        adapters.iter().try_for_each(|(name, weight)| look(name, weight))?;
        Ok(first)
    }

    /// The device that its weights are on.
    pub fn device(&self) -> Device {
        self.embed_tokens.weight.get().device()
    }

    /// The adapters of each block, as a pass multiplies them: made anew for each, since a step changes them.
    fn adapters(&self) -> Result<Vec<[Operands; GROUPS]>> {
        let groups: Vec<&[Linear]> = self.blocks.iter().flat_map(|block| block.groups()).collect();
        let operands = operands(&groups, self.dtype, &self.device())?;
        Ok(operands.as_chunks().0.to_vec())
    }

    fn embed(&self, input_ids: &Tensor, hook: &dyn UnitHook) -> Result<Tensor> {
        let (embedding, dtype) = (self.embed_tokens.clone(), self.dtype);
        hook.run(Unit::Embedding, input_ids, Arc::new(move |ids| cast(&embedding.forward(ids)?, dtype)))
    }

    fn pass(&self, segments: Segments, positions: Tensor, dropout: Option<DropoutSeed>) -> Result<Pass> {
        let rows = positions.shape().numel();
        let (rope, positions) = self.rope.of_texts(&self.config, &segments.texts(), positions)?;
        let has_bias = self.config.block_linears().iter().any(|&(.., has_bias)| has_bias);
        let ones = has_bias.then(|| self.ones(rows)).transpose()?;
        Ok(Pass { segments, positions, rope, ones, dropout })
    }

    fn ones(&self, rows: usize) -> Result<Tensor> {
        dispatch_float!("linear", self.dtype, T => {
            Tensor::from_slice(&self.device(), [rows, 1], &vec![T::from_f32(1.0); rows])
        })
    }
}
