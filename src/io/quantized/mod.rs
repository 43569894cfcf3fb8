//! Weights in fewer bits than floats have: as bitsandbytes stores them in files, and which of them a model is to hold.

mod four_bit;
mod int8;
mod source;
mod write;

pub(super) use source::Widened;
pub(super) use write::{Parts, parts};

use serde::{Deserialize, Serialize};

use super::WeightSource;
use crate::autograd::Tensor;
use crate::error::{Error, Result};
use crate::ops::int8_matmul::{Backward, Int8, Method};
use crate::ops::nf4::{self, Kind};
use crate::ops::weight::Quantized;
use crate::shape::Shape;

/// In how few bits the frozen weights of linear layers are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Weights stay floats.
    #[default]
    None,
    /// LLM.int8().
    Int8,
    /// 4-bit NormalFloat.
    Nf4,
    /// 4-bit floats.
    Fp4,
}

impl Scheme {
    /// The scheme of `weight`.
    pub(super) fn of(weight: &Quantized) -> Self {
        match weight {
            Quantized::Int8(_) => Self::Int8,
            Quantized::FourBit(weight) if weight.kind() == Kind::Nf4 => Self::Nf4,
            Quantized::FourBit(_) => Self::Fp4,
        }
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Int8 => "int8",
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        })
    }
}

/// Elements that share a scale in weights of 4 bits that are made here.
const BLOCKSIZE: usize = 64;

/// A scheme with all that it depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantization {
    /// The scheme.
    pub scheme: Scheme,
    /// Whether the scales of 4-bit weights are quantized too.
    pub double: bool,
    /// How int8 weights are multiplied.
    pub method: Method,
}

impl Quantization {
    /// Whether the scheme holds anything in fewer bits.
    pub fn is_some(&self) -> bool {
        self.scheme != Scheme::None
    }

    /// `weight`, of floats `[N, K]` on the CPU, in fewer bits; `None` if it stays as it is.
    ///
    /// # Errors
    /// [`Error::Input`] if an element is not finite.
    pub fn quantize(&self, weight: &Tensor) -> Result<Option<Quantized>> {
        let in_four_bits = |kind| nf4::quantize(weight, kind, BLOCKSIZE, self.double).map(Quantized::FourBit);
        match self.scheme {
            Scheme::None => Ok(None),
            Scheme::Int8 => Int8::quantize(weight, self.method).map(Quantized::Int8).map(Some),
            Scheme::Nf4 => in_four_bits(Kind::Nf4).map(Some),
            Scheme::Fp4 => in_four_bits(Kind::Fp4).map(Some),
        }
    }

    /// In few words, for messages: `nf4 with double quantization`.
    pub fn in_words(&self) -> String {
        let double = if self.double { " with double quantization" } else { "" };
        format!("{}{double}", self.scheme)
    }
}

/// What a person asks for of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// The scheme, if not that of the files.
    pub scheme: Option<Scheme>,
    /// Whether the scales of 4-bit weights are to be quantized too.
    pub double: bool,
    /// From which magnitude on activations stay floats beside int8 weights, if not as the files say.
    pub threshold: Option<f32>,
    /// How the gradient of an int8 layer's input is made, if not in int8.
    pub backward: Option<Backward>,
}

/// The weight `name` of `source`, `[N, K]`, as bitsandbytes stored it; `None` if it is stored as floats.
///
/// # Errors
/// [`Error::File`] naming the tensor that is missing, has another shape or dtype, or says what is not supported.
pub(super) fn read(
    source: &dyn WeightSource,
    has: &dyn Fn(&str) -> bool,
    name: &str,
    shape: Shape,
    method: Method,
) -> Result<Option<Quantized>> {
    if let Some(kind) = four_bit::kind(has, name) {
        return four_bit::read(source, has, name, shape, kind).map(|weight| Some(Quantized::FourBit(weight)));
    }
    let weight = int8::read(source, has, name, shape, method)?;
    Ok(weight.map(Quantized::Int8))
}

/// The error of the tensor `name`.
fn refuse(source: &dyn WeightSource, name: &str, detail: impl std::fmt::Display) -> Error {
    Error::file(source.file(name), format!("tensor {name} {detail}"))
}

/// Puts an error of a tensor, or of parts that do not fit each other, to its file and name.
pub(super) fn located(source: &dyn WeightSource, name: &str, error: &Error) -> Error {
    Error::file(source.file(name), format!("tensor {name}: {error}"))
}

/// Refuses scales that no weight has.
fn refuse_bad_scale(source: &dyn WeightSource, name: &str, scales: &Tensor) -> Result<()> {
    let bad = scales.slice::<f32>()?.iter().enumerate().find(|(_, scale)| !(scale.is_finite() && **scale >= 0.0));
    bad.map_or(Ok(()), |(at, scale)| {
        Err(refuse(source, name, format!("has {scale} at {at}: a scale must be finite and not negative")))
    })
}
