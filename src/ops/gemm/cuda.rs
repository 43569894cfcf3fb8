//! The GPU's only matrix multiplication: f32 or bf16 operands where they lie, sums in f32, f32 or bf16 results.

use std::marker::PhantomData;
use std::ops::Range;

use crate::autograd::Tensor;
use crate::device::{Arg, Device, DevicePtr, DeviceSlice, Kernels, Launch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels;
use crate::shape::Shape;

pub const KERNELS: Kernels = kernels!("matmul");

/// A matrix in device memory: row after row, or column after column.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    slice: DeviceSlice,
    dtype: DType,
    rows: usize,
    columns: usize,
    /// Whether the elements lie column after column.
    transposed: bool,
    /// What holds the memory.
    tensor: PhantomData<&'a Tensor>,
}

impl<'a> Matrix<'a> {
    /// `tensor` as `[rows, last dimension]`, to be read.
    pub fn new(op: &'static str, tensor: &'a Tensor) -> Result<Self> {
        let slice = DeviceSlice { ptr: tensor.buffer().device_ptr()?, bytes: tensor.buffer().bytes() };
        let (rows, columns) = (tensor.shape().rows(), tensor.shape().last());
        match tensor.dtype() {
            dtype @ (DType::F32 | DType::Bf16) => {
                Ok(Self { slice, dtype, rows, columns, transposed: false, tensor: PhantomData })
            }
            other => Err(Error::dtype(op, format!("takes f32 or bf16, got {other}"))),
        }
    }

    /// The same, to be written; copied first if another tensor shares it.
    pub fn output(op: &'static str, tensor: &'a mut Tensor) -> Result<Self> {
        tensor.buffer_mut()?;
        Self::new(op, tensor)
    }

    /// Its transpose, without moving anything.
    pub fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// Some rows of one that lies row after row.
    pub fn rows(self, range: Range<usize>) -> Self {
        let row = self.columns * self.dtype.size();
        let ptr = DevicePtr(self.slice.ptr.0 + (range.start * row) as u64);
        Self { slice: DeviceSlice { ptr, bytes: range.len() * row }, rows: range.len(), ..self }
    }
}

/// A tensor of `shape` and `dtype`: `alpha` times the sum over `terms` of `a · b`, rounded once.
///
/// # Errors
/// As [`gemm`].
pub fn product(
    op: &'static str,
    device: &Device,
    shape: impl Into<Shape>,
    dtype: DType,
    alpha: f32,
    terms: &[[Matrix<'_>; 2]],
) -> Result<Tensor> {
    let mut out = Tensor::uninit(device, dtype, shape)?;
    gemm(device, Matrix::output(op, &mut out)?, alpha, terms, None)?;
    Ok(out)
}

/// `out = alpha * (sum over terms of a · b) + addend`, rounded once. There are one or two terms, all f32 or all bf16,
/// each `a · b`, `a · bᵀ` or `aᵀ · b` of matrices that lie row after row. `addend` is like `out` and may be `out` itself.
///
/// # Errors
/// [`Error::Shape`] if an operand does not fit, [`Error::DType`] if a dtype does not.
pub fn gemm(
    device: &Device,
    out: Matrix<'_>,
    alpha: f32,
    terms: &[[Matrix<'_>; 2]],
    addend: Option<Matrix<'_>>,
) -> Result<()> {
    refuse_misfits(out, terms, addend)?;
    let (Some([a, b]), extension) = (terms.first(), terms.get(1)) else { return Ok(()) };
    let layout = match (a.transposed, b.transposed) {
        (false, true) => "nt",
        (false, false) => "nn",
        _ => "tn",
    };
    let tile = if out.rows > 64 && out.columns > 64 { 128 } else { 64 };
    let null = Arg::I64(0);
    let [a2, b2] = extension.map_or([null; 2], |term| term.map(|matrix| Arg::Input(matrix.slice)));
    let k2 = extension.map_or(0, |[a2, _]| a2.columns);
    let args = [
        Arg::Output(out.slice),
        addend.map_or(null, |addend| Arg::Input(addend.slice)),
        Arg::Input(a.slice),
        Arg::Input(b.slice),
        a2,
        b2,
        Arg::size(out.rows)?,
        Arg::size(out.columns)?,
        Arg::size(a.columns)?,
        Arg::size(k2)?,
        Arg::F32(alpha),
        Arg::size(a.columns.next_multiple_of(32))?,
        Arg::I32((out.dtype == DType::F32).into()),
    ];
    let kernel = format!("matmul_{layout}_{}_{tile}", a.dtype);
    let grid = [out.columns.div_ceil(tile), out.rows.div_ceil(tile), 1];
    KERNELS.launch(device, &Launch { kernel: &kernel, grid, block: 128, shared: 0, args: &args })
}

fn refuse_misfits(out: Matrix<'_>, terms: &[[Matrix<'_>; 2]], addend: Option<Matrix<'_>>) -> Result<()> {
    let (m, n) = (out.rows, out.columns);
    for [a, b] in terms {
        if (a.rows, a.columns, b.columns) != (m, b.rows, n) {
            let detail = format!("[{}, {}] · [{}, {}] is not [{m}, {n}]", a.rows, a.columns, b.rows, b.columns);
            return Err(Error::shape("gemm", detail));
        }
    }
    let first = terms.first().map(|[a, b]| (a.dtype, a.transposed, b.transposed));
    let alike = |[a, b]: &[Matrix<'_>; 2]| a.dtype == b.dtype && Some((a.dtype, a.transposed, b.transposed)) == first;
    let twice_transposed = first.is_some_and(|(_, a, b)| a && b);
    if !(1..=2).contains(&terms.len()) || !terms.iter().all(alike) || twice_transposed {
        return Err(Error::dtype("gemm", "takes one or two terms of one dtype and one layout"));
    }
    match addend {
        Some(addend) if (addend.rows, addend.columns, addend.dtype) != (m, n, out.dtype) => {
            Err(Error::shape("gemm", "the addend is not like the result"))
        }
        _ => Ok(()),
    }
}
