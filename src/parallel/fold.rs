//! The sum of gradients over passes: a left fold in their order, each run of each weight at its owner.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Exchange, Shard};
use crate::autograd::{Tensor, accumulate};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;

/// The sums so far, of the runs that this rank owns.
#[derive(Default)]
pub struct Fold {
    sums: BTreeMap<String, Tensor>,
    pending: Option<Pending>,
}

/// Gradients on their way.
struct Pending {
    shards: Vec<Arc<Shard>>,
    exchange: Box<dyn Exchange>,
}

impl Fold {
    /// Takes an exchange of the gradients of `shards`, and adds those of the one before it.
    pub(super) fn push(&mut self, shards: Vec<Arc<Shard>>, exchange: Box<dyn Exchange>, device: &Device) -> Result<()> {
        self.finish(device)?;
        self.pending = Some(Pending { shards, exchange });
        Ok(())
    }

    /// Adds all that is on its way, rank by rank.
    pub(super) fn finish(&mut self, device: &Device) -> Result<()> {
        let Some(Pending { shards, exchange }) = self.pending.take() else { return Ok(()) };
        for parts in exchange.wait()? {
            for (shard, part) in shards.iter().zip(parts).filter(|(_, part)| part.bytes() > 0) {
                let elements = part.bytes() / DType::F32.size();
                let term = Tensor::from_bytes(device, DType::F32, [elements].into(), part.host()?)?;
                let sum = match self.sums.remove(&shard.name) {
                    Some(sum) => accumulate(sum, &term)?,
                    None => term,
                };
                self.sums.insert(shard.name.clone(), sum);
            }
        }
        Ok(())
    }

    /// Takes the sum of this rank's run of a weight out.
    pub(super) fn take(&mut self, name: &str) -> Option<Tensor> {
        self.sums.remove(name)
    }
}
