//! Keys and values of the tokens that a generation has seen.

use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;

/// One layer's keys and values, `[capacity, NKV*D]` each.
#[derive(Debug)]
pub struct LayerCache {
    keys: Tensor,
    values: Tensor,
    rows: usize,
}

impl LayerCache {
    /// Appends rows `[n, NKV*D]`; returns all keys and all values.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::error::Error::Shape) if they do not fit the cache.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(&Tensor, &Tensor)> {
        self.keys.write_rows(self.rows, k)?;
        self.values.write_rows(self.rows, v)?;
        self.rows += k.shape().rows();
        Ok((&self.keys, &self.values))
    }
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

    /// Forgets all but the first `rows` tokens.
    pub fn keep(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        self.layers.iter_mut().for_each(|layer| layer.rows = layer.rows.min(rows));
    }

    /// Counts tokens that were appended to every layer.
    pub fn advance(&mut self, rows: usize) {
        self.rows += rows;
    }
}
