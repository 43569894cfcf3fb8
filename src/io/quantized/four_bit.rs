//! 4-bit weights in files: `X.weight` of packed codes, and behind its name the scales and the state.

use serde::Deserialize;

use super::{WeightSource, located, refuse};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::nf4::{Absmax, FourBit, Kind, Nested};
use crate::shape::Shape;

const STATE: &str = "quant_state.bitsandbytes__";

/// What stands behind the name of a weight, but for the state.
pub(super) const PARTS: [&str; 4] = ["absmax", "quant_map", "nested_absmax", "nested_quant_map"];

/// What bitsandbytes' state says, as JSON in the bytes of a tensor.
#[derive(Debug, Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    #[serde(default)]
    nested_blocksize: Option<usize>,
    #[serde(default)]
    nested_offset: Option<f32>,
}

/// The name of the state of the weight `name`, if its codes are of `kind`.
pub(super) fn state(name: &str, kind: Kind) -> String {
    format!("{name}.{STATE}{}", kind.name())
}

/// Whether `name` is a part of a 4-bit weight, behind that weight's name.
pub(super) fn is_part(name: &str) -> bool {
    let of_weight = name.split_once(".weight.");
    of_weight.is_some_and(|(_, part)| part.starts_with(STATE) || PARTS.contains(&part))
}

/// What the codes of the weight `name` are, if they are of 4 bits.
pub(super) fn kind(has: &dyn Fn(&str) -> bool, name: &str) -> Option<Kind> {
    let states = [Kind::Nf4, Kind::Fp4].into_iter().find(|kind| has(&state(name, *kind)));
    // Without a state the other parts tell that one is missing.
    states.or_else(|| PARTS.iter().any(|part| has(&format!("{name}.{part}"))).then_some(Kind::Nf4))
}

/// The weight `name`.
pub(super) fn read(
    source: &dyn WeightSource,
    has: &dyn Fn(&str) -> bool,
    name: &str,
    shape: Shape,
    kind: Kind,
) -> Result<FourBit> {
    let state_name = state(name, kind);
    if !has(&state_name) {
        return Err(refuse(source, name, format!("is codes without their state, {state_name}")));
    }
    let json = source.bytes(&state_name)?;
    let state: State = serde_json::from_slice(json.slice::<u8>()?)
        .map_err(|error| refuse(source, &state_name, format!("is no state of bitsandbytes: {error}")))?;
    let refuse_state = |detail: String| refuse(source, &state_name, detail);
    if state.quant_type != kind.name() {
        return Err(refuse_state(format!("says quant_type {:?}, its name {}", state.quant_type, kind.name())));
    }
    if state.shape != shape.dims() {
        return Err(refuse_state(format!("says shape {:?}, the config {shape}", state.shape)));
    }
    let map = floats(source, &format!("{name}.quant_map"))?;
    let is_known =
        map.shape().numel() == 16 && map.slice::<f32>()?.iter().zip(kind.table()).all(|(a, b)| (a - b).abs() < 1e-6);
    if !is_known {
        return Err(refuse(source, &format!("{name}.quant_map"), format!("holds other values than {}'s", kind.name())));
    }
    let blocks = shape.numel().div_ceil(state.blocksize.max(1));
    let absmax = absmax(source, has, name, blocks, &state)?;
    let codes = source.bytes(name)?;
    let dims = [shape.rows(), shape.last()];
    FourBit::from_parts(dims, kind, state.blocksize, codes, absmax).map_err(|error| located(source, name, &error))
}

fn absmax(
    source: &dyn WeightSource,
    has: &dyn Fn(&str) -> bool,
    name: &str,
    blocks: usize,
    state: &State,
) -> Result<Absmax> {
    let part = |leaf: &str| format!("{name}.{leaf}");
    let Some(blocksize) = state.nested_blocksize else {
        let nested = PARTS[2..].iter().map(|leaf| part(leaf)).find(|nested| has(nested));
        return match nested {
            Some(nested) => Err(refuse(source, &nested, "is there, but the state knows no nested scales")),
            None => finite(source, &part("absmax"), floats(source, &part("absmax"))?).map(Absmax::Plain),
        };
    };
    let offset = state.nested_offset.filter(|offset| offset.is_finite());
    let offset = offset.ok_or_else(|| refuse(source, name, "has a state with nested scales and no nested_offset"))?;
    let codes = source.load(&part("absmax"), [blocks].into(), DType::U8, &Device::Cpu)?;
    let map = finite(source, &part("nested_quant_map"), floats(source, &part("nested_quant_map"))?)?;
    let absmax = finite(source, &part("nested_absmax"), floats(source, &part("nested_absmax"))?)?;
    Ok(Absmax::Nested(Nested { codes, map, absmax, offset, blocksize }))
}

fn floats(source: &dyn WeightSource, name: &str) -> Result<Tensor> {
    source.load(name, source.shape(name)?, DType::F32, &Device::Cpu)
}

fn finite(source: &dyn WeightSource, name: &str, tensor: Tensor) -> Result<Tensor> {
    match tensor.slice::<f32>()?.iter().position(|scale| !scale.is_finite()) {
        Some(at) => Err(refuse(source, name, format!("holds a NaN or an infinity, at {at}"))),
        None => Ok(tensor),
    }
}
