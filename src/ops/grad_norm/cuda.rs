//! Partial sums of fixed chunks on the device, for all gradients of a dtype in one launch; added here, in order.

use super::OP;
use crate::autograd::Tensor;
use crate::device::{Kernels, Launch};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels;
use crate::ops::check;
use crate::ops::tensor_table::{Record, TensorTable, chunks};

pub const KERNELS: Kernels = kernels!("grad_norm");

/// The sum of the squares of each gradient.
pub fn squares(gradients: &[&Tensor]) -> Result<Vec<f64>> {
    gradients.iter().try_for_each(|gradient| check::float(OP, gradient.dtype()))?;
    let mut squares = vec![0.0; gradients.len()];
    for dtype in [DType::F32, DType::Bf16] {
        let of_dtype: Vec<usize> = (0..gradients.len()).filter(|i| gradients[*i].dtype() == dtype).collect();
        let alike: Vec<&Tensor> = of_dtype.iter().map(|i| gradients[*i]).collect();
        for (i, sum) in of_dtype.iter().zip(squares_of(&alike, dtype)?) {
            squares[*i] = sum;
        }
    }
    Ok(squares)
}

fn squares_of(gradients: &[&Tensor], dtype: DType) -> Result<Vec<f64>> {
    let Some(first) = gradients.first() else { return Ok(Vec::new()) };
    let record = |gradient: &&Tensor| {
        let (n, address) = (gradient.shape().numel() as u64, gradient.buffer().device_ptr()?.0);
        Ok(Record { parameter: 0, gradient: address, m: 0, v: 0, n })
    };
    let records = gradients.iter().map(record).collect::<Result<Vec<_>>>()?;
    let table = TensorTable::new(&first.device(), &records)?;
    let mut partial = Tensor::uninit(&first.device(), DType::F32, [table.blocks, 2])?;
    let [tensors, chunk_table] = table.as_inputs()?;
    let (kernel, args) = (format!("grad_norm_{dtype}"), [partial.as_output()?, tensors, chunk_table]);
    let launch = Launch { kernel: &kernel, grid: [table.blocks, 1, 1], block: 256, shared: 0, args: &args };
    KERNELS.launch(&first.device(), &launch)?;
    let partial = partial.to_vec::<f32>()?;
    let mut partial =
        partial.as_chunks::<2>().0.iter().map(|[plain, large]| f64::from(*plain) + LARGE * f64::from(*large));
    Ok(records.iter().map(|record| partial.by_ref().take(chunks(record.n as usize)).sum()).collect())
}

/// The unit of the second of a chunk's sums: the kernel scales large elements by 2⁻⁸⁰ before it squares them.
const LARGE: f64 = (1u128 << 80) as f64 * (1u128 << 80) as f64;
