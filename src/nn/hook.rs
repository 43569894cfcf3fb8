//! What may be wrapped around a transformer block.
//!
//! Models run every block through a [`BlockHook`] and know nothing of what it does. One method around the block covers
//! before and after, forward and backward: a hook can act before it calls `block`, after that, and, through
//! [`record_nested`], when the gradient arrives and when it has passed.

use std::sync::Arc;

use crate::autograd::{Tensor, backward_from, is_recording, no_grad, record_nested, recording};
use crate::error::Result;

/// A block as a function of the residual stream, `[rows, H]` → `[rows, H]`.
pub type BlockFn = Arc<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;

/// Runs the blocks of a model.
pub trait BlockHook {
    /// Applies block number `index` to `x`.
    fn run(&self, index: usize, x: &Tensor, block: BlockFn) -> Result<Tensor>;
}

/// Runs blocks as they are.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl BlockHook for Plain {
    fn run(&self, _index: usize, x: &Tensor, block: BlockFn) -> Result<Tensor> {
        block(x)
    }
}

/// Activation checkpointing: keeps only each block's input and runs the block again when its gradient is needed.
///
/// The result has the same bits as without: ops are deterministic and dropout masks are functions of their key.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint;

impl BlockHook for Checkpoint {
    fn run(&self, _index: usize, x: &Tensor, block: BlockFn) -> Result<Tensor> {
        let y = no_grad(|| block(x))?;
        if !is_recording() {
            return Ok(y);
        }
        // Parameters inside the block may be tracked where x is not (the first block): the node is wanted all the same.
        let (saved, tracked) = (x.detach(), x.is_tracked());
        let anchor = if tracked { x.clone() } else { saved.clone().with_grad() };
        let [y] = record_nested([&anchor], [y], move |[dy], gradients| {
            let Some(dy) = dy else { return Ok([None]) };
            let x = saved.with_grad();
            let y = recording(|| block(&x))?;
            if !y.is_tracked() {
                return Ok([None]);
            }
            let mut nested = backward_from([(&y, dy)])?;
            let dx = nested.take(&x);
            gradients.merge(nested)?;
            Ok([dx.filter(|_| tracked)])
        });
        Ok(y)
    }
}
