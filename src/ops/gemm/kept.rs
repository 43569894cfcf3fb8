//! Frozen weights in the form that products read, packed once.

use super::codes::Codes;
use super::matrix::Matrix;
use super::panels::Panels;
use super::tile;
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// A frozen f32 weight `[N, K]` as panels of neighbouring rows, which the CPU's products read without packing them.
#[derive(Clone, Debug)]
pub struct Packed {
    panels: Panels,
    n: usize,
    k: usize,
}

impl Packed {
    /// The weight `[N, K]`, f32 on the CPU.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is no matrix; [`Error::DType`] if it is not f32; [`Error::Device`] if it is not on the CPU.
    pub fn of(weight: &Tensor) -> Result<Self> {
        const OP: &str = "matmul";
        let &[n, k] = weight.dims() else {
            return Err(Error::shape(OP, format!("weight must be [N, K], got {}", weight.shape())));
        };
        if weight.dtype() != DType::F32 {
            return Err(Error::dtype(OP, format!("a packed weight is f32, got {}", weight.dtype())));
        }
        let [_, width] = tile::shape(pulp::Arch::new(), [1, n]);
        Ok(Self { panels: Panels::pack_whole(Matrix::new(OP, weight)?, width)?, n, k })
    }

    /// `[N, K]`.
    pub fn shape(&self) -> Shape {
        [self.n, self.k].into()
    }

    /// Its memory.
    pub fn memory(&self) -> &Tensor {
        self.panels.lanes_of_all()
    }

    /// The weight with `f` of its memory in its place.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { panels: self.panels.map(f)?, n: self.n, k: self.k })
    }

    /// The weight row by row, f32 `[N, K]`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn unpack(&self) -> Result<Tensor> {
        let mut weight = Tensor::uninit(&Device::Cpu, DType::F32, self.shape())?;
        for (row, out) in weight.slice_mut::<f32>()?.chunks_mut(self.k.max(1)).enumerate() {
            self.panels.read(row, 0, out);
        }
        Ok(weight)
    }

    /// The weight as an operand of products, `[N, K]`.
    pub(in crate::ops) fn matrix(&self) -> Matrix<'_> {
        Matrix::of_codes(Codes::packed(&self.panels, self.k), [self.n, self.k])
    }
}
