//! Weights of 4 bits as bitsandbytes has them: two codes a byte, a scale for each block of the flattened weight, the scales
//! themselves in 8 bits where they are nested.

mod cpu;
mod cuda;
mod lookup;
mod mean;
mod parts;
mod table;
mod view;

pub(crate) use cuda::KERNELS;
pub(in crate::ops) use cuda::{backward_x as gpu_backward_x, forward as gpu_forward};
pub use parts::{Absmax, FourBit, NESTED_BLOCKSIZE, Nested};
pub use table::{Kind, dynamic_map};
pub use view::View;

use super::check;
use crate::autograd::Tensor;
use crate::device::Device;
use crate::error::{Error, Result};

const OP: &str = "nf4";

/// The weight in 4 bits, with the bits that bitsandbytes' `quantize_4bit` gives it on a CPU.
///
/// - Shapes: `weight` `[N, K]`, cut into blocks of `blocksize` elements whatever the rows; the last may be short
/// - Dtypes: f32, bf16; all arithmetic in f32
/// - `double` quantizes the scales too: their mean is taken off, blocks of 256 are coded in 8 bits
/// - Source: Dettmers et al. 2023, <https://arxiv.org/abs/2305.14314>
///
/// # Errors
/// [`Error::Shape`] if `weight` is not a matrix with elements or `blocksize` no power of two from 32 to 4096;
/// [`Error::DType`] if it is no float; [`Error::Device`] if it is not on the CPU; [`Error::Input`] if an element is not
/// finite.
pub fn quantize(weight: &Tensor, kind: Kind, blocksize: usize, double: bool) -> Result<FourBit> {
    let &[n, k] = weight.dims() else {
        return Err(Error::shape(OP, format!("weight must be [N, K], got {}", weight.shape())));
    };
    if n * k == 0 {
        return Err(Error::shape(OP, format!("weight must have elements, got {}", weight.shape())));
    }
    parts::check_blocksize(blocksize)?;
    check::float(OP, weight.dtype())?;
    check::on_device(OP, "weight", weight, &Device::Cpu)?;
    let (codes, absmax) = cpu::quantize(weight, kind, blocksize)?;
    let absmax = if double { Absmax::Nested(cpu::nest(&absmax)?) } else { Absmax::Plain(absmax) };
    FourBit::from_parts([n, k], kind, blocksize, codes, absmax)
}
