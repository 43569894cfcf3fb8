//! The tables by which one launch works on many tensors, as `cuda/tensors.cuh` reads them.

use bytemuck::{Pod, Zeroable};

use crate::device::{Arg, Buffer, Device};
use crate::error::Result;

/// Elements of a tensor that one block handles.
const CHUNK: usize = 8192;

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
    pub fn new(device: &Device, records: &[Record]) -> Result<Self> {
        let chunks_of = |(tensor, record): (usize, &Record)| {
            (0..chunks(record.n as usize)).map(move |index| [tensor as u32, index as u32])
        };
        let chunks: Vec<[u32; 2]> = records.iter().enumerate().flat_map(chunks_of).collect();
        Ok(Self {
            tensors: Buffer::from_bytes(device, bytemuck::cast_slice(records))?,
            chunks: Buffer::from_bytes(device, bytemuck::cast_slice(&chunks))?,
            blocks: chunks.len(),
        })
    }

    /// Both as arguments.
    pub fn as_inputs(&self) -> Result<[Arg; 2]> {
        Ok([self.tensors.as_input()?, self.chunks.as_input()?])
    }
}

/// How many chunks `n` elements are.
pub fn chunks(n: usize) -> usize {
    n.div_ceil(CHUNK)
}
