//! What may be wrapped around the parts of a model.
//!
//! Models run each [`Unit`] of theirs through a [`UnitHook`] and know nothing of what it does. One method around the unit
//! covers before and after, forward and backward: a hook can act before it calls the unit, after that, and, through
//! [`record_nested`], when the gradient arrives and when it has passed.

use std::sync::Arc;

use crate::autograd::{Tensor, backward_from, is_recording, no_grad, record_nested, recording};
use crate::error::Result;

/// A part of a model whose weights are needed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// The table of token vectors.
    Embedding,
    /// The transformer block of that number.
    Block(usize),
    /// The last norm, and the output layer.
    Head,
}

/// A unit as a function of what goes into it: token ids into the embedding, else the residual stream, `[rows, H]`.
pub type UnitFn = Arc<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;

/// Runs the units of a model.
pub trait UnitHook {
    /// Applies `unit`, which computes `f`, to `x`.
    fn run(&self, unit: Unit, x: &Tensor, f: UnitFn) -> Result<Tensor>;

    /// Whether a unit's weights may be read outside of it too.
    fn keeps_weights(&self) -> bool {
        true
    }
}

/// Runs units as they are.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl UnitHook for Plain {
    fn run(&self, _unit: Unit, x: &Tensor, f: UnitFn) -> Result<Tensor> {
        f(x)
    }
}

/// Activation checkpointing: keeps only each block's input and runs the block again when its gradient is needed.
///
/// The result has the same bits as without: ops are deterministic and dropout masks are functions of their key.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint;

impl UnitHook for Checkpoint {
    fn run(&self, unit: Unit, x: &Tensor, f: UnitFn) -> Result<Tensor> {
        if !matches!(unit, Unit::Block(_)) {
            return f(x);
        }
        let y = no_grad(|| f(x))?;
        if !is_recording() {
            return Ok(y);
        }
        // Parameters inside the block may be tracked where x is not (the first block): the node is wanted all the same.
        let (saved, tracked) = (x.detach(), x.is_tracked());
        let anchor = if tracked { x.clone() } else { saved.clone().with_grad() };
        let [y] = record_nested([&anchor], [y], move |[dy], gradients| {
            let Some(dy) = dy else { return Ok([None]) };
            let x = saved.with_grad();
            let y = recording(|| f(&x))?;
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
