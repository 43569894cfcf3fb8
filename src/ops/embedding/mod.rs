//! The lookup of token vectors.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use crate::autograd::{Tensor, record};
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "embedding";

/// The rows of `weight` that `ids` name.
///
/// - Shapes: `ids` `[rows]`, `weight` `[V, H]` → `[rows, H]`
/// - Dtypes: `ids` u32; `weight` f32, bf16
/// - Gradients: `weight`, each row summed in f32 in the order of `ids`; saves `ids`
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit; [`Error::DType`] if the dtypes do not; [`Error::Input`] if an id is not
/// below V.
pub fn embedding(ids: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (&[rows], &[v, h]) = (ids.dims(), weight.dims()) else {
        let detail = format!("ids must be [rows] and weight [V, H], got {} and {}", ids.shape(), weight.shape());
        return Err(Error::shape(OP, detail));
    };
    check::dtype(OP, "ids", ids, DType::U32)?;
    check::same_device(OP, "ids", ids, weight)?;
    check::float(OP, weight.dtype())?;
    if let Some((row, id)) = check::first_beyond(ids, v)? {
        return Err(Error::input(OP, format!("id {id} of row {row} is not below the vocabulary's {v}")));
    }
    let y = on_device!(weight, forward(ids, weight, [rows, h]))?;
    let ids = ids.detach();
    let [y] = record([weight], [y], move |[dy]| {
        Ok([dy.map(|dy| on_device!(dy, backward(&dy, &ids, [v, h]))).transpose()?])
    });
    Ok(y)
}
