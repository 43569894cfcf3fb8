//! Products with a weight of 4 bits, made floats where the tensor cores read it.

use super::{Absmax, FourBit, Kind, OP};
use crate::autograd::Tensor;
use crate::device::{Arg, Kernels};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels;
use crate::ops::gemm::cuda::{Matrix, NULL};
use crate::ops::gemm::cuda_codes::CodesProduct;
use crate::ops::gemm::cuda_tiling::SplitK;

/// The kernels of products.
pub const KERNELS: Kernels = kernels!("nf4_matmul");

/// `out = x · weightᵀ + xa · bᵀ + addend`.
pub fn forward(
    x: &Tensor,
    weight: &FourBit,
    adapter: Option<[Matrix<'_>; 2]>,
    addend: Option<Matrix<'_>>,
    out: Matrix<'_>,
) -> Result<()> {
    let [_, k] = weight.shape();
    let rows_kernel = (x.dtype() == DType::Bf16).then(|| "nf4_matmul_rows_bf16".into());
    CodesProduct { adapter: Some(adapter), addend, rows_kernel, ..product("nt", x, weight, k, out)? }
        .run(&x.device(), out)
}

/// `out = dy · weight + addend`.
pub fn backward_x(dy: &Tensor, weight: &FourBit, addend: Option<Matrix<'_>>, out: Matrix<'_>) -> Result<()> {
    let [n, _] = weight.shape();
    CodesProduct { addend, ..product("nn", dy, weight, n, out)? }.run(&dy.device(), out)
}

fn product(layout: &str, a: &Tensor, weight: &FourBit, k: usize, out: Matrix<'_>) -> Result<CodesProduct<'static>> {
    let ([_, columns], matrix) = (weight.shape(), Matrix::new(OP, a)?);
    let is_aligned = matrix.is_aligned(true) && columns.is_multiple_of(32);
    let (absmax, offset) = match weight.absmax() {
        Absmax::Plain(absmax) => ([absmax.as_input()?, NULL, NULL], 0.0),
        Absmax::Nested(nested) => {
            ([nested.absmax.as_input()?, nested.codes.as_input()?, nested.map.as_input()?], nested.offset)
        }
    };
    let shift = Arg::size(weight.blocksize().trailing_zeros() as usize)?;
    Ok(CodesProduct {
        kernels: KERNELS,
        kernel: format!("nf4_matmul_{layout}_{}", a.dtype()),
        rows_kernel: None,
        split: SplitK::of_codes(a.dtype(), is_aligned, [out.rows, out.columns, k]),
        k,
        lds: [matrix.ld, columns],
        tensors: [&[a.as_input()?, weight.codes().as_input()?][..], &absmax].concat(),
        adapter: None,
        scalars: vec![Arg::F32(offset), shift, Arg::I32((weight.kind() == Kind::Fp4).into())],
        addend: None,
    })
}
