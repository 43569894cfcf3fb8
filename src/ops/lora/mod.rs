//! A frozen linear layer with a trained low-rank adapter.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use super::dropout::Dropout;
use super::elementwise::cast;
use crate::autograd::{Tensor, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "lora";

/// The adapter's own part of the op.
struct Adapter {
    /// `[R, K]`.
    a: Tensor,
    /// `[N, R]`.
    b: Tensor,
    /// The factor of the adapter's output.
    scaling: f32,
    /// What is dropped of the adapter's input.
    dropout: Option<Dropout>,
}

/// `x · weightᵀ + scaling · (dropout(x) · lora_aᵀ) · lora_bᵀ + residual`: [`matmul`](super::matmul::matmul) with a low-rank
/// adapter.
///
/// Base and adapter, and on a GPU `residual`, are summed in f32 and rounded once. `lora_b · lora_a` is never formed,
/// neither forward nor backward.
///
/// - Shapes: `x` `[.., K]`, `weight` `[N, K]`, `lora_a` `[R, K]`, `lora_b` `[N, R]`, `residual` `[.., N]` → `[.., N]`
/// - Dtypes: `x`, `weight` f32 or bf16 each, `lora_a`, `lora_b` f32; the result and `residual` as `x`; the adapter's
///   side is f32 throughout on the CPU, on a GPU it is rounded to the dtype of `x`
/// - Gradients: `x`, `weight`, `lora_a`, `lora_b`, `residual`, each like its tensor; saves what those need of the
///   operands, and `dropout(x) · lora_aᵀ` `[rows, R]`; the dropout is drawn again
/// - Source: Hu et al. 2021, <https://arxiv.org/abs/2106.09685>
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit; [`Error::DType`] if one has a dtype it cannot have;
/// [`Error::Input`] as [`dropout`](super::dropout::dropout).
pub fn lora(
    x: &Tensor,
    weight: &Tensor,
    lora_a: &Tensor,
    lora_b: &Tensor,
    scaling: f32,
    dropout: Option<Dropout>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    refuse_misfits(x, weight, lora_a, lora_b)?;
    check::residual(OP, residual, x, weight)?;
    let operand = |matrix: &Tensor| match x.device() {
        Device::Cpu => Ok(matrix.detach()),
        Device::Cuda(_) => cast(&matrix.detach(), x.dtype()),
    };
    let dropout = dropout.map(Dropout::active).transpose()?.flatten();
    let adapter = Adapter { a: operand(lora_a)?, b: operand(lora_b)?, scaling, dropout };
    let (y, xa) = on_device!(x, forward(&adapter, &x.detach(), weight, residual))?;
    let [want_dx, want_dw, want_da, want_db] = [x, weight, lora_a, lora_b].map(Tensor::is_tracked);
    let saved_x = (want_dw || want_da).then(|| x.detach());
    let saved_weight = want_dx.then(|| weight.detach());
    let (x_shape, weight_dtype) = (x.shape(), weight.dtype());
    let none = y.detach();
    let [y] = record([x, weight, lora_a, lora_b, residual.unwrap_or(&none)], [y], move |[dy]| {
        let Some(dy) = dy else { return Ok([None, None, None, None, None]) };
        let dxa = on_device!(dy, backward_xa(&adapter, &dy))?;
        let dx = saved_weight.map(|weight| on_device!(dy, backward_x(&adapter, &dy, &dxa, &weight, x_shape)));
        let x = saved_x.as_ref();
        let dw = x.filter(|_| want_dw).map(|x| on_device!(dy, backward_weight(&dy, x, weight_dtype)));
        let da = x.filter(|_| want_da).map(|x| on_device!(dy, backward_a(&adapter, &dxa, x)));
        let db = want_db.then(|| on_device!(dy, backward_b(&dy, &xa)));
        Ok([dx.transpose()?, dw.transpose()?, da.transpose()?, db.transpose()?, Some(dy)])
    });
    Ok(y)
}

fn refuse_misfits(x: &Tensor, weight: &Tensor, lora_a: &Tensor, lora_b: &Tensor) -> Result<()> {
    let k = x.shape().last();
    let &[n, _] = weight.dims() else {
        return Err(Error::shape(OP, format!("weight must be [N, {k}], got {}", weight.shape())));
    };
    let &[r, _] = lora_a.dims() else {
        return Err(Error::shape(OP, format!("lora_a must be [R, {k}], got {}", lora_a.shape())));
    };
    check::shape(OP, "weight", weight, [n, k])?;
    check::shape(OP, "lora_a", lora_a, [r, k])?;
    check::shape(OP, "lora_b", lora_b, [n, r])?;
    for (name, tensor) in [("lora_a", lora_a), ("lora_b", lora_b)] {
        if tensor.dtype() != DType::F32 {
            return Err(Error::dtype(OP, format!("{name} must be f32, got {}", tensor.dtype())));
        }
        check::same_device(OP, name, tensor, x)?;
    }
    check::same_device(OP, "weight", weight, x)
}
