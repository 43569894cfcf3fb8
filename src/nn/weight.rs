//! The weight that a linear layer holds.

use std::sync::Arc;

use super::Parameter;
use crate::autograd::Tensor;
use crate::error::Result;
use crate::ops::Packed;
use crate::ops::weight::{self, Quantized};
use crate::shape::Shape;

/// The weight of a linear layer, `[out, in]`.
#[derive(Debug)]
pub enum Weight {
    /// Floats; f32 where they are trained, whatever the activations are.
    Dense(Parameter),
    /// Floats that are never trained, as the CPU's products read them.
    Packed(Arc<Packed>),
    /// Codes of fewer bits, which are never trained.
    Quantized(Arc<Quantized>),
}

impl Weight {
    /// `[out, in]`.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Dense(parameter) => parameter.get().shape(),
            Self::Packed(weight) => weight.shape(),
            Self::Quantized(weight) => weight.shape(),
        }
    }

    /// The floats, if it holds such.
    pub fn parameter(&self) -> Option<&Parameter> {
        match self {
            Self::Dense(parameter) => Some(parameter),
            Self::Packed(_) | Self::Quantized(_) => None,
        }
    }

    /// The weight for one use: what an op finds of it where it is gathered stays with that op.
    pub(super) fn for_use(&self) -> Self {
        match self {
            Self::Dense(parameter) => Self::Dense(parameter.clone()),
            Self::Packed(weight) => Self::Packed(Arc::new(Packed::clone(weight))),
            Self::Quantized(weight) => Self::Quantized(Arc::new(Quantized::clone(weight))),
        }
    }

    /// The weight as the op takes it; `dense` are its floats, if it holds such, in the dtype of the activations.
    pub(super) fn operand<'a>(&'a self, dense: Option<&'a Tensor>) -> Option<weight::Weight<'a>> {
        match self {
            Self::Dense(_) => dense.map(weight::Weight::Dense),
            Self::Packed(weight) => Some(weight::Weight::Packed(weight)),
            Self::Quantized(weight) => Some(weight::Weight::Quantized(weight)),
        }
    }

    /// The weight with `f` of each tensor that products read in its place.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn map(self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        match self {
            Self::Dense(parameter) => f(&parameter.get()).map(Self::from),
            Self::Packed(weight) => weight.map(f).map(Self::from),
            Self::Quantized(weight) => weight.map(f).map(Self::from),
        }
    }

    /// The codes, if it holds such.
    pub fn quantized(&self) -> Option<&Arc<Quantized>> {
        match self {
            Self::Dense(_) | Self::Packed(_) => None,
            Self::Quantized(weight) => Some(weight),
        }
    }
}

impl From<Tensor> for Weight {
    fn from(weight: Tensor) -> Self {
        Self::Dense(Parameter::new(weight))
    }
}

impl From<Quantized> for Weight {
    fn from(weight: Quantized) -> Self {
        Self::Quantized(Arc::new(weight))
    }
}

impl From<Packed> for Weight {
    fn from(weight: Packed) -> Self {
        Self::Packed(Arc::new(weight))
    }
}
