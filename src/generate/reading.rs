//! A model that reads one text after another, and of texts that begin alike the beginning once.

use crate::device::Graphs;
use crate::error::{Error, Result};
use crate::models::llama::Llama;
use crate::nn::KvCache;

/// The cache grows by so many tokens.
const STEP: usize = 512;

/// What a model has read last.
#[derive(Debug, Default)]
pub struct Reading {
    cache: Option<(KvCache, usize)>,
    ids: Vec<u32>,
    computed: usize,
}

impl Reading {
    /// The logits `[V]` of the token after `ids`, of which `model`, the same at every call, computes what it did not read
    /// just before.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no ids, or more than the context; as [`generate`](super::generate) where logits are not
    /// finite.
    pub fn read(&mut self, model: &Llama, ids: &[u32]) -> Result<Vec<f32>> {
        let Some(last) = ids.len().checked_sub(1) else { return Err(Error::input("text", "has no tokens")) };
        if self.cache.as_ref().is_none_or(|(_, capacity)| *capacity < ids.len()) {
            let capacity = ids.len().next_multiple_of(STEP).min(model.config().context().max(ids.len()));
            self.cache = Some((model.cache(capacity)?, capacity));
            self.ids.clear();
        }
        let Some((cache, _)) = &mut self.cache else { return Err(Error::input("text", "has no place")) };
        let alike = self.ids.iter().zip(ids).take_while(|(a, b)| a == b).count().min(last);
        cache.keep(alike);
        self.ids.truncate(alike);
        let new = ids.get(alike..).unwrap_or_default();
        let logits = super::next_logits(model, new, cache, &mut Graphs::new(&model.device()));
        match &logits {
            Ok(_) => {
                self.ids.extend(new);
                self.computed += new.len();
            }
            Err(_) => *self = Self { computed: self.computed, ..Self::default() },
        }
        logits
    }

    /// How many tokens it has computed.
    pub fn computed(&self) -> usize {
        self.computed
    }
}
