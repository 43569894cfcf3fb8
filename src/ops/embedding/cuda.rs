//! A block a row forwards; backwards rows are sorted by id, and a block sums those of one id in order.

use crate::autograd::Tensor;
use crate::device::{Arg, Kernels, Launch};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels;

pub const KERNELS: Kernels = kernels!("embedding");

/// `y[i] = weight[ids[i]]`.
pub fn forward(ids: &Tensor, weight: &Tensor, [rows, h]: [usize; 2]) -> Result<Tensor> {
    let mut y = Tensor::uninit(&weight.device(), weight.dtype(), [rows, h])?;
    let args = [y.as_output()?, ids.as_input()?, weight.as_input()?, Arg::size(h)?];
    launch_rows("fwd", &y, [rows, h], &args)?;
    Ok(y)
}

/// `dweight[id] = sum of dy[i] over the rows i with ids[i] = id`, in ascending order of i.
pub fn backward(dy: &Tensor, ids: &Tensor, [v, h]: [usize; 2]) -> Result<Tensor> {
    let (device, rows) = (dy.device(), ids.shape().numel());
    let mut order = Tensor::uninit(&device, DType::U32, [rows])?;
    let mut runs = Tensor::uninit(&device, DType::U32, [rows])?;
    let args = [order.as_output()?, runs.as_output()?, ids.as_input()?, Arg::size(rows)?];
    KERNELS.launch_flat(&device, "embedding_sort", rows, 1, &args)?;

    let mut dweight = Tensor::zeros(&device, dy.dtype(), [v, h])?;
    let inputs = [dy.as_input()?, ids.as_input()?, order.as_input()?, runs.as_input()?];
    launch_rows("bwd", dy, [rows, h], &[&[dweight.as_output()?][..], &inputs, &[Arg::size(h)?]].concat())?;
    Ok(dweight)
}

/// A block for each row, of as many threads as take one 16-byte pack each, up to 256.
fn launch_rows(kernel: &str, like: &Tensor, [rows, h]: [usize; 2], args: &[Arg]) -> Result<()> {
    let dtype = like.dtype();
    let pack = if h.is_multiple_of(16 / dtype.size()) { 16 / dtype.size() } else { 1 };
    let block = h.div_ceil(pack).next_multiple_of(32).clamp(32, 256);
    let kernel = format!("embedding_{kernel}_{dtype}");
    KERNELS.launch(&like.device(), &Launch { kernel: &kernel, grid: [rows, 1, 1], block, shared: 0, args })
}
