//! Files: Hugging Face folders, adapters, and what else models are stored in.

mod mmap;

pub mod atomic;
pub mod hub;

use std::path::Path;

use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Shape;

/// A file or folder that holds the weights of one model, read tensor by tensor.
pub trait WeightSource {
    /// The file or folder, for messages.
    fn path(&self) -> &Path;

    /// The names of all its tensors, in Hugging Face's spelling, sorted.
    fn names(&self) -> Vec<String>;

    /// The shape of the tensor `name`.
    ///
    /// # Errors
    /// [`Error::File`](crate::error::Error::File) if there is none.
    fn shape(&self, name: &str) -> Result<Shape>;

    /// The tensor `name`, converted to `dtype` (f32 or bf16) while it is copied to `device`.
    ///
    /// # Errors
    /// [`Error::File`](crate::error::Error::File) if there is none, if it has not `shape`, or if what it is stored as
    /// cannot be converted.
    fn load(&self, name: &str, shape: Shape, dtype: DType, device: &Device) -> Result<Tensor>;
}
