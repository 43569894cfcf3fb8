//! Layers that hold weights.

use std::sync::OnceLock;

use super::lora::{Lora, Weights};
use super::{Parameter, Pass, Weight};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::elementwise::{add, cast};
use crate::ops::embedding::embedding;
use crate::ops::int8_matmul::MadeRows;
use crate::ops::lora::{Operands, Projection, linears_of_rows};
use crate::ops::matmul::matmul;
use crate::ops::rmsnorm::{rmsnorm_int8, rmsnorm_residual_int8};
use crate::ops::weight::Quantized;

/// `x Wᵀ`, with a bias and an adapter or without.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`, added to every row.
    pub bias: Option<Parameter>,
    lora: OnceLock<Lora>,
}

impl Linear {
    /// A layer without adapter.
    pub fn new(weight: impl Into<Weight>, bias: Option<Tensor>) -> Self {
        Self { weight: weight.into(), bias: bias.map(Parameter::new), lora: OnceLock::new() }
    }

    /// A layer without adapter whose weight is another's too.
    pub fn tied(weight: &Parameter) -> Self {
        Self { weight: Weight::Dense(weight.clone()), bias: None, lora: OnceLock::new() }
    }

    /// Puts `lora` on top of the weight.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layer has an adapter already or the shapes do not fit.
    pub fn attach(&self, lora: Lora) -> Result<()> {
        let (w, a, b) = (self.weight.shape(), lora.a.get().shape(), lora.b.get().shape());
        let r = a.rows();
        if a != [r, w.last()].into() || b != [w.rows(), r].into() {
            return Err(Error::shape("lora", format!("A {a} and B {b} do not fit the weight {w}")));
        }
        self.lora.set(lora).map_err(|_| Error::shape("lora", "the layer has an adapter already"))
    }

    /// Its adapter.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.get()
    }

    /// What is added to the product: `residual`, and the bias in every row. A bias is the weight of one more input that
    /// is always 1, so that the products of matrices sum its gradient too.
    fn addend(&self, residual: Option<&Tensor>, pass: &Pass) -> Result<Option<Tensor>> {
        let Some(bias) = self.bias.as_ref().map(Parameter::get) else { return Ok(residual.cloned()) };
        let ones = pass.ones.as_ref().ok_or_else(|| Error::shape("linear", "a bias needs the pass's ones"))?;
        let rows = matmul(ones, &bias.reshape([bias.shape().numel(), 1])?)?;
        residual.map_or_else(|| Ok(rows.clone()), |residual| add(residual, &rows)).map(Some)
    }
}

/// The threshold of the first of some layers that is in int8.
pub fn int8_threshold(layers: &[Linear]) -> Option<f32> {
    layers.iter().find_map(|layer| match &**layer.weight.quantized()? {
        Quantized::Int8(weight) => Some(weight.method().threshold),
        Quantized::FourBit(_) => None,
    })
}

/// The adapters of layers, as their products read them: of each group of layers that share an input. One launch for all.
///
/// # Errors
/// Those of the device.
pub fn operands(groups: &[&[Linear]], dtype: DType, device: &Device) -> Result<Vec<Operands>> {
    let weights = |group: &&[Linear]| group.iter().map(|linear| linear.lora().map(Lora::weights)).collect();
    let held: Vec<Vec<_>> = groups.iter().map(weights).collect();
    let mut adapters = Vec::with_capacity(held.len());
    for group in &held {
        adapters.push(group.iter().map(|held| held.as_ref().map(Weights::adapter)).collect::<Vec<_>>());
    }
    Operands::of_groups(device, dtype, &adapters)
}

/// The outputs of layers that share the input `x`: `[rows, in]` → `[rows, out]` each, plus `residual`; with `x` its rows as
/// integers, if they were made with it.
///
/// # Errors
/// As [`linears_of_rows`].
pub fn project<const N: usize>(
    layers: [&Linear; N],
    x: (&Tensor, Option<&MadeRows>),
    residual: Option<&Tensor>,
    operands: &Operands,
    pass: &Pass,
) -> Result<[Tensor; N]> {
    let (x, rows) = x;
    let mut held = Vec::with_capacity(N);
    for layer in layers {
        let weight = layer.weight.parameter().map(|parameter| cast(&parameter.get(), x.dtype())).transpose()?;
        held.push((layer.weight.for_use(), weight, layer.lora().map(Lora::weights), layer.addend(residual, pass)?));
    }
    let mut projections = Vec::with_capacity(N);
    for (weight, dense, adapter, residual) in &held {
        let none = || Error::shape("linear", "a layer without weight");
        let weight = weight.operand(dense.as_ref()).ok_or_else(none)?;
        let adapter = adapter.as_ref().map(Weights::adapter);
        projections.push(Projection { weight, adapter, residual: residual.as_ref() });
    }
    let dropout = layers.iter().find_map(|layer| layer.lora()).and_then(|lora| lora.key(x, pass.dropout));
    let ys = linears_of_rows(x, rows, &projections, operands, dropout)?;
    ys.try_into().map_err(|_| Error::shape("linear", "one output a layer"))
}

/// Root-mean-square normalisation.
#[derive(Debug)]
pub struct RmsNorm {
    /// `[H]`.
    pub weight: Parameter,
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm {
    /// `[rows, H]` → `[rows, H]`, and the rows of the result for int8 weights of that `threshold`.
    pub fn forward(&self, x: &Tensor, threshold: Option<f32>) -> Result<(Tensor, Option<MadeRows>)> {
        rmsnorm_int8(x, &cast(&self.weight.get(), x.dtype())?, self.eps, threshold)
    }

    /// The norm of `x + residual`, that sum, and the rows of the norm for int8 weights of that `threshold`.
    pub fn forward_residual(
        &self,
        x: &Tensor,
        residual: &Tensor,
        threshold: Option<f32>,
    ) -> Result<(Tensor, Tensor, Option<MadeRows>)> {
        rmsnorm_residual_int8(x, residual, &cast(&self.weight.get(), x.dtype())?, self.eps, threshold)
    }
}

/// A table of token vectors.
#[derive(Debug)]
pub struct Embedding {
    /// `[V, H]`.
    pub weight: Parameter,
}

impl Embedding {
    /// u32 `[rows]` → `[rows, H]`.
    pub fn forward(&self, input_ids: &Tensor) -> Result<Tensor> {
        embedding(input_ids, &self.weight.get())
    }
}
