//! Rank first: every product has one side of R columns or is the base layer's own.

use super::{Call, Gradients, OP, Operands, Projection, Saved, SavedAdapter};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::dropout::{Dropout, dropout};
use crate::ops::elementwise::{add, cast};
use crate::ops::gemm::int8::{self, Addend, Rows, Term};
use crate::ops::gemm::{Matrix, add_product, product, with_last};
use crate::ops::int8_matmul::{Backward, MadeRows, quantize_gradient, quantize_rows};
use crate::ops::weight::{self, Floats};
use crate::shape::Shape;

/// `y = x · weightᵀ + xa · bᵀ + residual` of each projection; `xa = scaling * dropout(x) · aᵀ` `[rows, R]` of each adapter.
pub fn forward(
    x: &Tensor,
    _rows: Option<&MadeRows>,
    projections: &[Projection<'_>],
    _operands: &Operands,
    key: Option<Dropout>,
) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
    let has_adapter = projections.iter().any(|projection| projection.adapter.is_some());
    let dropped = dropped(x, key.filter(|_| has_adapter))?;
    let (mut ys, mut xas, mut rows) = (Vec::new(), Vec::new(), None);
    for projection in projections {
        let xa = projection.adapter.map(|adapter| {
            let shape = [x.shape().rows(), adapter.a.shape().rows()];
            scaled(adapter.scaling, product(OP, shape, DType::F32, &[[matrix(&dropped)?, matrix(adapter.a)?.t()]])?)
        });
        let xa = xa.transpose()?;
        let low_rank = match (projection.adapter, &xa) {
            (Some(adapter), Some(xa)) => vec![[matrix(xa)?, matrix(adapter.b)?.t()]],
            _ => vec![],
        };
        ys.push(forward_one(x, projection, &low_rank, &mut rows)?);
        xas.extend(xa);
    }
    Ok((ys, xas))
}

/// `x · weightᵀ`, the `low_rank` products and the residual. `quantized` are the rows of `x` for weights of one threshold.
fn forward_one(
    x: &Tensor,
    Projection { weight, residual, .. }: &Projection<'_>,
    low_rank: &[[Matrix<'_>; 2]],
    quantized: &mut Option<(f32, Rows)>,
) -> Result<Tensor> {
    let shape = with_last(OP, x.shape(), weight.shape().rows())?;
    let residual = residual.map(Tensor::detach);
    if let Some(weight) = weight.int8() {
        let threshold = weight.method().threshold;
        let (_, rows) = match quantized.take_if(|(of, _)| *of == threshold) {
            Some(known) => quantized.insert(known),
            None => quantized.insert((threshold, quantize_rows(x, threshold)?)),
        };
        let terms = [Term::forward(rows, weight.codes(), weight.scales()?)?];
        let addend = Addend { products: low_rank, residual: residual.as_ref() };
        return int8::product(OP, shape, x.dtype(), &terms, addend);
    }
    let floats = Floats::of(*weight)?;
    let base = [matrix(x)?, floats.matrix(OP)?.t()];
    let y = product(OP, shape, x.dtype(), &[&[base], low_rank].concat())?;
    residual.map_or(Ok(y.clone()), |residual| add(&residual, &y))
}

/// The gradients of `x` and of each projection.
pub fn backward(call: &Call, dys: &[Option<Tensor>], xas: &[Tensor]) -> Result<(Option<Tensor>, Vec<Gradients>)> {
    let wants_a = call.projections.iter().any(|projection| projection.wanted[1]);
    let dropped = call.x.as_ref().map(|x| dropped(x, call.dropout.filter(|_| wants_a))).transpose()?;
    let (mut xas, mut dxas, mut gradients) = (xas.iter(), Vec::new(), Vec::new());
    for (projection, dy) in call.projections.iter().zip(dys) {
        let Saved { dtype, adapter, wanted: [want_dw, want_da, want_db], .. } = projection;
        let xa = if adapter.is_some() { xas.next() } else { None };
        let dxa = adapter.as_ref().zip(dy.as_ref()).map(|(adapter, dy)| backward_xa(adapter, dy)).transpose()?;
        let dw = dy.as_ref().zip(call.x.as_ref()).filter(|_| *want_dw);
        let dw = dw.map(|(dy, x)| transposed(dy, x, *dtype)).transpose()?;
        let da = dxa.as_ref().zip(dropped.as_ref()).filter(|_| *want_da);
        let da = da.map(|(dxa, dropped)| transposed(dxa, dropped, DType::F32)).transpose()?;
        let db = dy.as_ref().zip(xa).filter(|_| *want_db);
        let db = db.map(|(dy, xa)| transposed(dy, xa, DType::F32)).transpose()?;
        gradients.push([dw, da, db]);
        dxas.push(dxa);
    }
    let dx = call.dx.map(|shape| backward_x(call, dys, &dxas, shape)).transpose()?.flatten();
    Ok((dx, gradients))
}

/// `dxa = scaling * dy · b` `[rows, R]`, the gradient of `dropout(x) · aᵀ`.
fn backward_xa(SavedAdapter { b, scaling, .. }: &SavedAdapter, dy: &Tensor) -> Result<Tensor> {
    let shape = [dy.shape().rows(), b.shape().last()];
    scaled(*scaling, product(OP, shape, DType::F32, &[[matrix(dy)?, matrix(b)?]])?)
}

/// `dx = sum of dy · weight + dropout(sum of dxa · a)`.
fn backward_x(call: &Call, dys: &[Option<Tensor>], dxas: &[Option<Tensor>], shape: Shape) -> Result<Option<Tensor>> {
    let Some(dtype) = dys.iter().flatten().next().map(Tensor::dtype) else { return Ok(None) };
    let (mut floats, mut low_rank, mut quantized) = (Vec::new(), Vec::new(), Vec::new());
    for ((Saved { weight, adapter, .. }, dy), dxa) in call.projections.iter().zip(dys).zip(dxas) {
        if let (Some(weight), Some(dy)) = (weight.as_ref().map(weight::Saved::as_weight), dy) {
            match weight.int8().filter(|weight| weight.method().backward == Backward::Int8) {
                Some(weight) => quantized.push((quantize_gradient(dy, weight)?, weight)),
                None => floats.push((matrix(dy)?, Floats::of(weight)?)),
            }
        }
        if let (Some(adapter), Some(dxa)) = (adapter, dxa) {
            low_rank.push([matrix(dxa)?, matrix(&adapter.a)?]);
        }
    }
    let base = floats.iter().map(|(dy, weight)| Ok([*dy, weight.matrix(OP)?]));
    let mut base = base.collect::<Result<Vec<_>>>()?;
    let mut dropped = match call.dropout.filter(|_| !low_rank.is_empty()) {
        Some(key) => Some(dropout(&product(OP, shape, DType::F32, &std::mem::take(&mut low_rank))?, key)?),
        None => None,
    };
    if quantized.is_empty() {
        base.extend(low_rank);
        let Some(mut dx) = dropped else { return product(OP, shape, dtype, &base).map(Some) };
        add_product(dx.slice_mut()?, shape.last(), &base)?;
        return cast(&dx, dtype).map(Some);
    }
    if !base.is_empty() {
        let mut sum = dropped.map_or_else(|| Tensor::zeros(&Device::Cpu, DType::F32, shape), Ok)?;
        add_product(sum.slice_mut()?, shape.last(), &base)?;
        dropped = Some(sum);
    }
    let terms =
        quantized.iter().map(|(rows, weight)| Term::backward(rows, weight.codes())).collect::<Result<Vec<_>>>()?;
    int8::product(OP, shape, dtype, &terms, Addend { products: &low_rank, residual: dropped.as_ref() }).map(Some)
}

/// `leftᵀ · right`: the gradient of a weight is that of its output's and its input.
fn transposed(left: &Tensor, right: &Tensor, dtype: DType) -> Result<Tensor> {
    let shape = [left.shape().last(), right.shape().last()];
    product(OP, shape, dtype, &[[matrix(left)?.t(), matrix(right)?]])
}

/// The adapters' input; in f32 where something is dropped, so that the mask's scale is not rounded to bf16.
fn dropped(x: &Tensor, key: Option<Dropout>) -> Result<Tensor> {
    key.map_or_else(|| Ok(x.clone()), |key| dropout(&cast(x, DType::F32)?, key))
}

fn scaled(scaling: f32, mut x: Tensor) -> Result<Tensor> {
    x.slice_mut::<f32>()?.iter_mut().for_each(|x| *x *= scaling);
    Ok(x)
}

fn matrix(x: &Tensor) -> Result<Matrix<'_>> {
    Matrix::new(OP, x)
}
