//! How a model's frozen linear layers are stored in memory, whatever its files hold.

use crate::autograd::Tensor;
use crate::error::Result;
use crate::ops::int8_matmul::{Int8, Method};
use crate::ops::weight::Quantized;

/// In how few bits a weight is stored, and what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// As floats.
    #[default]
    None,
    /// LLM.int8().
    Int8,
}

/// A scheme with all that it depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantization {
    /// The scheme.
    pub scheme: Scheme,
    /// How int8 weights are multiplied.
    pub method: Method,
}

impl Quantization {
    /// Whether the scheme stores anything in fewer bits.
    pub fn is_some(&self) -> bool {
        self.scheme != Scheme::None
    }

    /// `weight`, f32 `[N, K]` on the CPU, in fewer bits; `None` if it stays as it is.
    ///
    /// # Errors
    /// [`Error::Input`](crate::error::Error::Input) if an element is not finite.
    pub fn quantize(&self, weight: &Tensor) -> Result<Option<Quantized>> {
        match self.scheme {
            Scheme::None => Ok(None),
            Scheme::Int8 => Int8::quantize(weight, self.method).map(Quantized::Int8).map(Some),
        }
    }
}
