//! A shaped, typed, contiguous array on a device, and its place on the tape.

use std::ops::Range;
use std::sync::Arc;

use super::storage::{Memory, Storage};
use super::tape::Output;
use crate::device::{Arg, Buffer, Device};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::shape::Shape;

/// A tensor. Cloning shares the memory; writing through [`Tensor::slice_mut`] copies it first if it is shared.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Shape,
    dtype: DType,
    memory: Memory,
    output: Option<Output>,
    /// The largest element of a u32 tensor that came from host memory, so that no op asks a device for it.
    largest: Option<u32>,
}

impl Tensor {
    fn new(shape: Shape, dtype: DType, buffer: Buffer) -> Self {
        Self { shape, dtype, memory: Memory::Own(Arc::new(buffer)), output: None, largest: None }
    }

    /// A tensor with unspecified content, for a kernel to fill.
    pub fn uninit(device: &Device, dtype: DType, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        Ok(Self::new(shape, dtype, Buffer::uninit(device, shape.numel() * dtype.size())?))
    }

    /// All zeros.
    pub fn zeros(device: &Device, dtype: DType, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        Ok(Self::new(shape, dtype, Buffer::zeros(device, shape.numel() * dtype.size())?))
    }

    /// A copy of `data`, row-major.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` has not as many elements as `shape`.
    pub fn from_slice<T: Element>(device: &Device, shape: impl Into<Shape>, data: &[T]) -> Result<Self> {
        let shape = shape.into();
        if shape.numel() != data.len() {
            return Err(Error::shape(
                "tensor",
                format!("{shape} needs {} elements, got {}", shape.numel(), data.len()),
            ));
        }
        let largest = bytemuck::try_cast_slice(data).ok().filter(|_| T::DTYPE == DType::U32).and_then(largest);
        Ok(Self { largest, ..Self::new(shape, T::DTYPE, Buffer::from_bytes(device, bytemuck::cast_slice(data))?) })
    }

    /// Floats from their bytes, which need no alignment, in this machine's order: what CUDA runs on is little-endian.
    pub(crate) fn from_bytes(device: &Device, dtype: DType, shape: Shape, bytes: &[u8]) -> Result<Self> {
        let needed = shape.numel() * dtype.size();
        if needed != bytes.len() {
            return Err(Error::shape("tensor", format!("{shape} needs {needed} bytes, got {}", bytes.len())));
        }
        Ok(Self::new(shape, dtype, Buffer::from_bytes(device, bytes)?))
    }

    /// The tensor of what is in `storage` at the time that it is read.
    ///
    /// # Errors
    /// [`Error::Shape`] if it has not as many bytes.
    pub fn of_storage(storage: Arc<Storage>, dtype: DType, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        let needed = shape.numel() * dtype.size();
        if needed != storage.bytes() {
            return Err(Error::shape("tensor", format!("{shape} needs {needed} bytes, got {}", storage.bytes())));
        }
        Ok(Self { shape, dtype, memory: Memory::stored(storage), output: None, largest: None })
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The sizes of its dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device it lives on.
    pub fn device(&self) -> Device {
        self.memory.device()
    }

    /// Its memory.
    ///
    /// # Errors
    /// [`Error::Device`] if it is of a [`Storage`] that holds nothing.
    pub fn buffer(&self) -> Result<&Buffer> {
        self.memory.buffer().map(|buffer| &**buffer)
    }

    /// Its memory, shared.
    ///
    /// # Errors
    /// As [`Tensor::buffer`].
    pub fn share(&self) -> Result<Arc<Buffer>> {
        self.memory.buffer().cloned()
    }

    /// How many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Its elements, if it is on the CPU.
    ///
    /// # Errors
    /// [`Error::DType`] if they are not `T`; [`Error::Device`] if it is on a GPU.
    pub fn slice<T: Element>(&self) -> Result<&[T]> {
        self.expect_dtype(T::DTYPE)?;
        Ok(bytemuck::cast_slice(self.buffer()?.host()?))
    }

    /// Its elements for writing, if it is on the CPU; copied first if another tensor shares them.
    ///
    /// # Errors
    /// As [`Tensor::slice`].
    pub fn slice_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.expect_dtype(T::DTYPE)?;
        Ok(bytemuck::cast_slice_mut(self.buffer_mut()?.host_mut()?))
    }

    /// Its memory for writing; copied first if another tensor shares it.
    pub fn buffer_mut(&mut self) -> Result<&mut Buffer> {
        self.largest = None;
        self.memory.buffer_mut()
    }

    /// The largest element of a u32 tensor, if it has one; known without a copy where it came from host memory.
    ///
    /// # Errors
    /// [`Error::DType`] if its elements are not u32.
    pub fn largest(&self) -> Result<Option<u32>> {
        match self.largest {
            Some(known) => Ok(Some(known)),
            None => Ok(largest(&self.to_vec()?)),
        }
    }

    /// Itself as what a kernel reads, if it is on a GPU.
    pub fn as_input(&self) -> Result<Arg> {
        self.buffer()?.as_input()
    }

    /// Itself as what a kernel writes, if it is on a GPU; copied first if another tensor shares it.
    pub fn as_output(&mut self) -> Result<Arg> {
        self.buffer_mut()?.as_output()
    }

    /// A copy of its elements in host memory, from any device.
    ///
    /// # Errors
    /// [`Error::DType`] if they are not `T`.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.to_device(&Device::Cpu)?.slice().map(<[T]>::to_vec)
    }

    /// A copy of its rows `range`. Not differentiated.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not have them.
    pub fn copy_rows(&self, range: Range<usize>) -> Result<Self> {
        let width = self.shape.last();
        let mut rows = Self::uninit(&self.device(), self.dtype, [range.len(), width])?;
        rows.write(0, self, range)?;
        Ok(rows)
    }

    /// Writes all rows of `rows` over its own from the row `first` on.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit; [`Error::DType`] if the dtypes differ.
    pub fn write_rows(&mut self, first: usize, rows: &Self) -> Result<()> {
        self.write(first, rows, 0..rows.shape.rows())
    }

    fn write(&mut self, first: usize, from: &Self, range: Range<usize>) -> Result<()> {
        from.expect_dtype(self.dtype)?;
        let (width, end) = (self.shape.last(), first.saturating_add(range.len()));
        let fits = from.shape.last() == width && range.end <= from.shape.rows() && end <= self.shape.rows();
        if !fits || range.end < range.start {
            let detail = format!("rows {range:?} of {} do not fit {} from row {first} on", from.shape, self.shape);
            return Err(Error::shape("tensor", detail));
        }
        let row = width * self.dtype.size();
        self.buffer_mut()?.copy_from(first * row, from.buffer()?, range.start * row..range.end * row)
    }

    /// The tensor on `device`; shares memory if it is there already. Not differentiated.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if device.is_same(&self.device()) {
            return Ok(self.detach());
        }
        Ok(Self { largest: self.largest, ..Self::new(self.shape, self.dtype, self.buffer()?.to_device(device)?) })
    }

    /// The tensor's elements under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let (from, to) = (self.shape, shape.into());
        if from.numel() != to.numel() {
            return Err(Error::shape("reshape", format!("{from} does not have as many elements as {to}")));
        }
        let view = Self { shape: to, output: None, ..self.clone() };
        let [view] = super::record([self], [view], move |[dy]| Ok([dy.map(|dy| dy.reshape(from)).transpose()?]));
        Ok(view)
    }

    /// The tensor as a leaf of the tape, whose gradient [`super::backward`] returns.
    #[must_use]
    pub fn with_grad(self) -> Self {
        Self { output: Some(Output::leaf()), ..self }
    }

    /// The tensor without its place on the tape.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { output: None, ..self.clone() }
    }

    /// Whether a gradient can flow to it.
    pub fn is_tracked(&self) -> bool {
        self.output.is_some()
    }

    pub(super) fn output(&self) -> Option<&Output> {
        self.output.as_ref()
    }

    pub(super) fn with_output(self, output: Output) -> Self {
        Self { output: Some(output), ..self }
    }

    fn expect_dtype(&self, wanted: DType) -> Result<()> {
        if self.dtype == wanted {
            return Ok(());
        }
        Err(Error::dtype("tensor", format!("holds {}, not {wanted}", self.dtype)))
    }
}

fn largest(elements: &[u32]) -> Option<u32> {
    elements.iter().copied().max()
}
