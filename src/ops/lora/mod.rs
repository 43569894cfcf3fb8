//! Linear layers that share an input, each with a trained low-rank adapter or without.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use super::dropout::Dropout;
use super::int8_matmul::MadeRows;
use super::weight;
use super::weight::Weight;
use crate::autograd::{Tensor, record_all};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

const OP: &str = "lora";

/// A low-rank adapter of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Adapter<'a> {
    /// `[R, K]`, f32.
    pub a: &'a Tensor,
    /// `[N, R]`, f32.
    pub b: &'a Tensor,
    /// The factor of the adapter's output.
    pub scaling: f32,
}

/// One of the linear layers that share an input.
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    /// `[N, K]`.
    pub weight: Weight<'a>,
    /// The adapter on top.
    pub adapter: Option<Adapter<'a>>,
    /// What is added to the result, `[.., N]`.
    pub residual: Option<&'a Tensor>,
}

/// The adapters of some projections, as the device multiplies them: on a GPU rounded to the dtype of the activations and
/// laid side by side.
#[derive(Clone, Debug)]
pub struct Operands(Option<cuda::Operands>);

impl Operands {
    /// The operands of several groups of projections, each projection with its adapter or none; one launch for all.
    ///
    /// # Errors
    /// Those of the device.
    pub fn of_groups(device: &Device, dtype: DType, groups: &[Vec<Option<Adapter<'_>>>]) -> Result<Vec<Self>> {
        match device {
            Device::Cpu => Ok(vec![Self(None); groups.len()]),
            Device::Cuda(_) => cuda::Operands::of_groups(device, dtype, groups),
        }
    }
}

/// What backward needs of a projection.
struct Saved {
    /// Where the gradient of `x` is wanted.
    weight: Option<weight::Saved>,
    /// The dtype of the weight's gradient.
    dtype: DType,
    adapter: Option<SavedAdapter>,
    /// Which of the gradients of weight, a and b are wanted.
    wanted: [bool; 3],
}

struct SavedAdapter {
    a: Tensor,
    b: Tensor,
    scaling: f32,
}

/// What backward needs of a call.
struct Call {
    /// Where the gradient of a weight or of an `a` is wanted.
    x: Option<Tensor>,
    /// The shape of the gradient of `x`, where it is wanted.
    dx: Option<Shape>,
    projections: Vec<Saved>,
    operands: Operands,
    dropout: Option<Dropout>,
}

/// The gradients of a projection's weight, a and b.
type Gradients = [Option<Tensor>; 3];

/// `x · weightᵀ + scaling · (dropout(x) · lora_aᵀ) · lora_bᵀ + residual` of each projection:
/// [`matmul`](super::matmul::matmul)s of one `x`, with low-rank adapters or without.
///
/// Base and adapter, and on a GPU `residual`, are summed in f32 and rounded once. `lora_b · lora_a` is never formed,
/// neither forward nor backward. `x` is multiplied by all `lora_a` at once, so all adapters see it under one mask, and its
/// gradients are added up where they arise.
///
/// A frozen int8 weight multiplies `x` as [`int8_matmul`](super::int8_matmul) says.
///
/// - Shapes: `x` `[.., K]`, `weight` `[N, K]`, `lora_a` `[R, K]`, `lora_b` `[N, R]`, `residual` `[.., N]` → `[.., N]`
/// - Dtypes: `x`, a dense `weight` f32 or bf16 each, `lora_a`, `lora_b` f32; results and `residual` as `x`; the adapter's
///   side is f32 throughout on the CPU, on a GPU it is rounded to the dtype of `x`
/// - Gradients: `x`, a dense `weight`, `lora_a`, `lora_b`, `residual`, each like its tensor; saves what those need of the
///   operands, and `dropout(x) · lora_aᵀ` `[rows, R]`; the dropout is drawn again
/// - Source: Hu et al. 2021, <https://arxiv.org/abs/2106.09685>
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit; [`Error::DType`] if one has a dtype it cannot have;
/// [`Error::Input`] as [`dropout`](super::dropout::dropout).
pub fn linears(
    x: &Tensor,
    projections: &[Projection<'_>],
    operands: &Operands,
    dropout: Option<Dropout>,
) -> Result<Vec<Tensor>> {
    linears_of_rows(x, None, projections, operands, dropout)
}

/// [`linears`] of an `x` whose `rows` are there as integers already.
///
/// # Errors
/// As [`linears`].
pub fn linears_of_rows(
    x: &Tensor,
    rows: Option<&MadeRows>,
    projections: &[Projection<'_>],
    operands: &Operands,
    dropout: Option<Dropout>,
) -> Result<Vec<Tensor>> {
    projections.iter().try_for_each(|projection| refuse_misfits(x, projection))?;
    let dropout = dropout.map(Dropout::active).transpose()?.flatten();
    let (ys, xas) = on_device!(x, forward(&x.detach(), rows, projections, operands, dropout))?;
    let saved: Vec<Saved> = projections.iter().map(|projection| Saved::new(projection, x.is_tracked())).collect();
    let needs_x = saved.iter().any(|projection| projection.wanted[0] || projection.wanted[1]);
    let call = Call {
        x: needs_x.then(|| x.detach()),
        dx: x.is_tracked().then(|| x.shape()),
        projections: saved,
        operands: operands.clone(),
        dropout,
    };
    let mut inputs = vec![x];
    for Projection { weight, adapter, residual } in projections {
        inputs.extend(weight.dense());
        inputs.extend(adapter.iter().flat_map(|adapter| [adapter.a, adapter.b]));
        inputs.extend(residual);
    }
    let given = |projection: &Projection<'_>| [projection.weight.dense().is_some(), projection.residual.is_some()];
    let given: Vec<[bool; 2]> = projections.iter().map(given).collect();
    Ok(record_all(&inputs, ys, move |dys| {
        let (dx, gradients) = match dys.iter().flatten().next() {
            None => (None, Vec::new()),
            Some(dy) => on_device!(dy, backward(&call, &dys, &xas))?,
        };
        let mut dxs = vec![dx];
        let mut gradients = gradients.into_iter();
        for ((projection, dy), [is_dense, has_residual]) in call.projections.iter().zip(dys).zip(given) {
            let [dw, da, db] = gradients.next().unwrap_or_default();
            dxs.extend(is_dense.then_some(dw));
            dxs.extend(projection.adapter.iter().flat_map(|_| [da.clone(), db.clone()]));
            dxs.extend(has_residual.then_some(dy));
        }
        Ok(dxs)
    }))
}

/// [`linears`] with one projection, which has an adapter.
///
/// # Errors
/// As [`linears`].
pub fn lora(
    x: &Tensor,
    weight: &Tensor,
    lora_a: &Tensor,
    lora_b: &Tensor,
    scaling: f32,
    dropout: Option<Dropout>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let adapter = Some(Adapter { a: lora_a, b: lora_b, scaling });
    let projection = Projection { weight: Weight::Dense(weight), adapter, residual };
    refuse_misfits(x, &projection)?;
    let operands = Operands::of_groups(&x.device(), x.dtype(), &[vec![projection.adapter]])?;
    let none = || Error::shape(OP, "no adapter");
    linears(x, &[projection], operands.first().ok_or_else(none)?, dropout)?.pop().ok_or_else(none)
}

impl Saved {
    fn new(projection: &Projection<'_>, want_dx: bool) -> Self {
        let Projection { weight, adapter, .. } = projection;
        let wanted = [weight.dense(), adapter.map(|adapter| adapter.a), adapter.map(|adapter| adapter.b)];
        let detached = |Adapter { a, b, scaling }: Adapter<'_>| SavedAdapter { a: a.detach(), b: b.detach(), scaling };
        Self {
            weight: want_dx.then(|| weight::Saved::of(*weight)),
            dtype: weight.dense().map_or(DType::F32, Tensor::dtype),
            adapter: adapter.map(detached),
            wanted: wanted.map(|tensor| tensor.is_some_and(Tensor::is_tracked)),
        }
    }
}

fn refuse_misfits(x: &Tensor, projection: &Projection<'_>) -> Result<()> {
    let (Projection { weight, adapter, residual }, k) = (projection, x.shape().last());
    let shape = weight.shape();
    let &[n, columns] = shape.dims() else {
        return Err(Error::shape(OP, format!("weight must be [N, {k}], got {shape}")));
    };
    if columns != k {
        return Err(Error::shape(OP, format!("weight must be [{n}, {k}], got {shape}")));
    }
    check::same_device(OP, "weight", weight.memory(), x)?;
    weight.int8().map_or(Ok(()), |weight| weight.method().refuse_bad_threshold())?;
    check::residual(OP, *residual, x, n)?;
    let Some(Adapter { a, b, .. }) = adapter else { return Ok(()) };
    let &[r, _] = a.dims() else {
        return Err(Error::shape(OP, format!("lora_a must be [R, {k}], got {}", a.shape())));
    };
    check::shape(OP, "lora_a", a, [r, k])?;
    check::shape(OP, "lora_b", b, [n, r])?;
    for (name, tensor) in [("lora_a", a), ("lora_b", b)] {
        if tensor.dtype() != DType::F32 {
            return Err(Error::dtype(OP, format!("{name} must be f32, got {}", tensor.dtype())));
        }
        check::same_device(OP, name, tensor, x)?;
    }
    Ok(())
}
