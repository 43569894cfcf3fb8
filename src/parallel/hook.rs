//! Gathers around units, and gradients that leave as soon as they are complete.

use std::sync::Arc;

use super::Sharded;
use super::shards::Way;
use crate::autograd::{Tensor, backward_from, is_recording, no_grad, record_nested, recording};
use crate::error::Result;
use crate::nn::{Unit, UnitFn, UnitHook};

/// What a rank does around the units of its passes: each has a tape of its own, so the gradients of its weights are complete,
/// and sent to their owners, before the unit before it is differentiated.
#[derive(Clone, Debug)]
pub struct Gathered(pub Arc<Sharded>);

impl UnitHook for Gathered {
    fn run(&self, unit: Unit, x: &Tensor, f: UnitFn) -> Result<Tensor> {
        let (sharded, learns) = (self.0.clone(), is_recording());
        sharded.enter(unit, Way::Forward, learns)?;
        let tracked = x.is_tracked();
        if !learns || !(tracked || sharded.is_trained(unit)) {
            let y = no_grad(|| f(x))?;
            sharded.leave(unit, Way::Forward);
            return Ok(y);
        }
        let leaf = move |x: Tensor| if tracked { x.with_grad() } else { x };
        let (x, input) = (x.clone(), x.detach());
        let is_recomputed = sharded.checkpoints && matches!(unit, Unit::Block(_));
        let (kept, y) = if is_recomputed {
            (None, no_grad(|| f(&input))?)
        } else {
            let x = leaf(input.clone());
            let y = f(&x)?;
            (Some((x, y.clone())), y.detach())
        };
        sharded.leave(unit, Way::Forward);
        // Weights of the unit may be trained where nothing before it is: the node is wanted all the same.
        let anchor = if tracked { x } else { input.clone().with_grad() };
        let [y] = record_nested([&anchor], [y], move |[dy], _| {
            let Some(dy) = dy else { return Ok([None]) };
            sharded.enter(unit, Way::Backward, true)?;
            let (x, y) = match kept {
                Some(kept) => kept,
                None => {
                    let x = leaf(input);
                    let y = recording(|| f(&x))?;
                    (x, y)
                }
            };
            let mut nested = backward_from([(&y, dy)])?;
            let dx = nested.take(&x);
            sharded.leave(unit, Way::Backward);
            sharded.reduce(unit, Some(&mut nested))?;
            Ok([dx])
        });
        Ok(y)
    }

    fn keeps_weights(&self) -> bool {
        self.0.keeps_weights()
    }
}
