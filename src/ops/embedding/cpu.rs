//! Rows copied forwards; backwards every row of the table gathers its own sum, so that nothing is written twice.

use super::OP;
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::Float;
use crate::error::Result;

/// `y[i] = weight[ids[i]]`.
pub fn forward(ids: &Tensor, weight: &Tensor, [rows, h]: [usize; 2]) -> Result<Tensor> {
    let mut y = Tensor::uninit(&Device::Cpu, weight.dtype(), [rows, h])?;
    dispatch_float!(OP, weight.dtype(), T => {
        let (ids, weight) = (ids.slice::<u32>()?, weight.slice::<T>()?);
        host::par_rows(y.slice_mut::<T>()?, h, |first, y| {
            for (y, id) in y.chunks_mut(h).zip(&ids[first..]) {
                y.copy_from_slice(&weight[*id as usize * h..][..h]);
            }
        });
        Ok(y)
    })
}

/// `dweight[id] = sum of dy[i] over the rows i with ids[i] = id`, in ascending order of i.
pub fn backward(dy: &Tensor, ids: &Tensor, [v, h]: [usize; 2]) -> Result<Tensor> {
    let mut dweight = Tensor::uninit(&Device::Cpu, dy.dtype(), [v, h])?;
    let (starts, rows) = rows_by_id(ids.slice::<u32>()?, v);
    dispatch_float!(OP, dy.dtype(), T => {
        let dy = dy.slice::<T>()?;
        host::par_rows(dweight.slice_mut::<T>()?, h, #[inline(always)] |first, dweight| {
            for (dweight, ends) in dweight.chunks_mut(h).zip(starts[first..].windows(2)) {
                sum_rows(dweight, dy, &rows[ends[0]..ends[1]]);
            }
        });
        Ok(dweight)
    })
}

/// The rows of each id, ascending: those of `id` are `rows[starts[id]..starts[id + 1]]`.
fn rows_by_id(ids: &[u32], v: usize) -> (Vec<usize>, Vec<usize>) {
    let mut rows: Vec<usize> = (0..ids.len()).collect();
    rows.sort_by_key(|row| ids[*row]);
    let mut starts = vec![0; v + 1];
    ids.iter().for_each(|id| starts[*id as usize + 1] += 1);
    (0..v).for_each(|id| starts[id + 1] += starts[id]);
    (starts, rows)
}

/// `sum = sum of the named rows of dy`, a few columns at a time in f32.
#[inline(always)]
fn sum_rows<T: Float>(sum: &mut [T], dy: &[T], rows: &[usize]) {
    const COLUMNS: usize = 64;
    let h = sum.len();
    for (i, sum) in sum.chunks_mut(COLUMNS).enumerate() {
        let mut sums = [0.0f32; COLUMNS];
        for row in rows {
            let dy = &dy[row * h + i * COLUMNS..][..sum.len()];
            sums.iter_mut().zip(dy).for_each(
                #[inline(always)]
                |(sum, dy)| *sum += dy.to_f32(),
            );
        }
        sum.iter_mut().zip(sums).for_each(
            #[inline(always)]
            |(sum, value)| *sum = T::from_f32(value),
        );
    }
}
