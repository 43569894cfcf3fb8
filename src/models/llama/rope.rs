//! The rotary tables of a model's passes.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use super::LlamaConfig;
use crate::autograd::Tensor;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::rope::RopeTable;

/// The cosines and sines of as many positions as were asked for so far.
#[derive(Debug, Default)]
pub(super) struct Rope(RwLock<Option<Arc<RopeTable>>>);

impl Rope {
    /// The table for the rows at `positions`, u32 `[rows]`, of `texts`, and each row's place in it: its position, or, where
    /// a text's frequencies depend on its length, the row itself.
    ///
    /// # Errors
    /// [`Error::Input`] if a text is longer than the context.
    pub fn of_texts(
        &self,
        config: &LlamaConfig,
        texts: &[Range<usize>],
        positions: Tensor,
    ) -> Result<(Arc<RopeTable>, Tensor)> {
        let (device, longest) = (positions.device(), texts.iter().map(|text| text.end).max().unwrap_or(0));
        if !config.rope_scaling.is_some_and(|scaling| scaling.depends_on_length()) {
            return Ok((self.of_positions(config, &device, longest)?, positions));
        }
        refuse_longer(config, longest)?;
        let table = RopeTable::of_texts(&device, config.head_dim, texts, config.rope_theta, config.rope_scaling)?;
        let rows: Vec<u32> = (0..table.positions() as u32).collect();
        Ok((Arc::new(table), Tensor::from_slice(&device, [rows.len()], &rows)?))
    }

    /// The table of all positions below `positions`, at least.
    ///
    /// # Errors
    /// As [`Rope::of_texts`].
    pub fn of_positions(&self, config: &LlamaConfig, device: &Device, positions: usize) -> Result<Arc<RopeTable>> {
        refuse_longer(config, positions)?;
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = table.as_ref().filter(|table| table.positions() >= positions) {
            return Ok(table.clone());
        }
        let LlamaConfig { head_dim, rope_theta, rope_scaling, .. } = *config;
        let grown = positions.next_power_of_two().min(config.context());
        let grown = Arc::new(RopeTable::new(device, head_dim, grown, rope_theta, rope_scaling)?);
        *table = Some(grown.clone());
        Ok(grown)
    }
}

fn refuse_longer(config: &LlamaConfig, positions: usize) -> Result<()> {
    if positions <= config.context() {
        return Ok(());
    }
    let detail = format!("{positions} tokens are more than the model's {}", config.limit());
    Err(Error::input("input", detail).with_hint("shorten the text"))
}
