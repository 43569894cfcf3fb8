//! A training step of a Llama by its shape alone: `time` times it, `model` counts what it launches.

use clap::ValueEnum;

use crate::autograd::{Tensor, backward};
use crate::error::Result;
use crate::io::adapter::{AdapterConfig, Modules};
use crate::models::llama::{Llama, LlamaConfig, ModelType};
use crate::nn::{Batch, DropoutSeed, UnitHook};
use crate::ops::grad_norm::{GradNorm, grad_norm};
use crate::optim::{AdamW, Trained};

/// A model by its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModelShape {
    /// Llama 3 8B
    #[value(name = "llama-3-8b")]
    Llama3B8,
    /// Two layers of the width 128, for an emulated GPU
    Tiny,
}

impl ModelShape {
    pub(super) fn config(self) -> LlamaConfig {
        let (hidden_size, intermediate_size, num_hidden_layers, vocab_size) = match self {
            Self::Llama3B8 => (4096, 14_336, 32, 128_256),
            Self::Tiny => (128, 384, 2, 1536),
        };
        let (num_attention_heads, num_key_value_heads) = match self {
            Self::Llama3B8 => (32, 8),
            Self::Tiny => (4, 2),
        };
        LlamaConfig {
            model_type: ModelType::default(),
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim: hidden_size / num_attention_heads,
            vocab_size,
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-5,
            rope_theta: 500_000.0,
            rope_scaling: None,
            tie_word_embeddings: false,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
        }
    }
}

/// What is trained: adapters as `vicugna finetune` makes them by default, on these layers.
pub(super) fn adapter(target_modules: Modules) -> AdapterConfig {
    AdapterConfig { r: 8, lora_alpha: 32.0, lora_dropout: 0.05, target_modules, ..AdapterConfig::default() }
}

/// Makes step number `step` on a batch; returns its loss and the norm of its gradients, for which nobody has waited yet.
pub(super) fn train(
    model: &Llama,
    batch: &Batch,
    optimizer: &mut AdamW,
    step: u64,
    hook: &dyn UnitHook,
) -> Result<(Tensor, GradNorm)> {
    let dropout = DropoutSeed { seed: 42, step, first_row: 0 };
    let loss = model.loss(batch, batch.supervised as f32, Some(dropout), hook)?;
    let mut found = backward(&loss)?;
    let parameters = model.trained();
    let gradients: Vec<Tensor> = parameters.iter().filter_map(|(_, weight)| found.take(&weight.get())).collect();
    let norm = grad_norm(&gradients.iter().collect::<Vec<_>>())?;
    let mut locked: Vec<_> = parameters.iter().map(|(_, parameter)| parameter.lock()).collect();
    let updates = parameters.iter().zip(&mut locked).zip(&gradients);
    let updates = updates.map(|(((name, _), parameter), gradient)| Trained { name, parameter, gradient });
    optimizer.step(updates.collect(), &norm.clip_scale(f64::INFINITY)?)?;
    Ok((loss.detach(), norm))
}
