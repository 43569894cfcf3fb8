//! Rows as integers, and their products on tensor cores; which columns have outliers only the GPU knows.

use std::sync::Arc;

use super::{Backward, Int8, MadeRows, OP};
use crate::autograd::Tensor;
use crate::device::{Arg, Device, Kernels, Launch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels;
use crate::ops::gemm::cuda::{Matrix, NULL};
use crate::ops::gemm::cuda_codes::CodesProduct;
use crate::ops::gemm::cuda_tiling::SplitK;
use crate::ops::pack::pack;
use crate::shape::Shape;

/// The kernels of products.
pub const KERNELS: Kernels = kernels!("int8_matmul");
/// The kernels that make integers.
pub const QUANTIZE_KERNELS: Kernels = kernels!("quantize");

/// Rows of floats as integers.
#[derive(Debug)]
pub struct Rows {
    /// i8 `[rows, K]`, zeros behind each row up to whole 16 bytes.
    codes: Tensor,
    /// What each row's integers are multiplied by, f32 `[rows]`.
    scales: Tensor,
    outliers: Option<Outliers>,
    columns: usize,
}

/// Where elements stay floats.
#[derive(Debug)]
struct Outliers {
    /// u32 `[K]`: the columns that have one, in order; unspecified behind their number.
    columns: Tensor,
    /// u32 `[1]`.
    count: Tensor,
    /// The least magnitude of an outlier.
    limit: f32,
}

/// `codes` i8 `[N, K]` on the CPU, zeros behind each row up to whole 16 bytes.
pub fn with_whole_rows(codes: &Tensor) -> Result<Tensor> {
    let (n, k) = (codes.shape().rows(), codes.shape().last());
    let stride = k.next_multiple_of(16);
    if stride == k {
        return Ok(codes.clone());
    }
    let mut whole = Tensor::zeros(&Device::Cpu, DType::I8, [n, stride])?;
    let rows = whole.slice_mut::<i8>()?.chunks_mut(stride.max(1)).zip(codes.slice::<i8>()?.chunks(k.max(1)));
    rows.for_each(|(to, from)| to[..k].copy_from_slice(from));
    Ok(whole)
}

impl Rows {
    fn uninit(device: &Device, [rows, columns]: [usize; 2]) -> Result<Self> {
        let codes = Tensor::uninit(device, DType::I8, [rows, columns.next_multiple_of(16)])?;
        Ok(Self { codes, scales: Tensor::uninit(device, DType::F32, [rows])?, outliers: None, columns })
    }

    /// Rows that `launch` makes, for products with weights of that `threshold`; 0: without outliers. It is given what its
    /// kernel takes of them: q, scale and flags; stride and limit.
    pub fn made_by(
        device: &Device,
        shape: [usize; 2],
        threshold: f32,
        launch: impl FnOnce([Arg; 3], [Arg; 2]) -> Result<()>,
    ) -> Result<Self> {
        let (mut rows, [_, k]) = (Self::uninit(device, shape)?, shape);
        let limit = if threshold > 0.0 { threshold } else { f32::INFINITY };
        let flags = || Tensor::zeros(device, DType::U32, [k.div_ceil(32)]);
        let mut flags = limit.is_finite().then(flags).transpose()?;
        let to_flags = flags.as_mut().map_or(Ok(NULL), Tensor::as_output)?;
        let tensors = [rows.codes.as_output()?, rows.scales.as_output()?, to_flags];
        launch(tensors, [Arg::size(rows.codes.shape().last())?, Arg::F32(limit)])?;
        if let Some(flags) = flags {
            let mut columns = Tensor::uninit(device, DType::U32, [k])?;
            let mut count = Tensor::uninit(device, DType::U32, [1])?;
            let args = [columns.as_output()?, count.as_output()?, flags.as_input()?, Arg::size(k)?];
            let launch = Launch { kernel: "outlier_columns", grid: [1; 3], block: 32, shared: 0, args: &args };
            QUANTIZE_KERNELS.launch(device, &launch)?;
            rows.outliers = Some(Outliers { columns, count, limit });
        }
        Ok(rows)
    }

    /// The rows of `x` `[.., K]`, for products with weights of that `threshold`; 0: without outliers.
    pub fn of(x: &Tensor, threshold: f32) -> Result<Self> {
        let shape = [x.shape().rows(), x.shape().last()];
        Self::made_by(&x.device(), shape, threshold, |to, [stride, limit]| {
            launch_rows("rows", x, &to, &[x.as_input()?, Arg::size(shape[1])?, stride, limit])
        })
    }

    /// The rows of `dy` `[.., N]`, each element times the scale of its column's row in `weight`.
    pub fn of_gradient(dy: &Tensor, weight: &Int8) -> Result<Self> {
        let mut rows = Self::uninit(&dy.device(), [dy.shape().rows(), dy.shape().last()])?;
        let to = [rows.codes.as_output()?, rows.scales.as_output()?];
        let sizes = [Arg::size(rows.columns)?, Arg::size(rows.codes.shape().last())?];
        launch_rows("gradient", dy, &to, &[dy.as_input()?, weight.scales.as_input()?, sizes[0], sizes[1]])?;
        Ok(rows)
    }

    /// Whether they are those of `x` for products with weights of that `threshold`.
    pub fn are_for(&self, x: &Tensor, threshold: f32) -> bool {
        let own = self.outliers.as_ref().map_or(0.0, |outliers| outliers.limit);
        own == threshold && (self.codes.shape().rows(), self.columns) == (x.shape().rows(), x.shape().last())
    }

    /// `out = x · weightᵀ + xa · bᵀ + addend` of these rows of `x`.
    pub fn forward(
        &self,
        x: &Tensor,
        weight: &Int8,
        adapter: Option<[Matrix<'_>; 2]>,
        addend: Option<Matrix<'_>>,
        out: Matrix<'_>,
    ) -> Result<()> {
        self.refuse_misfits(out, [weight.codes.shape().rows(), weight.columns])?;
        let outliers = self.outliers.as_ref();
        let list = outliers.map_or(Ok([NULL; 2]), |list| Ok([list.columns.as_input()?, list.count.as_input()?]))?;
        let limit = Arg::F32(outliers.map_or(f32::INFINITY, |outliers| outliers.limit));
        let mut tensors = vec![self.codes.as_input()?, weight.codes.as_input()?, self.scales.as_input()?];
        tensors.extend([weight.scales.as_input()?, x.as_input()?, list[0], list[1]]);
        let product = CodesProduct {
            kernels: KERNELS,
            kernel: format!("int8_matmul_nt_{}", x.dtype()),
            rows_kernel: Some(format!("int8_matmul_rows_{}", x.dtype())),
            split: SplitK::of_int8(x.dtype(), out.rows, out.columns, self.columns),
            k: self.columns,
            lds: [self.codes.shape().last(), weight.codes.shape().last()],
            tensors,
            adapter: Some(adapter),
            scalars: vec![Arg::size(self.columns)?, limit],
            addend,
        };
        product.run(&x.device(), out)
    }

    /// `out = dy · weight + addend` of these rows of `dy`.
    fn backward(&self, weight: &Int8, addend: Option<Matrix<'_>>, out: Matrix<'_>) -> Result<()> {
        let n = weight.codes.shape().rows();
        self.refuse_misfits(out, [weight.columns, n])?;
        let product = CodesProduct {
            kernels: KERNELS,
            kernel: "int8_matmul_nn".into(),
            rows_kernel: None,
            split: SplitK::of_int8(DType::Bf16, out.rows, out.columns, n),
            k: n,
            lds: [self.codes.shape().last(), weight.codes.shape().last()],
            tensors: vec![self.codes.as_input()?, weight.codes.as_input()?, self.scales.as_input()?],
            adapter: None,
            scalars: vec![],
            addend,
        };
        product.run(&self.codes.device(), out)
    }

    /// Refuses a product with a weight `[columns of out, K]` that is not these rows'.
    fn refuse_misfits(&self, out: Matrix<'_>, [columns, k]: [usize; 2]) -> Result<()> {
        let rows = self.codes.shape().rows();
        if (out.rows, out.columns, self.columns) == (rows, columns, k) {
            return Ok(());
        }
        let (m, n, own) = (out.rows, out.columns, self.columns);
        Err(Error::shape(OP, format!("[{rows}, {own}] · [{k}, {columns}] is not [{m}, {n}]")))
    }
}

impl MadeRows {
    /// What `launch` makes of rows like those of `x`: beside its result the rows for weights of that `threshold`, if there is
    /// one and a block holds a row in packs. It is given what its kernel takes of them, as [`Rows::made_by`] says.
    pub(in crate::ops) fn beside(
        x: &Tensor,
        threshold: Option<f32>,
        launch: impl FnOnce(Option<([Arg; 3], [Arg; 2])>) -> Result<()>,
    ) -> Result<Option<Self>> {
        const MOST: usize = 16 * 1024;
        let shape = [x.shape().rows(), x.shape().last()];
        let fits = shape[1] <= MOST && pack(shape[1], x.dtype()) > 1;
        let Some(threshold) = threshold.filter(|threshold| fits && *threshold >= 0.0) else {
            return launch(None).map(|()| None);
        };
        let rows = Rows::made_by(&x.device(), shape, threshold, |to, scalars| launch(Some((to, scalars))))?;
        Ok(Some(Self(Arc::new(rows))))
    }
}

/// A block for each row of `x`, of as many threads as hold it in registers, 16 elements each.
fn launch_rows(kernel: &str, x: &Tensor, to: &[Arg], args: &[Arg]) -> Result<()> {
    let (dtype, rows, k) = (x.dtype(), x.shape().rows(), x.shape().last());
    let held = if pack(k, dtype) == 1 { 1 } else { 16 };
    let block = k.div_ceil(held).next_multiple_of(32).clamp(32, 1024);
    let (kernel, args) = (format!("quantize_{kernel}_{dtype}"), [to, args].concat());
    QUANTIZE_KERNELS.launch(&x.device(), &Launch { kernel: &kernel, grid: [rows, 1, 1], block, shared: 0, args: &args })
}

/// `y = x · weightᵀ`, of `shape`.
pub fn forward(x: &Tensor, weight: &Int8, shape: Shape) -> Result<Tensor> {
    let mut y = Tensor::uninit(&x.device(), x.dtype(), shape)?;
    Rows::of(x, weight.method.threshold)?.forward(x, weight, None, None, Matrix::output(OP, &mut y)?)?;
    Ok(y)
}

/// `out = dy · weight + addend`, as the weight says how.
pub fn backward_x(dy: &Tensor, weight: &Int8, addend: Option<Matrix<'_>>, out: Matrix<'_>) -> Result<()> {
    if weight.method.backward == Backward::Int8 {
        return Rows::of_gradient(dy, weight)?.backward(weight, addend, out);
    }
    let (matrix, n, stride) = (Matrix::new(OP, dy)?, weight.codes.shape().rows(), weight.codes.shape().last());
    let product = CodesProduct {
        kernels: KERNELS,
        kernel: format!("int8_matmul_floats_nn_{}", dy.dtype()),
        rows_kernel: None,
        split: SplitK::of_codes(dy.dtype(), matrix.is_aligned(true), [out.rows, out.columns, n]),
        k: n,
        lds: [matrix.ld, stride],
        tensors: vec![dy.as_input()?, weight.codes.as_input()?, weight.scales.as_input()?],
        adapter: None,
        scalars: vec![],
        addend,
    };
    product.run(&dy.device(), out)
}
