//! The weight that a linear layer holds.

use std::sync::Arc;

use super::Parameter;
use crate::autograd::Tensor;
use crate::ops::weight::Quantized;
use crate::shape::Shape;

/// The weight of a linear layer, `[out, in]`.
#[derive(Debug)]
pub enum Weight {
    /// Floats; f32 where they are trained, whatever the activations are.
    Dense(Parameter),
    /// Codes of fewer bits, which are never trained.
    Quantized(Arc<Quantized>),
}

impl Weight {
    /// `[out, in]`.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Dense(parameter) => parameter.get().shape(),
            Self::Quantized(weight) => weight.shape(),
        }
    }

    /// The floats, if it holds such.
    pub fn parameter(&self) -> Option<&Parameter> {
        match self {
            Self::Dense(parameter) => Some(parameter),
            Self::Quantized(_) => None,
        }
    }

    /// The codes, if it holds such.
    pub fn quantized(&self) -> Option<&Arc<Quantized>> {
        match self {
            Self::Dense(_) => None,
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
