//! The GPU's only matrix multiplication: f32 or bf16 operands where they lie, sums in f32, f32 or bf16 results.

use super::cuda_tiling::SplitK;
use crate::autograd::Tensor;
use crate::device::{Arg, Device, DeviceSlice, Kernels, Launch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels;
use crate::ops::dropout::Dropout;
use crate::shape::Shape;
use std::marker::PhantomData;
use std::ops::Range;

/// The kernels of products.
pub const KERNELS: Kernels = kernels!("matmul");
/// The kernels of products that drop elements on the way.
pub const DROPOUT_KERNELS: Kernels = kernels!("lora");

/// A matrix in device memory: row after row, or column after column.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(in crate::ops) slice: DeviceSlice,
    pub(in crate::ops) dtype: DType,
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) columns: usize,
    /// Elements from one row of memory to the next: the leading dimension of BLAS.
    pub(in crate::ops) ld: usize,
    /// Whether the elements lie column after column.
    transposed: bool,
    /// What holds the memory.
    tensor: PhantomData<&'a Tensor>,
}

impl<'a> Matrix<'a> {
    /// `tensor` as `[rows, last dimension]`, to be read.
    pub fn new(op: &'static str, tensor: &'a Tensor) -> Result<Self> {
        let slice = DeviceSlice { ptr: tensor.buffer()?.device_ptr()?, bytes: tensor.bytes() };
        let (rows, columns) = (tensor.shape().rows(), tensor.shape().last());
        match tensor.dtype() {
            dtype @ (DType::F32 | DType::Bf16) => {
                Ok(Self { slice, dtype, rows, columns, ld: columns, transposed: false, tensor: PhantomData })
            }
            other => Err(Error::dtype(op, format!("takes f32 or bf16, got {other}"))),
        }
    }

    /// `tensor` as a matrix to be written; copied first if another tensor shares it.
    pub fn output(op: &'static str, tensor: &'a mut Tensor) -> Result<Self> {
        tensor.buffer_mut()?;
        Self::new(op, tensor)
    }

    /// Its transpose, without moving anything.
    pub fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// Some of its columns; of a matrix that lies row after row.
    ///
    /// # Errors
    /// [`Error::Shape`] if it has fewer.
    pub fn columns(self, columns: Range<usize>) -> Result<Self> {
        if self.transposed || columns.start > columns.end || columns.end > self.columns {
            let detail = format!("[{}, {}] has no columns {columns:?} in rows", self.rows, self.columns);
            return Err(Error::shape("gemm", detail));
        }
        Ok(Self { slice: self.slice.after(columns.start * self.dtype.size()), columns: columns.len(), ..self })
    }

    /// Its first `rows` rows; of a matrix that lies row after row and has as many.
    pub fn first_rows(self, rows: usize) -> Self {
        Self { rows: rows.min(self.rows), ..self }
    }

    /// Whether the kernels may copy 16 bytes at once: its rows of memory begin on such boundaries, and so does what is
    /// beyond K in them, where K is their direction.
    pub(in crate::ops) fn is_aligned(self, is_k_inner: bool) -> bool {
        let pack = 16 / self.dtype.size();
        let inner = if self.transposed { self.rows } else { self.columns };
        let begins = self.ld.is_multiple_of(pack) && self.slice.ptr.address().is_multiple_of(16);
        begins && (!is_k_inner || inner.is_multiple_of(pack))
    }

    /// Whether the kernel that adds slices can take the rows of it, a result.
    pub(in crate::ops) fn takes_slices(self) -> bool {
        let takes_rows = self.columns.is_multiple_of(4) && self.ld.is_multiple_of(4) && self.rows < 1 << 16;
        self.ld == self.columns || takes_rows
    }

    /// What tells a kernel the dtype of it, a result.
    pub(in crate::ops) fn is_f32(self) -> Arg {
        Arg::I32((self.dtype == DType::F32).into())
    }
}

/// A tensor of `shape` and `dtype`: `alpha` times the sum over `terms` of `a · b`, rounded once.
///
/// # Errors
/// As [`Product::run`].
pub fn product(
    op: &'static str,
    device: &Device,
    shape: impl Into<Shape>,
    dtype: DType,
    alpha: f32,
    terms: &[[Matrix<'_>; 2]],
) -> Result<Tensor> {
    let mut out = Tensor::uninit(device, dtype, shape)?;
    Product { alpha, ..Product::new(terms) }.run(device, Matrix::output(op, &mut out)?)?;
    Ok(out)
}

/// `alpha * (sum over terms of a · b) + addend`, rounded once.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// The factor of the sum.
    pub alpha: f32,
    /// One or two, all f32 or all bf16, each `a · b`, `a · bᵀ` or `aᵀ · b` of matrices that lie row after row.
    pub terms: &'a [[Matrix<'a>; 2]],
    /// What is added, like the result; it may be that itself.
    pub addend: Option<Matrix<'a>>,
    /// What is dropped on the way.
    pub dropout: Option<(Place, Dropout)>,
}

/// Where a product drops elements, by the mask that [`dropout`](crate::ops::dropout::dropout) draws for a matrix like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first operand of `a · bᵀ`, row after row.
    A,
    /// The second operand of `aᵀ · b`, row after row.
    B,
    /// The second term of `a · b`, like the result.
    Extension,
}

impl<'a> Product<'a> {
    /// The sum of `terms` alone.
    pub fn new(terms: &'a [[Matrix<'a>; 2]]) -> Self {
        Self { alpha: 1.0, terms, addend: None, dropout: None }
    }

    /// Computes it into `out`.
    ///
    /// # Errors
    /// [`Error::Shape`] if an operand does not fit, [`Error::DType`] if a dtype does not.
    pub fn run(&self, device: &Device, out: Matrix<'_>) -> Result<()> {
        refuse_misfits(out, self.terms, self.addend)?;
        let &[a, b] = self.terms.first().ok_or_else(|| Error::shape("gemm", "there is no term"))?;
        if self.dropout.is_none() && a.dtype == DType::Bf16 && !a.transposed && b.transposed && a.rows <= 16 {
            let grid = [b.columns.div_ceil(16), 1, 1];
            let args = self.arguments(Arg::Output(out.slice), out)?;
            return KERNELS
                .launch(device, &Launch { kernel: "matmul_rows_bf16", grid, block: 256, shared: 0, args: &args });
        }
        let split = self.split(out);
        let alone = Self { alpha: 1.0, addend: None, ..*self };
        in_slices(device, out, (self.alpha, self.addend), &split, |to, like| {
            let product = if split.slices == 1 { self } else { &alone };
            product.launch_tiles(device, to, like, &split)
        })
    }

    /// How it is cut.
    fn split(&self, out: Matrix<'_>) -> SplitK {
        let (dtype, k) = self.terms.first().map_or((out.dtype, 0), |[a, _]| (a.dtype, a.columns));
        let inner = |[a, b]: &[Matrix<'_>; 2]| a.is_aligned(!a.transposed) && b.is_aligned(b.transposed);
        // One draw serves four neighbours.
        let numbers = [out.columns as u64, self.dropout.map_or(0, |(_, key)| key.first_element)];
        let draws = |_| numbers.iter().all(|number| number.is_multiple_of(4));
        let is_aligned = self.terms.iter().all(inner) && self.dropout.is_none_or(draws);
        let split = SplitK::new(dtype, is_aligned, out.rows, out.columns, k);
        if out.takes_slices() { split } else { split.whole(k) }
    }

    fn launch_tiles(&self, device: &Device, to: Arg, out: Matrix<'_>, split: &SplitK) -> Result<()> {
        let mut args = self.arguments(to, out)?;
        args.push(Arg::size(split.depth)?);
        let [a, b] = self.terms.first().map_or([out; 2], |term| *term);
        let layout = match (a.transposed, b.transposed) {
            (false, true) => "nt",
            (false, false) => "nn",
            _ => "tn",
        };
        let (kernels, name) = match self.dropout {
            None => (KERNELS, format!("matmul_{layout}")),
            Some((place, dropout)) => {
                args.extend(dropout.arguments());
                (DROPOUT_KERNELS, place.kernel().to_string())
            }
        };
        let kernel = format!("{name}_{}_{}", a.dtype, split.tile.name());
        let (block, shared) = split.tile.block();
        let grid = [split.tiles, split.slices, 1];
        kernels.launch(device, &Launch { kernel: &kernel, grid, block, shared, args: &args })
    }

    /// In the order of the kernels that multiply; the result goes `to` memory that is laid out as `out`.
    fn arguments(&self, to: Arg, out: Matrix<'_>) -> Result<Vec<Arg>> {
        let mut terms = self.terms.iter().map(|term| (term.map(|matrix| Arg::Input(matrix.slice)), term));
        let (inputs, &[a, b]) = terms.next().ok_or_else(|| Error::shape("gemm", "there is no term"))?;
        let (extension, k2, ld2) =
            terms.next().map_or(([NULL; 2], 0, [0; 2]), |(inputs, [a2, b2])| (inputs, a2.columns, [a2.ld, b2.ld]));
        let mut args = [&[to, input(self.addend)][..], &inputs, &extension].concat();
        for size in [a.rows, b.columns, a.columns, k2, out.ld, a.ld, b.ld, ld2[0], ld2[1]] {
            args.push(Arg::size(size)?);
        }
        args.extend([Arg::F32(self.alpha), out.is_f32()]);
        Ok(args)
    }
}

/// No memory.
pub(in crate::ops) const NULL: Arg = Arg::I64(0);

/// A matrix that a kernel reads, or none.
pub(in crate::ops) fn input(matrix: Option<Matrix<'_>>) -> Arg {
    matrix.map_or(NULL, |matrix| Arg::Input(matrix.slice))
}

/// Computes `out` by `launch`, which is told where its sums go and how those are laid out: one slice at once, several first
/// alone in f32 and then `alpha * (sum over slices) + addend`.
pub(in crate::ops) fn in_slices(
    device: &Device,
    out: Matrix<'_>,
    (alpha, addend): (f32, Option<Matrix<'_>>),
    split: &SplitK,
    launch: impl FnOnce(Arg, Matrix<'_>) -> Result<()>,
) -> Result<()> {
    if split.slices == 1 {
        return launch(Arg::Output(out.slice), out);
    }
    let stride = (out.rows * out.columns).next_multiple_of(4);
    let mut sums = Tensor::uninit(device, DType::F32, [split.slices, stride])?;
    launch(sums.as_output()?, Matrix { dtype: DType::F32, ld: out.columns, ..out })?;
    let (runs, n) = if out.ld == out.columns { (1, out.rows * out.columns) } else { (out.rows, out.columns) };
    let tensors = [Arg::Output(out.slice), input(addend), sums.as_input()?];
    let sizes = [Arg::I64(n as i64), Arg::size(split.slices)?, Arg::I64(stride as i64), Arg::size(out.ld)?];
    let args = [&tensors[..], &sizes, &[Arg::F32(alpha), out.is_f32()]].concat();
    let block = n.div_ceil(4).next_multiple_of(32).clamp(32, 256);
    let grid = [n.div_ceil(4 * block), runs, 1];
    KERNELS.launch(device, &Launch { kernel: "matmul_sum", grid, block, shared: 0, args: &args })
}

impl Place {
    fn kernel(self) -> &'static str {
        match self {
            Self::A => "lora_xa",
            Self::B => "lora_da",
            Self::Extension => "lora_dx",
        }
    }
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
        Some(addend) if (addend.rows, addend.columns, addend.dtype, addend.ld) != (m, n, out.dtype, out.ld) => {
            Err(Error::shape("gemm", "the addend is not like the result"))
        }
        _ => Ok(()),
    }
}
