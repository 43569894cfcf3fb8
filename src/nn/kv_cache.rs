//! Keys and values of the tokens that a generation has seen.

use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};

/// One layer's keys and values, `[capacity, NKV*D]` each.
#[derive(Debug)]
pub struct LayerCache {
    keys: Tensor,
    values: Tensor,
    rows: usize,
}

impl LayerCache {
    /// Appends rows `[n, NKV*D]`; returns all keys, all values, and how many of their rows count.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit the cache.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(&Tensor, &Tensor, usize)> {
        match k.dtype() {
            DType::Bf16 => {
                write_rows::<half::bf16>(&mut self.keys, self.rows, k)?;
                write_rows::<half::bf16>(&mut self.values, self.rows, v)?;
            }
            _ => {
                write_rows::<f32>(&mut self.keys, self.rows, k)?;
                write_rows::<f32>(&mut self.values, self.rows, v)?;
            }
        }
        self.rows += k.shape().rows();
        Ok((&self.keys, &self.values, self.rows))
    }
}

fn write_rows<T: Element>(to: &mut Tensor, first: usize, rows: &Tensor) -> Result<()> {
    let (capacity, width) = (to.shape(), to.shape().last());
    let target = to.slice_mut::<T>()?.get_mut(first * width..first * width + rows.shape().numel());
    match target {
        Some(target) if rows.shape().last() == width => target.copy_from_slice(rows.slice()?),
        _ => {
            return Err(Error::shape("kv_cache", format!("{} rows after {first} do not fit {capacity}", rows.shape())));
        }
    }
    Ok(())
}

/// The caches of all layers.
#[derive(Debug)]
pub struct KvCache {
    /// One per block.
    pub layers: Vec<LayerCache>,
    rows: usize,
}

impl KvCache {
    /// Room for `capacity` tokens in each of `layers` layers, `width` = NKV*D.
    pub fn new(layers: usize, capacity: usize, width: usize, dtype: DType, device: &Device) -> Result<Self> {
        let empty = || Tensor::uninit(device, dtype, [capacity, width]);
        let layer = || Ok(LayerCache { keys: empty()?, values: empty()?, rows: 0 });
        Ok(Self { layers: (0..layers).map(|_| layer()).collect::<Result<_>>()?, rows: 0 })
    }

    /// How many tokens it holds.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Counts tokens that were appended to every layer.
    pub fn advance(&mut self, rows: usize) {
        self.rows += rows;
    }
}
