//! A block a row, which turns all heads of q and k; the angles wait in shared memory.

use super::{OP, RopeTable};
use crate::autograd::Tensor;
use crate::device::{Arg, Kernels, Launch};
use crate::error::{Error, Result};
use crate::kernels;
use crate::ops::pack::pack;

pub const KERNELS: Kernels = kernels!("rope");

/// The widest head that the kernel's shared memory has room for.
const MAX_HEAD_DIM: usize = 512;

/// Turns the pairs of one or two tensors in place, by their angles times `direction` (1 or -1).
pub fn rotate(xs: &mut [&mut Tensor], table: &RopeTable, positions: &Tensor, direction: f32) -> Result<()> {
    let d = table.head_dim();
    let [q, rest @ ..] = xs else { return Ok(()) };
    if d > MAX_HEAD_DIM {
        return Err(Error::input(OP, format!("head_dim must be at most {MAX_HEAD_DIM} on a GPU, got {d}")));
    }
    let (device, dtype, rows, heads) = (q.device(), q.dtype(), q.shape().rows(), q.shape().last() / d);
    let q = q.as_output()?;
    let (k, k_heads) = match rest {
        [k, ..] => (k.as_output()?, k.shape().last() / d),
        [] => (q, 0),
    };
    let (cos_sin, positions) = (table.cos_sin.as_input()?, positions.as_input()?);
    let [nh, nkv, d_arg] = [Arg::size(heads)?, Arg::size(k_heads)?, Arg::size(d)?];
    let args = [q, k, cos_sin, positions, nh, nkv, d_arg, Arg::F32(direction)];
    let block = ((heads + k_heads) * (d / 2 / pack(d / 2, dtype))).next_multiple_of(32).min(256);
    let kernel = format!("rope_{dtype}");
    KERNELS.launch(&device, &Launch { kernel: &kernel, grid: [rows, 1, 1], block, shared: 0, args: &args })
}
