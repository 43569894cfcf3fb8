//! A source some of whose weights bitsandbytes has quantized, as one of floats.

use std::collections::HashSet;
use std::path::Path;

use super::{four_bit, int8, read};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::io::WeightSource;
use crate::ops::elementwise::cast;
use crate::ops::int8_matmul::Method;
use crate::ops::weight::Quantized;
use crate::shape::Shape;

/// Weights of which those in fewer bits are widened as they are loaded.
pub(in crate::io) struct Widened<W> {
    weights: W,
    names: HashSet<String>,
}

impl<W: WeightSource> Widened<W> {
    /// The weights of `weights`.
    pub fn new(weights: W) -> Self {
        Self { names: weights.names().into_iter().collect(), weights }
    }

    /// The weight `name` in the bits that it is stored in; `None` if those are floats.
    ///
    /// # Errors
    /// [`Error::File`](crate::error::Error::File) naming the tensor that is missing or does not fit.
    pub fn quantized(&self, name: &str, shape: Shape, method: Method) -> Result<Option<Quantized>> {
        if !name.ends_with(".weight") || shape.dims().len() != 2 {
            return Ok(None);
        }
        read(&self.weights, &|name| self.names.contains(name), name, shape, method)
    }

    /// Whether `name` is a part of a weight and no weight itself.
    fn is_part(&self, name: &str) -> bool {
        let beside = |leaf: &str| {
            let weight = name.strip_suffix(leaf).map(|module| format!("{module}weight"));
            weight
                .is_some_and(|weight| self.names.contains(&weight) && int8::beside(&weight).contains(&name.to_string()))
        };
        four_bit::is_part(name) || beside("SCB") || beside("weight_format")
    }
}

impl<W: WeightSource> WeightSource for Widened<W> {
    fn path(&self) -> &Path {
        self.weights.path()
    }

    fn file(&self, name: &str) -> &Path {
        self.weights.file(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.weights.names();
        names.retain(|name| !self.is_part(name));
        names
    }

    fn shape(&self, name: &str) -> Result<Shape> {
        match four_bit::shape(&self.weights, &|name| self.names.contains(name), name)? {
            Some(shape) => Ok(shape),
            None => self.weights.shape(name),
        }
    }

    fn dtype(&self) -> DType {
        self.weights.dtype()
    }

    fn load(&self, name: &str, shape: Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.quantized(name, shape, Method::default())? {
            Some(weight) => cast(&weight.dequantize(DType::F32)?, dtype)?.to_device(device),
            None => self.weights.load(name, shape, dtype, device),
        }
    }

    fn bytes(&self, name: &str) -> Result<Tensor> {
        self.weights.bytes(name)
    }

    fn bits(&self, name: &str) -> Option<usize> {
        self.weights.bits(name)
    }
}
