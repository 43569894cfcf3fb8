//! What a linear layer multiplies by.

use std::borrow::Cow;
use std::sync::Arc;

use super::gemm::{Codes, Matrix, Packed};
use super::int8_matmul::Int8;
use super::nf4::{Absmax, FourBit};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Shape;

/// A frozen weight `[N, K]` in fewer bits than a float has.
#[derive(Clone, Debug)]
pub enum Quantized {
    /// LLM.int8().
    Int8(Int8),
    /// nf4 or fp4.
    FourBit(FourBit),
}

impl Quantized {
    /// `[N, K]`.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Int8(weight) => weight.shape(),
            Self::FourBit(weight) => weight.shape().into(),
        }
    }

    /// The weight in floats of `dtype`, on the CPU.
    ///
    /// # Errors
    /// [`Error::DType`](crate::error::Error::DType) if `dtype` is none of floats.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Int8(weight) => weight.dequantize(dtype),
            Self::FourBit(weight) => weight.dequantize(dtype),
        }
    }

    /// All that it consists of, whose bytes are its content.
    pub fn parts(&self) -> Vec<&Tensor> {
        match self {
            Self::Int8(weight) => vec![weight.codes(), weight.absmax()],
            Self::FourBit(weight) => match weight.absmax() {
                Absmax::Plain(absmax) => vec![weight.codes(), absmax],
                Absmax::Nested(nested) => vec![weight.codes(), &nested.codes, &nested.absmax, &nested.map],
            },
        }
    }

    /// The codes of its elements.
    fn codes(&self) -> &Tensor {
        match self {
            Self::Int8(weight) => weight.codes(),
            Self::FourBit(weight) => weight.codes(),
        }
    }

    /// The weight on `device`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        match self {
            Self::Int8(weight) => weight.to_device(device).map(Self::Int8),
            Self::FourBit(weight) => weight.to_device(device).map(Self::FourBit),
        }
    }

    /// The weight with `f` of each tensor that products read in its place.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        match self {
            Self::Int8(weight) => weight.map(f).map(Self::Int8),
            Self::FourBit(weight) => weight.map(f).map(Self::FourBit),
        }
    }

    /// The scale of each block of a weight of 4 bits; none of another's.
    fn scales(&self) -> Result<Cow<'_, [f32]>> {
        match self {
            Self::Int8(_) => Ok(Cow::default()),
            Self::FourBit(weight) => weight.scales(),
        }
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.parts().iter().map(|part| part.bytes()).sum()
    }
}

/// The weight of a linear layer, `[N, K]`.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// Floats, trained or not.
    Dense(&'a Tensor),
    /// Frozen floats, packed once.
    Packed(&'a Arc<Packed>),
    /// Frozen codes.
    Quantized(&'a Arc<Quantized>),
}

impl<'a> Weight<'a> {
    /// `[N, K]`.
    pub fn shape(self) -> Shape {
        match self {
            Self::Dense(weight) => weight.shape(),
            Self::Packed(weight) => weight.shape(),
            Self::Quantized(weight) => weight.shape(),
        }
    }

    /// What holds its floats or codes.
    pub(super) fn memory(self) -> &'a Tensor {
        match self {
            Self::Dense(weight) => weight,
            Self::Packed(weight) => weight.memory(),
            Self::Quantized(weight) => weight.codes(),
        }
    }

    /// The codes, if it is of such.
    pub(super) fn quantized(self) -> Option<&'a Quantized> {
        match self {
            Self::Quantized(weight) => Some(weight),
            Self::Dense(_) | Self::Packed(_) => None,
        }
    }

    /// The codes, if they are of int8.
    pub(super) fn int8(self) -> Option<&'a Int8> {
        match self.quantized() {
            Some(Quantized::Int8(weight)) => Some(weight),
            Some(Quantized::FourBit(_)) | None => None,
        }
    }

    /// The floats that may be trained.
    pub fn dense(self) -> Option<&'a Tensor> {
        match self {
            Self::Dense(weight) => Some(weight),
            Self::Packed(_) | Self::Quantized(_) => None,
        }
    }
}

/// A weight that a backward pass needs.
#[derive(Clone, Debug)]
pub(super) enum Saved {
    Dense(Tensor),
    Packed(Arc<Packed>),
    Quantized(Arc<Quantized>),
}

impl Saved {
    /// What is kept of `weight`: where that is gathered for its use, the way to it.
    pub fn of(weight: Weight<'_>) -> Self {
        match weight {
            Weight::Dense(weight) => Self::Dense(weight.detach()),
            Weight::Packed(weight) => Self::Packed(Arc::new(Packed::clone(weight))),
            Weight::Quantized(weight) => Self::Quantized(Arc::new(Quantized::clone(weight))),
        }
    }

    /// The weight as the ops borrow it.
    pub fn as_weight(&self) -> Weight<'_> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight),
            Self::Packed(weight) => Weight::Packed(weight),
            Self::Quantized(weight) => Weight::Quantized(weight),
        }
    }
}

/// A weight as floats, which the CPU widens while it packs them.
pub(super) struct Floats<'a> {
    weight: Weight<'a>,
    /// The scale of each block of a weight of 4 bits.
    scales: Cow<'a, [f32]>,
}

impl<'a> Floats<'a> {
    /// The floats of `weight`.
    pub fn of(weight: Weight<'a>) -> Result<Self> {
        let scales = match weight {
            Weight::Quantized(weight) => weight.scales()?,
            Weight::Dense(_) | Weight::Packed(_) => Cow::default(),
        };
        Ok(Self { weight, scales })
    }

    /// `[N, K]`.
    pub fn matrix(&self, op: &'static str) -> Result<Matrix<'_>> {
        let shape = self.weight.shape();
        let shape = [shape.rows(), shape.last()];
        match self.weight {
            Weight::Dense(weight) => Matrix::new(op, weight),
            Weight::Packed(weight) => Ok(weight.matrix()),
            Weight::Quantized(weight) => {
                let codes = match &**weight {
                    Quantized::Int8(weight) => Codes::int8(weight.codes().slice()?, weight.scales()?, shape[1]),
                    Quantized::FourBit(weight) => Codes::four_bit(weight.view(&self.scales)?),
                };
                Ok(Matrix::of_codes(codes, shape))
            }
        }
    }
}
