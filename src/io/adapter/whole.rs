//! Weights that an adapter has whole, in the place of the model's own: what `modules_to_save` names, biases, and embeddings,
//! which PEFT saves unasked where their number of rows was changed.

use std::collections::BTreeMap;
use std::path::Path;

use super::Adapter;
use super::config::AdapterConfig;
use super::names::stored_name;
use super::stored::{Stored, are_equal};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::{EMBEDDING, LM_HEAD, WeightSource};
use crate::models::llama::LlamaConfig;
use crate::ops::elementwise::cast;
use crate::shape::Shape;

/// Takes the weights of `base` that are in the file, under their names in the model.
pub(super) fn take(
    stored: &mut Stored,
    config: &AdapterConfig,
    base: &LlamaConfig,
) -> Result<BTreeMap<String, Tensor>> {
    let mut whole = BTreeMap::new();
    let is_tied = base.tie_word_embeddings && !unties(config);
    let head = (LM_HEAD.to_string(), Shape::from([base.vocab_size, base.hidden_size]));
    let others = base.parameters().into_iter().filter(|(name, _)| name != LM_HEAD);
    for (name, shape) in others.chain([head]) {
        let is_needed = config.saves(&name) && !(is_tied && name == LM_HEAD);
        if !is_needed && !stored.has(&name) {
            continue;
        }
        let has_vocabulary = name == LM_HEAD || name == EMBEDDING;
        let rows = stored.rows(&name).filter(|_| has_vocabulary);
        let shape = rows.map_or(shape, |rows| [rows, base.hidden_size].into());
        whole.insert(name.clone(), stored.take(&name, shape)?);
    }
    if is_tied {
        tie(&mut whole, stored.path())?;
    }
    Ok(whole)
}

/// Puts a head into the place of the embedding that it is tied to.
fn tie(whole: &mut BTreeMap<String, Tensor>, path: &Path) -> Result<()> {
    let Some(head) = whole.remove(LM_HEAD) else { return Ok(()) };
    let embedding = whole.entry(EMBEDDING.into()).or_insert_with(|| head.clone());
    if are_equal(embedding, &head)? {
        return Ok(());
    }
    let detail = format!("{LM_HEAD} differs from {EMBEDDING}, to which the base model ties it");
    Err(Error::file(path, detail).with_hint("if each was trained by itself, name both in modules_to_save"))
}

/// Leaves `ensure_weight_tying` only where it does something: then, as in PEFT, the embedding is what is saved.
pub(super) fn resolve_tying(config: &mut AdapterConfig, base: &LlamaConfig) {
    config.ensure_weight_tying &= base.tie_word_embeddings && (config.saves(EMBEDDING) || config.saves(LM_HEAD));
    if config.ensure_weight_tying && !config.saves(EMBEDDING) {
        config.modules_to_save.push("embed_tokens".into());
    }
}

/// Whether the adapter's embedding and head are no longer one though the model ties them, as with PEFT.
fn unties(config: &AdapterConfig) -> bool {
    !config.ensure_weight_tying && [EMBEDDING, LM_HEAD].iter().any(|name| config.saves(name))
}

impl Adapter {
    /// The configuration of the model that the adapter on `base` makes: of as many tokens as its embedding has rows.
    pub fn model(&self, base: &LlamaConfig) -> LlamaConfig {
        let rows = [EMBEDDING, LM_HEAD].iter().find_map(|name| Some(self.whole.get(*name)?.shape().rows()));
        LlamaConfig {
            vocab_size: rows.unwrap_or(base.vocab_size),
            tie_word_embeddings: base.tie_word_embeddings && !unties(&self.config),
            ..base.clone()
        }
    }

    /// Refuses rows that are none of the model's, or of the embedding and not of the head.
    pub(super) fn refuse_rows(&self, base: &LlamaConfig, path: &Path) -> Result<()> {
        let model = self.model(base);
        if let Some(detail) = model.contradiction() {
            return Err(Error::file(path, detail));
        }
        let rows = |name| self.whole.get(name).map_or(base.vocab_size, |tensor| tensor.shape().rows());
        let (embedding, head) = (rows(EMBEDDING), rows(LM_HEAD));
        if model.tie_word_embeddings || embedding == head {
            return Ok(());
        }
        let detail = format!("{EMBEDDING} has {embedding} rows and {LM_HEAD} {head}");
        Err(Error::file(path, detail).with_hint("an adapter that changes the number of one has both whole"))
    }

    /// The weight `name`, of `shape`, of the model that the adapter makes of `base`, before any LoRA: its own, or that in
    /// `source`.
    ///
    /// # Errors
    /// [`Error::File`] if `source` has none of that shape.
    pub fn weight(
        &self,
        source: &dyn WeightSource,
        base: &LlamaConfig,
        name: &str,
        shape: Shape,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let is_tied_head = name == LM_HEAD && self.model(base).tie_word_embeddings;
        match self.whole.get(if is_tied_head { EMBEDDING } else { name }) {
            Some(own) => cast(own, dtype)?.to_device(device),
            None if name == LM_HEAD && base.tie_word_embeddings => source.load(EMBEDDING, shape, dtype, device),
            None => source.load(name, shape, dtype, device),
        }
    }

    /// The weights that it has whole under the names that PEFT gives them.
    pub(super) fn whole_by_name(&self) -> impl Iterator<Item = (String, Tensor)> {
        let both = self.config.ensure_weight_tying.then(|| self.whole.get(EMBEDDING)).flatten();
        let head = both.filter(|_| !self.whole.contains_key(LM_HEAD)).map(|tensor| (LM_HEAD, tensor));
        let whole = self.whole.iter().map(|(name, tensor)| (name.as_str(), tensor)).chain(head);
        whole.map(|(name, tensor)| (self.stored_name(name), tensor.clone()))
    }

    /// PEFT keeps the weight of a module with a LoRA one level further down.
    fn stored_name(&self, name: &str) -> String {
        match name.rsplit_once('.') {
            Some((module, leaf)) if self.tensors.contains_key(module) => {
                stored_name(&format!("{module}.base_layer.{leaf}"))
            }
            _ => stored_name(name),
        }
    }
}
