//! The CPU's only matrix multiplication: f32 and bf16 operands where they lie, sums in f32, f32 or bf16 results.
//!
//! A result of few rows is dot products with a weight that is read once ([`few`]). Any other is cut into blocks, one
//! task each ([`block`]), made of tiles that stay in registers ([`tile`], [`pairs`]) and read packed operands
//! ([`panels`], [`transpose`]). The order of a sum depends on the shapes alone, not on the number of threads.

mod block;
mod codes;
pub mod cuda;
pub mod cuda_codes;
pub mod cuda_tiling;
mod few;
pub mod int8;
mod int8_few;
mod kept;
mod matrix;
mod packed;
mod pairs;
mod panels;
mod quads;
mod tile;
#[cfg(target_arch = "x86_64")]
mod transpose;

pub use codes::Codes;
pub use kept::Packed;
pub use matrix::Matrix;

use pulp::Arch;

use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::{Error, Result};
use crate::shape::Shape;

/// What the CPU multiplies matrices with, on which the bits of results depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Instructions {
    /// What f32 operands are multiplied with.
    pub f32: &'static str,
    /// What bf16 operands are multiplied with.
    pub bf16: &'static str,
    /// What int8 operands are multiplied with.
    pub int8: &'static str,
}

impl Instructions {
    /// The instructions of this CPU.
    pub fn of_this_cpu() -> Self {
        let f32 = match Arch::new() {
            #[cfg(target_arch = "x86_64")]
            Arch::V4(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Arch::V3(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Arch::Neon(_) => "neon",
            _ => "portable",
        };
        let bf16 = if pairs::Avx512Bf16::detect().is_some() { "avx512-bf16" } else { f32 };
        Self { f32, bf16, int8: quads::IntegerCpu::best().name() }
    }
}

impl std::fmt::Display for Instructions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} for f32, {} for bf16, {} for int8", self.f32, self.bf16, self.int8)
    }
}

/// A tensor of `shape` and `dtype`: the sum over `terms` of `a · b`, rounded once.
///
/// # Errors
/// [`Error::Shape`] if a term does not have that shape, flattened to rows.
pub fn product(op: &'static str, shape: impl Into<Shape>, dtype: DType, terms: &[[Matrix<'_>; 2]]) -> Result<Tensor> {
    let mut out = Tensor::uninit(&Device::Cpu, dtype, shape)?;
    let n = out.shape().last();
    dispatch_float!(op, dtype, T => {
        gemm(out.slice_mut::<T>()?, n, terms, false)?;
        Ok(out)
    })
}

/// `out += sum over terms of a · b`, each `a` `[m, k]`, `b` `[k, n]`; `out` `[m, n]` row-major.
///
/// # Errors
/// [`Error::Shape`] if a term is not `[m, n]`.
pub fn add_product(out: &mut [f32], n: usize, terms: &[[Matrix<'_>; 2]]) -> Result<()> {
    gemm(out, n, terms, true)
}

/// `shape` with `last` as its innermost size.
pub fn with_last(op: &'static str, shape: Shape, last: usize) -> Result<Shape> {
    let mut dims = shape.dims().to_vec();
    *dims.last_mut().ok_or_else(|| Error::shape(op, "x must be [.., K], got a scalar"))? = last;
    Shape::try_from(dims.as_slice())
}

fn gemm<T: Float>(out: &mut [T], n: usize, terms: &[[Matrix<'_>; 2]], add: bool) -> Result<()> {
    let Some(m) = out.len().checked_div(n).filter(|m| *m > 0) else { return Ok(()) };
    if let Some([a, b]) = terms.iter().find(|[a, b]| (a.rows, a.columns, b.columns) != (m, b.rows, n)) {
        let detail = format!("[{}, {}] · [{}, {}] is not [{m}, {n}]", a.rows, a.columns, b.rows, b.columns);
        return Err(Error::shape("gemm", detail));
    }
    if terms.iter().all(|[a, _]| a.columns == 0) {
        if !add {
            out.fill(T::from_f32(0.0));
        }
        return Ok(());
    }
    let transposed: Vec<_> = terms.iter().map(|[a, b]| [b.t(), a.t()]).collect();
    match () {
        () if few::fits(m, terms) => few::multiply(out, n, terms, add),
        () if few::fits(n, &transposed) => through_f32([n, m], &transposed, |sums| store_transposed(out, sums, m, add)),
        () if T::DTYPE != DType::F32 && packed::slabs(m, terms).len() > 1 => {
            through_f32([m, n], terms, |sums| store(out, sums))
        }
        () => packed::multiply(pulp::Arch::new(), out, n, terms, add),
    }
}

/// Computes `terms`, `[m, n]`, in f32, and hands them to `store`.
fn through_f32(shape: [usize; 2], terms: &[[Matrix<'_>; 2]], store: impl FnOnce(&[f32])) -> Result<()> {
    let sums = product("gemm", shape, DType::F32, terms)?;
    store(sums.slice()?);
    Ok(())
}

fn store<T: Float>(out: &mut [T], sums: &[f32]) {
    host::par_rows(
        out,
        1,
        #[inline(always)]
        |first, out| out.iter_mut().zip(&sums[first..]).for_each(|(out, sum)| *out = T::from_f32(*sum)),
    );
}

/// `sums` `[n, m]`, few rows, into `out` `[m, n]`.
fn store_transposed<T: Float>(out: &mut [T], sums: &[f32], m: usize, add: bool) {
    let n = out.len() / m;
    for (j, sums) in sums.chunks(m).enumerate() {
        for (out, sum) in out[j..].iter_mut().step_by(n).zip(sums) {
            *out = T::from_f32(if add { out.to_f32() + sum } else { *sum });
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use pulp::Arch;

    use super::kept::Packed;
    use super::matrix::Matrix;
    use super::packed;
    use crate::autograd::Tensor;
    use crate::device::Device;
    use crate::dtype::{DType, Float};

    /// Every instruction set of this CPU.
    fn archs() -> Vec<Arch> {
        let mut archs = vec![Arch::new(), Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        archs
    }

    /// Small integers, so that every sum is exact in any order.
    fn matrix(rows: usize, columns: usize, dtype: DType) -> Tensor {
        let values = (0..rows * columns).map(|i| ((i * 7 + i / 11) % 9) as f32 - 4.0);
        match dtype {
            DType::Bf16 => {
                Tensor::from_slice(&Device::Cpu, [rows, columns], &values.map(bf16::from_f32).collect::<Vec<_>>())
            }
            _ => Tensor::from_slice(&Device::Cpu, [rows, columns], &values.collect::<Vec<_>>()),
        }
        .unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        match tensor.dtype() {
            DType::Bf16 => tensor.to_vec::<bf16>().unwrap().into_iter().map(Float::to_f32).collect(),
            _ => tensor.to_vec().unwrap(),
        }
    }

    /// `a` `[m, k]` and `b` `[n, k]` in every orientation, on every instruction set, stored and then added.
    fn check(m: usize, n: usize, k: usize, dtypes: [DType; 2]) {
        let (a, b) = (matrix(m, k, dtypes[0]), matrix(n, k, dtypes[1]));
        let [a_values, b_values] = [&a, &b].map(values);
        let dot = |i: usize, j: usize| (0..k).map(|k_| a_values[i * k + k_] * b_values[j * k + k_]).sum::<f32>();
        let expected: Vec<f32> = (0..m * n).map(|i| dot(i / n, i % n)).collect();
        let doubled: Vec<f32> = expected.iter().map(|v| 2.0 * v).collect();
        let [a_columns, b_columns] =
            [(&a_values, m, dtypes[0]), (&b_values, n, dtypes[1])].map(|(values, rows, dtype)| {
                let columns: Vec<f32> = (0..k * rows).map(|i| values[i % rows * k + i / rows]).collect();
                let tensor = Tensor::from_slice(&Device::Cpu, [k, rows], &columns).unwrap();
                crate::ops::elementwise::cast(&tensor, dtype).unwrap()
            });
        let view = |tensor| Matrix::new("test", tensor).unwrap();
        for arch in archs() {
            for a in [view(&a), view(&a_columns).t()] {
                for b in [view(&b).t(), view(&b_columns)] {
                    let mut out = vec![f32::NAN; m * n];
                    packed::multiply(arch, &mut out, n, &[[a, b]], false).unwrap();
                    assert!(out == expected, "{m} {n} {k} {dtypes:?} {arch:?}");
                    packed::multiply(arch, &mut out, n, &[[a, b]], true).unwrap();
                    assert!(out == doubled, "{m} {n} {k} {dtypes:?} {arch:?}: added");
                }
            }
        }
    }

    #[test]
    fn packed_products_are_exact_on_every_instruction_set() {
        use DType::{Bf16, F32};
        for dtypes in [[F32, F32], [Bf16, Bf16], [Bf16, F32], [F32, Bf16]] {
            for (m, n, k) in
                [(1, 1, 1), (5, 7, 3), (12, 32, 16), (13, 33, 17), (25, 8, 300), (67, 70, 33), (300, 65, 2)]
            {
                check(m, n, k, dtypes);
            }
        }
    }

    #[test]
    fn slabs_of_depth_and_of_columns_are_exact() {
        use DType::{Bf16, F32};
        for dtypes in [[F32, F32], [Bf16, Bf16]] {
            check(9000, 3, 301, dtypes); // deeper than a slab of 9000 rows
            check(17, 3100, 701, dtypes); // more columns than a slab of that depth
        }
    }

    #[test]
    fn packed_weights_give_the_bits_of_those_that_are_not() {
        for (m, n, k) in
            [(1, 1, 1), (1, 70, 33), (5, 7, 3), (17, 130, 300), (40, 33, 513), (9000, 40, 301), (20, 3100, 701)]
        {
            let (x, weight) = (matrix(m, k, DType::F32), matrix(n, k, DType::F32));
            let dy = matrix(m, n, DType::F32);
            let packed = Packed::of(&weight).unwrap();
            let view = |tensor| Matrix::new("test", tensor).unwrap();
            let product = |shape: [usize; 2], terms: &[[Matrix<'_>; 2]]| {
                super::product("test", shape, DType::F32, terms).unwrap().to_vec::<f32>().unwrap()
            };
            let forward = |weight: Matrix<'_>| product([m, n], &[[view(&x), weight.t()]]);
            let backward = |weight: Matrix<'_>| product([m, k], &[[view(&dy), weight]]);
            assert!(forward(view(&weight)) == forward(packed.matrix()), "{m} {n} {k}");
            assert!(backward(view(&weight)) == backward(packed.matrix()), "{m} {n} {k} backward");
            assert!(packed.unpack().unwrap().to_vec::<f32>().unwrap() == weight.to_vec::<f32>().unwrap());
        }
    }
}
