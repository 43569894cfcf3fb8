//! A block a row forwards; backwards rows are sorted by id, and a block sums those of one id in order.

use crate::autograd::Tensor;
use crate::device::{Arg, Kernels, Launch};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels;
use crate::ops::pack;

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

/// A block for each row.
fn launch_rows(kernel: &str, like: &Tensor, [rows, h]: [usize; 2], args: &[Arg]) -> Result<()> {
    let (dtype, block) = (like.dtype(), pack::block(h, like.dtype()));
    let kernel = format!("embedding_{kernel}_{dtype}");
    KERNELS.launch(&like.device(), &Launch { kernel: &kernel, grid: [rows, 1, 1], block, shared: 0, args })
}
