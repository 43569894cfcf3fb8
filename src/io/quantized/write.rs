//! Weights in fewer bits as bitsandbytes stores them.

use std::collections::BTreeMap;

use serde_json::json;

use super::{four_bit, int8};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::nf4::{Absmax, FourBit};
use crate::ops::weight::Quantized;

/// The tensors of a file that a weight is stored as, by their names.
pub(in crate::io) type Parts = BTreeMap<String, Tensor>;

/// What `weight` is stored as under `name`, in a model whose floats are of `dtype`.
pub(in crate::io) fn parts(name: &str, weight: &Quantized, dtype: DType) -> Result<Parts> {
    match weight {
        Quantized::Int8(weight) => {
            let [scales, layout] = int8::beside(name);
            let row_by_row = Tensor::from_slice(&Device::Cpu, [], &[0u8])?;
            let codes = (name.to_string(), weight.codes().clone());
            Ok([codes, (scales, weight.absmax().clone()), (layout, row_by_row)].into())
        }
        Quantized::FourBit(weight) => of_four_bits(name, weight, dtype),
    }
}

fn of_four_bits(name: &str, weight: &FourBit, dtype: DType) -> Result<Parts> {
    let part = |leaf: &str| format!("{name}.{leaf}");
    let mut state = json!({
        "quant_type": weight.kind().name(),
        "blocksize": weight.blocksize(),
        "dtype": if dtype == DType::Bf16 { "bfloat16" } else { "float32" },
        "shape": weight.shape(),
    });
    let codes = weight.codes();
    let map = Tensor::from_slice(&Device::Cpu, [16], weight.kind().table())?;
    let mut parts =
        Parts::from([(name.to_string(), codes.reshape([codes.shape().numel(), 1])?), (part(four_bit::PARTS[1]), map)]);
    match weight.absmax() {
        Absmax::Plain(absmax) => drop(parts.insert(part(four_bit::PARTS[0]), absmax.clone())),
        Absmax::Nested(nested) => {
            parts.insert(part(four_bit::PARTS[0]), nested.codes.clone());
            parts.insert(part(four_bit::PARTS[2]), nested.absmax.clone());
            parts.insert(part(four_bit::PARTS[3]), nested.map.clone());
            state["nested_blocksize"] = json!(nested.blocksize);
            state["nested_dtype"] = json!("float32");
            state["nested_offset"] = json!(f64::from(nested.offset));
        }
    }
    let json = state.to_string().into_bytes();
    parts.insert(four_bit::state(name, weight.kind()), Tensor::from_slice(&Device::Cpu, [json.len()], &json)?);
    Ok(parts)
}
