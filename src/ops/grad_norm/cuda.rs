//! Sums over fixed chunks of all gradients in one launch, then over the chunks of each; the host only ever adds those.

use bytemuck::Zeroable;

use crate::autograd::Tensor;
use crate::device::{Arg, Device, Kernels, Launch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels;
use crate::ops::tensor_table::{Record, TensorTable, chunks};

pub const KERNELS: Kernels = kernels!("grad_norm");

/// The sum of the squares of each gradient, as two numbers: `[n, 2]`.
pub fn squares(gradients: &[&Tensor], device: &Device) -> Result<Tensor> {
    let (table, partial) = partial(gradients, device)?;
    sum(&table, &partial, gradients.len(), device)
}

/// The bits of the sums of the squares of each chunk of each gradient.
pub fn pieces(gradients: &[&Tensor], device: &Device) -> Result<Vec<Vec<u64>>> {
    let partial = partial(gradients, device)?.1.to_vec::<f32>()?;
    let mut partial = partial.as_chunks().0.iter().map(|&pair: &[f32; 2]| bytemuck::cast(pair));
    let chunks = gradients.iter().map(|gradient| chunks(gradient.shape().numel()));
    Ok(chunks.map(|chunks| partial.by_ref().take(chunks).collect()).collect())
}

/// The sums of the squares of gradients of `numels` elements, of those of all of their chunks.
pub fn sum_pieces(pieces: &[u64], numels: &[usize], device: &Device) -> Result<Tensor> {
    let record = |&n: &usize| Record { n: n as u64, ..Record::zeroed() };
    let table = TensorTable::new(device, numels.iter().map(record).collect())?;
    if table.blocks != pieces.len() {
        return Err(Error::shape("grad_norm", format!("{} pieces, not {}", pieces.len(), table.blocks)));
    }
    let partial = Tensor::from_slice(device, [pieces.len(), 2], bytemuck::cast_slice::<u64, f32>(pieces))?;
    sum(&table, &partial, numels.len(), device)
}

fn partial(gradients: &[&Tensor], device: &Device) -> Result<(TensorTable, Tensor)> {
    let records = gradients.iter().map(|gradient| Record::new(gradient)).collect::<Result<_>>()?;
    let table = TensorTable::new(device, records)?;
    let [tensors, chunks] = table.as_inputs()?;
    let mut partial = Tensor::uninit(device, DType::F32, [table.blocks, 2])?;
    if table.blocks > 0 {
        launch(device, "grad_norm", table.blocks, &[partial.as_output()?, tensors, chunks])?;
    }
    Ok((table, partial))
}

fn sum(table: &TensorTable, partial: &Tensor, gradients: usize, device: &Device) -> Result<Tensor> {
    let [tensors, _] = table.as_inputs()?;
    let mut squares = Tensor::uninit(device, DType::F32, [gradients, 2])?;
    launch(device, "grad_norm_sum", gradients, &[squares.as_output()?, tensors, partial.as_input()?])?;
    Ok(squares)
}

/// `max_norm / (norm + 1e-6)`, at most 1; NaN if the norm is not finite.
pub fn clip_scale(squares: &Tensor, max_norm: f64) -> Result<Tensor> {
    let mut scale = Tensor::uninit(&squares.device(), DType::F32, [])?;
    let (n, max_norm) = (Arg::size(squares.shape().rows())?, Arg::F32(max_norm as f32));
    launch(&squares.device(), "grad_norm_clip", 1, &[scale.as_output()?, squares.as_input()?, n, max_norm])?;
    Ok(scale)
}

/// [`squares`], each as the one number that they stand for.
pub fn read(squares: &Tensor) -> Result<Vec<f64>> {
    let pairs = squares.to_vec::<f32>()?;
    Ok(pairs.as_chunks().0.iter().map(|[plain, large]| f64::from(*plain) + LARGE * f64::from(*large)).collect())
}

/// The unit of the second number: the kernel scales large elements by 2⁻⁸⁴ before it squares them.
const LARGE: f64 = (1u128 << 84) as f64 * (1u128 << 84) as f64;

fn launch(device: &Device, kernel: &str, blocks: usize, args: &[Arg]) -> Result<()> {
    KERNELS.launch(device, &Launch { kernel, grid: [blocks, 1, 1], block: 256, shared: 0, args })
}
