//! The tables by which one launch works on many tensors, as `cuda/tensors.cuh` reads them.

use bytemuck::{Pod, Zeroable};

use crate::autograd::Tensor;
use crate::device::{Arg, Buffer, Device};
use crate::dtype::DType;
use crate::error::Result;

/// Elements of a tensor that one block handles.
const CHUNK: u64 = 8192;

/// Device addresses of a parameter, its gradient and its state; 0 where a kernel does not use one.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Record {
    pub parameter: u64,
    pub gradient: u64,
    pub m: u64,
    pub v: u64,
    /// Elements of each.
    pub n: u64,
    /// The number of its first chunk, which the table counts.
    pub first: u32,
    pub gradient_is_bf16: u32,
}

/// The chunks of a tensor of `n` elements.
pub fn chunks(n: usize) -> usize {
    n.div_ceil(CHUNK as usize)
}

impl Record {
    /// A record of a gradient alone.
    pub fn new(gradient: &Tensor) -> Result<Self> {
        Ok(Self {
            gradient: gradient.buffer()?.device_ptr()?.address(),
            n: gradient.shape().numel() as u64,
            gradient_is_bf16: (gradient.dtype() == DType::Bf16).into(),
            ..Self::zeroed()
        })
    }
}

/// Both tables, on the device.
pub struct TensorTable {
    tensors: Buffer,
    chunks: Buffer,
    /// Chunks in all: the blocks of the launch.
    pub blocks: usize,
}

impl TensorTable {
    /// The chunks come in the order of the records.
    pub fn new(device: &Device, mut records: Vec<Record>) -> Result<Self> {
        let mut chunks: Vec<u32> = Vec::new();
        for (i, record) in records.iter_mut().enumerate() {
            record.first = chunks.len() as u32;
            chunks.extend((0..record.n.div_ceil(CHUNK)).map(|_| i as u32));
        }
        Ok(Self {
            tensors: Buffer::from_bytes(device, bytemuck::cast_slice(&records))?,
            chunks: Buffer::from_bytes(device, bytemuck::cast_slice(&chunks))?,
            blocks: chunks.len(),
        })
    }

    /// Both as arguments.
    pub fn as_inputs(&self) -> Result<[Arg; 2]> {
        Ok([self.tensors.as_input()?, self.chunks.as_input()?])
    }
}

#[cfg(test)]
mod tests {
    use super::CHUNK;

    #[test]
    fn the_kernels_take_chunks_of_the_same_size() {
        let header = include_str!("../../cuda/tensors.cuh");
        assert!(header.contains(&format!("constexpr int64_t CHUNK = {CHUNK};")));
    }
}
