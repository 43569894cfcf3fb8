//! The GPU's only matrix multiplication: f32 or bf16 operands where they lie, sums in f32, f32 or bf16 results.

use crate::autograd::Tensor;
use crate::device::{Arg, Device, DeviceSlice, Kernels, Launch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels;
use crate::shape::Shape;
use std::marker::PhantomData;

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
    let Some(operands) = Operands::new(terms) else { return Ok(()) };
    let result = [
        Arg::Output(out.slice),
        addend.map_or(NULL, |addend| Arg::Input(addend.slice)),
        Arg::F32(alpha),
        Arg::I32((out.dtype == DType::F32).into()),
    ];
    if operands.are_few_rows() {
        return operands.launch_rows(device, result);
    }
    let split = SplitK::new(operands.a.dtype, out.rows, out.columns, operands.a.columns);
    if split.slices == 1 {
        return operands.launch_tiles(device, result, &split);
    }
    let n = out.rows * out.columns;
    let mut sums = Tensor::uninit(device, DType::F32, [split.slices, n.next_multiple_of(4)])?;
    operands.launch_tiles(device, [sums.as_output()?, NULL, Arg::F32(1.0), Arg::I32(1)], &split)?;
    let [out, addend, alpha, out_f32] = result;
    let args = [out, addend, sums.as_input()?, Arg::I64(n as i64), Arg::size(split.slices)?, alpha, out_f32];
    KERNELS.launch_flat(device, "matmul_sum", n, 4, &args)
}

const NULL: Arg = Arg::I64(0);

/// What is multiplied: `a · b`, and a second pair, which rides in the last slice of K.
struct Operands<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    extension: Option<[Matrix<'a>; 2]>,
}

/// How a product is cut into blocks, tiles of the result and slices of K: by shape alone, whatever the GPU.
#[derive(Clone, Copy, Debug)]
pub struct SplitK {
    /// Rows and columns of the tile of the result that a block makes.
    pub tile: usize,
    tiles: usize,
    /// Into how many slices K is cut, whose sums are added in order.
    pub slices: usize,
    /// How much of K a slice takes.
    depth: usize,
}

impl SplitK {
    /// That of `[m, k]` by `[k, n]`.
    pub fn new(dtype: DType, m: usize, n: usize, k: usize) -> Self {
        /// Fewer blocks leave most GPUs idle: an H100 holds 264 of the larger tiles at once.
        const BLOCKS: usize = 256;
        const MOST_SLICES: usize = 16;
        const LEAST_DEPTH: usize = 512;
        let tile = if dtype == DType::Bf16 && m > 64 && n > 64 { 128 } else { 64 };
        let tiles = m.div_ceil(tile) * n.div_ceil(tile);
        let slices = (BLOCKS / tiles.max(1)).min(MOST_SLICES).min(k / LEAST_DEPTH).max(1);
        let depth = k.div_ceil(slices).next_multiple_of(32).max(32);
        Self { tile, tiles, slices: k.div_ceil(depth).max(1), depth }
    }
}

impl<'a> Operands<'a> {
    fn new(terms: &[[Matrix<'a>; 2]]) -> Option<Self> {
        let &[a, b] = terms.first()?;
        Some(Self { a, b, extension: terms.get(1).copied() })
    }

    /// Whether the kernel that reads the weight as a stream is the faster one.
    fn are_few_rows(&self) -> bool {
        self.a.dtype == DType::Bf16 && !self.a.transposed && self.b.transposed && self.a.rows <= 16
    }

    fn launch_rows(&self, device: &Device, result: [Arg; 4]) -> Result<()> {
        let grid = [self.b.columns.div_ceil(16), 1, 1];
        let launch = Launch { kernel: "matmul_rows_bf16", grid, block: 256, shared: 0, args: &self.arguments(result)? };
        KERNELS.launch(device, &launch)
    }

    fn launch_tiles(&self, device: &Device, result: [Arg; 4], split: &SplitK) -> Result<()> {
        let layout = match (self.a.transposed, self.b.transposed) {
            (false, true) => "nt",
            (false, false) => "nn",
            _ => "tn",
        };
        let mut args = self.arguments(result)?;
        args.push(Arg::size(split.depth)?);
        let kernel = format!("matmul_{layout}_{}_{}", self.a.dtype, split.tile);
        let grid = [split.tiles, split.slices, 1];
        KERNELS.launch(device, &Launch { kernel: &kernel, grid, block: 128, shared: 0, args: &args })
    }

    /// In the order of the kernels that multiply.
    fn arguments(&self, [out, addend, alpha, out_f32]: [Arg; 4]) -> Result<Vec<Arg>> {
        let input = |matrix: Matrix<'_>| Arg::Input(matrix.slice);
        let ([a2, b2], k2) = self.extension.map_or(([NULL; 2], 0), |term| (term.map(input), term[0].columns));
        let (m, n, k) = (self.a.rows, self.b.columns, self.a.columns);
        let sizes = [Arg::size(m)?, Arg::size(n)?, Arg::size(k)?, Arg::size(k2)?];
        Ok([&[out, addend, input(self.a), input(self.b), a2, b2][..], &sizes, &[alpha, out_f32]].concat())
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
        Some(addend) if (addend.rows, addend.columns, addend.dtype) != (m, n, out.dtype) => {
            Err(Error::shape("gemm", "the addend is not like the result"))
        }
        _ => Ok(()),
    }
}
