//! Rank first, in the dtype of `x`: the adapter rides in its base layer's product as a second term.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::{Adapter, Call, Gradients, OP, Projection, Saved, SavedAdapter};
use crate::autograd::Tensor;
use crate::device::{Buffer, Device, Launch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::dropout::Dropout;
use crate::ops::elementwise::cast;
use crate::ops::gemm::cuda::{Matrix, Place, Product, product};
use crate::ops::gemm::with_last;
use crate::ops::int8_matmul::{self, GpuRows, Int8, MadeRows};
use crate::ops::nf4;
use crate::ops::weight::{Quantized, Weight};
use crate::shape::Shape;

pub use crate::ops::gemm::cuda::DROPOUT_KERNELS as KERNELS;

/// The adapters of a group of projections, side by side: their ranks together are S, each rounded up to 8, so that rows of
/// 16 bytes stay such rows.
#[derive(Clone, Debug)]
pub struct Operands {
    /// Every adapter's `a` below the one before, `[S, K]`; of no rows without adapters.
    a: Arc<Tensor>,
    /// The adapter of each projection, or none.
    adapters: Arc<Vec<Option<Placed>>>,
}

/// An adapter among others.
#[derive(Debug)]
struct Placed {
    /// Its columns of `[rows, S]`.
    columns: Range<usize>,
    /// `scaling * b`, zeros behind its last column.
    b: Tensor,
}

/// A matrix of an adapter, as `cuda/lora.cu` reads it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Record {
    from: u64,
    to: u64,
    rows: u32,
    columns: u32,
    padded_rows: u32,
    padded_columns: u32,
    scale: f32,
    unused: u32,
}

impl Operands {
    /// The operands of several groups of projections, on a GPU; one launch for all.
    pub fn of_groups(
        device: &Device,
        dtype: DType,
        groups: &[Vec<Option<Adapter<'_>>>],
    ) -> Result<Vec<super::Operands>> {
        let mut records = Vec::new();
        let group = |group: &Vec<_>| Ok(super::Operands(Some(Self::reserve(device, dtype, group, &mut records)?)));
        let operands = groups.iter().map(group).collect::<Result<Vec<_>>>()?;
        if !records.is_empty() {
            let table = Buffer::from_bytes(device, bytemuck::cast_slice(&records))?;
            // Blocks of 256 elements, 8 a thread or more.
            let largest = records.iter().map(|r| (r.padded_rows * r.padded_columns) as usize).max().unwrap_or(0);
            let grid = [records.len(), largest.div_ceil(2048).clamp(1, 64), 1];
            let kernel = format!("lora_operands_{dtype}");
            let args = [table.as_input()?];
            KERNELS.launch(device, &Launch { kernel: &kernel, grid, block: 256, shared: 0, args: &args })?;
        }
        Ok(operands)
    }

    /// Room for a group's operands, and what a launch writes there.
    fn reserve(
        device: &Device,
        dtype: DType,
        group: &[Option<Adapter<'_>>],
        records: &mut Vec<Record>,
    ) -> Result<Self> {
        let padded = |r: usize| r.next_multiple_of(8);
        let ranks = group.iter().flatten().map(|adapter| padded(adapter.a.shape().rows()));
        let columns = group.iter().flatten().next().map_or(0, |adapter| adapter.a.shape().last());
        let mut a = Tensor::uninit(device, dtype, [ranks.sum(), columns])?;
        let (all, mut first, mut adapters) = (a.buffer_mut()?.as_output()?, 0, Vec::new());
        for adapter in group {
            let Some(Adapter { a, b, scaling }) = adapter else {
                adapters.push(None);
                continue;
            };
            let (r, n) = (a.shape().rows(), b.shape().rows());
            let mut scaled = Tensor::uninit(device, dtype, [n, padded(r)])?;
            let record = |from: &Tensor, to: u64, sizes: [usize; 4], scale| -> Result<Record> {
                let [rows, columns, padded_rows, padded_columns] = sizes.map(|size| size as u32);
                let from = from.as_input()?.bits();
                Ok(Record { from, to, rows, columns, padded_rows, padded_columns, scale, unused: 0 })
            };
            let to = all.bits() + (first * columns * dtype.size()) as u64;
            records.push(record(a, to, [r, columns, padded(r), columns], 1.0)?);
            records.push(record(b, scaled.as_output()?.bits(), [n, r, n, padded(r)], *scaling)?);
            adapters.push(Some(Placed { columns: first..first + padded(r), b: scaled }));
            first += padded(r);
        }
        Ok(Self { a: Arc::new(a), adapters: Arc::new(adapters) })
    }

    fn of(operands: &super::Operands) -> Result<&Self> {
        operands.0.as_ref().ok_or_else(|| Error::shape(OP, "the adapters' operands are another device's"))
    }

    /// Refuses projections with other adapters than those that these operands were made of, as far as shapes tell.
    fn refuse_misfits(&self, projections: &[Projection<'_>]) -> Result<()> {
        let fits = |(projection, placed): (&Projection<'_>, &Option<Placed>)| match (&projection.adapter, placed) {
            (Some(adapter), Some(Placed { b, .. })) => {
                let &[n, r] = adapter.b.dims() else { return false };
                b.shape() == [n, r.next_multiple_of(8)].into()
            }
            (adapter, placed) => adapter.is_none() && placed.is_none(),
        };
        let all_fit = projections.len() == self.adapters.len() && projections.iter().zip(&*self.adapters).all(fits);
        if all_fit { Ok(()) } else { Err(Error::shape(OP, "the operands are those of other adapters")) }
    }

    fn adapter(&self, i: usize) -> Option<&Placed> {
        self.adapters.get(i).and_then(Option::as_ref)
    }

    /// S.
    fn rank(&self) -> usize {
        self.a.shape().rows()
    }
}

/// `y = [x | xa] · [weight | b]ᵀ + residual` of each projection, and `xa = dropout(x) · aᵀ` `[rows, S]` of all.
pub fn forward(
    x: &Tensor,
    rows: Option<&MadeRows>,
    projections: &[Projection<'_>],
    operands: &super::Operands,
    dropout: Option<Dropout>,
) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    let (device, dtype, operands) = (x.device(), x.dtype(), Operands::of(operands)?);
    operands.refuse_misfits(projections)?;
    let mut xa = Vec::new();
    if operands.rank() > 0 {
        let mut product = Tensor::uninit(&device, dtype, [x.shape().rows(), operands.rank()])?;
        let terms = [[matrix(x)?, matrix(&operands.a)?.t()]];
        let dropout = dropout.map(|key| (Place::A, key));
        Product { dropout, ..Product::new(&terms) }.run(&device, Matrix::output(OP, &mut product)?)?;
        xa.push(product);
    }
    let (mut ys, mut quantized) = (Vec::new(), rows.map(|rows| rows.0.clone()));
    for (i, Projection { weight, residual, .. }) in projections.iter().enumerate() {
        let mut y = Tensor::uninit(&device, dtype, with_last(OP, x.shape(), weight.shape().rows())?)?;
        let out = Matrix::output(OP, &mut y)?;
        let addend = residual.map(matrix).transpose()?;
        let adapter = match (operands.adapter(i), xa.first()) {
            (Some(Placed { columns, b }), Some(xa)) => Some([matrix(xa)?.columns(columns.clone())?, matrix(b)?.t()]),
            _ => None,
        };
        match weight.quantized() {
            Some(Quantized::Int8(weight)) => {
                rows_for(x, weight, &mut quantized)?.forward(x, weight, adapter, addend, out)?;
            }
            Some(Quantized::FourBit(weight)) => nf4::gpu_forward(x, weight, adapter, addend, out)?,
            None => {
                let weight = cast(&dense(*weight)?.detach(), dtype)?;
                let mut terms = vec![[matrix(x)?, matrix(&weight)?.t()]];
                terms.extend(adapter);
                Product { addend, ..Product::new(&terms) }.run(&device, out)?;
            }
        }
        ys.push(y);
    }
    Ok((ys, xa))
}

/// The rows of `x` as integers for `weight`: those that are `known`, if they are for weights of its threshold, or made now.
fn rows_for<'a>(x: &Tensor, weight: &Int8, known: &'a mut Option<Arc<GpuRows>>) -> Result<&'a GpuRows> {
    let threshold = weight.method().threshold;
    Ok(match known.take_if(|rows| rows.are_for(x, threshold)) {
        Some(rows) => known.insert(rows),
        None => known.insert(Arc::new(GpuRows::of(x, threshold)?)),
    })
}

/// The gradients of `x` and of each projection.
pub fn backward(call: &Call, dys: &[Option<Tensor>], xa: &[Tensor]) -> Result<(Option<Tensor>, Vec<Gradients>)> {
    let operands = Operands::of(&call.operands)?;
    let dxa = backward_xa(dys, operands)?;
    let dx = call.dx.map(|shape| backward_x(call, dys, dxa.as_ref(), operands, shape)).transpose()?.flatten();
    let mut das = backward_a(call, dxa.as_ref(), operands)?.into_iter();
    let mut gradients = Vec::new();
    for (i, (Saved { dtype, adapter, wanted, .. }, dy)) in call.projections.iter().zip(dys).enumerate() {
        let da = das.next().flatten();
        let (Some(dy), [want_dw, want_da, want_db]) = (dy, *wanted) else {
            gradients.push([None, None, None]);
            continue;
        };
        let dw = call.x.as_ref().filter(|_| want_dw).map(|x| backward_weight(dy, x, *dtype)).transpose()?;
        let db = match (operands.adapter(i), adapter, xa.first()) {
            (Some(Placed { columns, .. }), Some(adapter), Some(xa)) if want_db => {
                Some(backward_b(dy, matrix(xa)?.columns(columns.clone())?, adapter)?)
            }
            _ => None,
        };
        gradients.push([dw, da.filter(|_| want_da), db]);
    }
    Ok((dx, gradients))
}

/// `dxa = dy · scaling * b` of each adapter side by side, `[rows, S]`: the gradient of `dropout(x) · aᵀ`.
fn backward_xa(dys: &[Option<Tensor>], operands: &Operands) -> Result<Option<Tensor>> {
    let Some(dy) = dys.iter().flatten().next().filter(|_| operands.rank() > 0) else { return Ok(None) };
    let is_whole = dys.iter().enumerate().all(|(i, dy)| dy.is_some() || operands.adapter(i).is_none());
    let new = if is_whole { Tensor::uninit } else { Tensor::zeros };
    let mut dxa = new(&dy.device(), dy.dtype(), Shape::from([dy.shape().rows(), operands.rank()]))?;
    let out = Matrix::output(OP, &mut dxa)?;
    for (i, dy) in dys.iter().enumerate() {
        if let (Some(Placed { columns, b }), Some(dy)) = (operands.adapter(i), dy) {
            Product::new(&[[matrix(dy)?, matrix(b)?]]).run(&dy.device(), out.columns(columns.clone())?)?;
        }
    }
    Ok(Some(dxa))
}

/// `dx = dropout(dxa · a) + sum of dy · weight`, one projection after another.
fn backward_x(
    call: &Call,
    dys: &[Option<Tensor>],
    dxa: Option<&Tensor>,
    operands: &Operands,
    shape: Shape,
) -> Result<Option<Tensor>> {
    let mut sum: Option<Tensor> = None;
    for (Saved { weight, .. }, dy) in call.projections.iter().zip(dys) {
        let (Some(weight), Some(dy)) = (weight, dy) else { continue };
        let (device, dtype, weight) = (dy.device(), dy.dtype(), weight.as_weight());
        let is_first = sum.is_none();
        let adapters = dxa.filter(|_| is_first).map(|dxa| Ok([matrix(dxa)?, matrix(&operands.a)?])).transpose()?;
        let mut dx = sum.map_or_else(|| Tensor::uninit(&device, dtype, shape), Ok)?;
        let out = Matrix::output(OP, &mut dx)?;
        let mut addend = (!is_first).then_some(out);
        let product = |terms: &[[Matrix<'_>; 2]], addend| {
            let dropout = call.dropout.filter(|_| terms.len() == 2).map(|key| (Place::Extension, key));
            Product { dropout, addend, ..Product::new(terms) }.run(&device, out)
        };
        if let (Some(_), Some([dxa, a])) = (weight.quantized(), adapters) {
            // Beside a base of no columns.
            product(&[[dxa.columns(0..0)?, a.first_rows(0)], [dxa, a]], addend)?;
            addend = Some(out);
        }
        match weight.quantized() {
            Some(Quantized::Int8(weight)) => int8_matmul::gpu_backward_x(dy, weight, addend, out)?,
            Some(Quantized::FourBit(weight)) => nf4::gpu_backward_x(dy, weight, addend, out)?,
            None => {
                let weight = cast(dense(weight)?, dtype)?;
                let mut terms = vec![[matrix(dy)?, matrix(&weight)?]];
                terms.extend(adapters);
                product(&terms, addend)?;
            }
        }
        sum = Some(dx);
    }
    Ok(sum)
}

/// `da = dxaᵀ · dropout(x)` of each projection with an adapter.
fn backward_a(call: &Call, dxa: Option<&Tensor>, operands: &Operands) -> Result<Vec<Option<Tensor>>> {
    let none = || vec![None; call.projections.len()];
    let (Some(dxa), Some(x)) = (dxa, &call.x) else { return Ok(none()) };
    if !call.projections.iter().any(|projection| projection.wanted[1]) {
        return Ok(none());
    }
    let mut all = Tensor::uninit(&x.device(), DType::F32, operands.a.shape())?;
    let (terms, dropout) = ([[matrix(dxa)?.t(), matrix(x)?]], call.dropout.map(|key| (Place::B, key)));
    Product { dropout, ..Product::new(&terms) }.run(&x.device(), Matrix::output(OP, &mut all)?)?;
    let of = |(i, projection): (usize, &Saved)| {
        let (Some(SavedAdapter { a, .. }), Some(Placed { columns, .. })) = (&projection.adapter, operands.adapter(i))
        else {
            return Ok(None);
        };
        let rows = columns.start..columns.start + a.shape().rows();
        Ok(Some(if rows.len() == operands.rank() { all.clone() } else { all.copy_rows(rows)? }))
    };
    call.projections.iter().enumerate().map(of).collect()
}

/// `db = scaling * dyᵀ · xa`.
fn backward_b(dy: &Tensor, xa: Matrix<'_>, adapter: &SavedAdapter) -> Result<Tensor> {
    let mut db = Tensor::uninit(&dy.device(), DType::F32, adapter.b.shape())?;
    let terms = [[matrix(dy)?.t(), xa.columns(0..adapter.b.shape().last())?]];
    Product { alpha: adapter.scaling, ..Product::new(&terms) }.run(&dy.device(), Matrix::output(OP, &mut db)?)?;
    Ok(db)
}

/// `dw = dyᵀ · x`, for a base layer that is trained too.
fn backward_weight(dy: &Tensor, x: &Tensor, dtype: DType) -> Result<Tensor> {
    let shape = [dy.shape().last(), x.shape().last()];
    product(OP, &dy.device(), shape, dtype, 1.0, &[[matrix(dy)?.t(), matrix(x)?]])
}

fn dense(weight: Weight<'_>) -> Result<&Tensor> {
    weight.dense().ok_or_else(|| Error::dtype(OP, "a weight that was packed for the CPU is on a GPU"))
}

fn matrix(x: &Tensor) -> Result<Matrix<'_>> {
    Matrix::new(OP, x)
}
