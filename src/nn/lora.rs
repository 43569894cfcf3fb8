//! Low-rank adapters. Hu et al. 2021, <https://arxiv.org/abs/2106.09685>

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{DropoutSeed, Parameter};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::dropout::Dropout;
use crate::ops::elementwise::cast;
use crate::ops::lora::Adapter;
use crate::ops::matmul::matmul;
use crate::shape::Shape;

/// An adapter of one linear layer: `scaling * (dropout(x) Aᵀ) Bᵀ` is added to its output.
#[derive(Debug)]
pub struct Lora {
    /// `[R, in]`, f32.
    pub a: Parameter,
    /// `[out, R]`, f32.
    pub b: Parameter,
    /// `alpha / r`, or `alpha / sqrt(r)` with rslora.
    pub scaling: f32,
    /// The probability that an element of the adapter's input is dropped in training.
    pub dropout: f32,
    /// The layer's number within the model: what its initial values depend on, and its mask, if no adapter before it has
    /// the same input.
    pub site: u32,
}

/// What a fresh adapter is made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraInit {
    /// R.
    pub r: usize,
    /// The factor of the adapter's output, as in [`Lora`].
    pub scaling: f32,
    /// The probability of dropout, as in [`Lora`].
    pub dropout: f32,
    /// The run's seed.
    pub seed: u64,
}

/// The weights of an adapter at one moment.
pub(super) struct Weights {
    a: Tensor,
    b: Tensor,
    scaling: f32,
}

impl Weights {
    /// The adapter as the op takes it.
    pub(super) fn adapter(&self) -> Adapter<'_> {
        Adapter { a: &self.a, b: &self.b, scaling: self.scaling }
    }
}

impl Lora {
    /// PEFT's initial values: `A` uniform in ±1/sqrt(in), `B` zero, so that the model starts unchanged.
    /// `weight` is the layer's shape, `[out, in]`.
    pub fn new(init: LoraInit, site: u32, weight: Shape, device: &Device) -> Result<Self> {
        let LoraInit { r, scaling, dropout, seed } = init;
        let (out_features, in_features) = (weight.rows(), weight.last());
        if r == 0 {
            return Err(Error::input("--lora-r", "the rank of an adapter must be at least 1"));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::from(site));
        let bound = 1.0 / (in_features as f32).sqrt();
        let a: Vec<f32> = (0..r * in_features).map(|_| bound * (2.0 * rng.random::<f32>() - 1.0)).collect();
        Ok(Self {
            a: Parameter::new(Tensor::from_slice(device, [r, in_features], &a)?.with_grad()),
            b: Parameter::new(Tensor::zeros(device, DType::F32, [out_features, r])?.with_grad()),
            scaling,
            dropout,
            site,
        })
    }

    /// Its weights as they are now.
    pub(super) fn weights(&self) -> Weights {
        Weights { a: self.a.get(), b: self.b.get(), scaling: self.scaling }
    }

    /// Two factors of the adapter's part of the output, in the dtype of `x`: `dropout(x) Aᵀ` `[rows, R]` and `scaling * B`
    /// `[out, R]`, for a product that another op ends in.
    pub fn factors(&self, x: &Tensor, dropout: Option<DropoutSeed>) -> Result<[Tensor; 2]> {
        let dropped = self.key(x, dropout).map_or_else(|| Ok(x.clone()), |key| ops::dropout::dropout(x, key))?;
        let (a, b) = (self.a.get(), self.b.get());
        let r = a.shape().rows();
        let mut diagonal = vec![0.0; r * r];
        diagonal.iter_mut().step_by(r + 1).for_each(|scaling| *scaling = self.scaling);
        let scaled_b = matmul(&b, &Tensor::from_slice(&x.device(), [r, r], &diagonal)?)?;
        Ok([matmul(&dropped, &a)?, cast(&scaled_b, x.dtype())?])
    }

    /// The key of the mask over `x` of the layers that share it, of which this is the first one's adapter.
    pub(super) fn key(&self, x: &Tensor, dropout: Option<DropoutSeed>) -> Option<Dropout> {
        let seed = dropout.filter(|_| self.dropout > 0.0)?;
        Some(seed.key(self.dropout, self.site, x.shape().last()))
    }
}
