//! Weights that a model shares with an optimizer.

use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use crate::autograd::Tensor;
use crate::error::Result;

/// Called with the name and the cell of each parameter of a layer.
pub type Visitor<'a, 'p> = dyn FnMut(String, &'p Parameter) + 'a;

/// A cell that holds one weight: layers read it, an optimizer replaces it between steps. Its clone is the same cell.
#[derive(Clone, Debug)]
pub struct Parameter(Arc<RwLock<Tensor>>);

impl Parameter {
    /// A cell that holds `value`; trained if that is tracked.
    pub fn new(value: Tensor) -> Self {
        Self(Arc::new(RwLock::new(value)))
    }

    /// The weight as it is now; shares its memory.
    pub fn get(&self) -> Tensor {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another value in its place.
    pub fn set(&self, value: Tensor) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// Changes the weight in place. It stays the same leaf of the tape.
    pub fn update<R>(&self, change: impl FnOnce(&mut Tensor) -> Result<R>) -> Result<R> {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The weight itself, to be changed in place. It stays the same leaf of the tape.
    pub fn lock(&self) -> RwLockWriteGuard<'_, Tensor> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is trained.
    pub fn is_trained(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_tracked()
    }
}
