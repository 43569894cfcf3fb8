//! 4-bit weights in files: `X.weight` of packed codes, and behind its name the scales and the state.

use serde::Deserialize;

use super::{WeightSource, located, refuse, refuse_bad_scale};
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
    let state = read_state(source, has, name, kind)?;
    if state.shape != shape.dims() {
        let detail = format!("says shape {:?}, the config {shape}", state.shape);
        return Err(refuse(source, &self::state(name, kind), detail));
    }
    refuse_other_values(source, &format!("{name}.quant_map"), kind)?;
    let absmax = match state.nested_blocksize {
        Some(blocksize) => nested(source, name, blocksize, state.nested_offset).map(Absmax::Nested),
        None => plain(source, has, name).map(Absmax::Plain),
    }?;
    let (codes, dims) = (source.bytes(name)?, [shape.rows(), shape.last()]);
    FourBit::from_parts(dims, kind, state.blocksize, codes, absmax).map_err(|error| located(source, name, &error))
}

/// The shape of the weight `name` if it is of 4 bits, whose codes have another.
pub(super) fn shape(source: &dyn WeightSource, has: &dyn Fn(&str) -> bool, name: &str) -> Result<Option<Shape>> {
    let Some(kind) = kind(has, name).filter(|_| has(name)) else { return Ok(None) };
    let state = read_state(source, has, name, kind)?;
    let shape = Shape::try_from(state.shape.as_slice());
    shape.map(Some).map_err(|error| located(source, &self::state(name, kind), &error))
}

fn read_state(source: &dyn WeightSource, has: &dyn Fn(&str) -> bool, name: &str, kind: Kind) -> Result<State> {
    let of_state = state(name, kind);
    if !has(&of_state) {
        return Err(refuse(source, name, format!("is codes without their state, {of_state}")));
    }
    let json = source.bytes(&of_state)?;
    let state: State = serde_json::from_slice(json.slice::<u8>()?)
        .map_err(|error| refuse(source, &of_state, format!("is no state of bitsandbytes: {error}")))?;
    if state.quant_type != kind.name() {
        let detail = format!("says quant_type {:?}, its name {}", state.quant_type, kind.name());
        return Err(refuse(source, &of_state, detail));
    }
    Ok(state)
}

fn refuse_other_values(source: &dyn WeightSource, name: &str, kind: Kind) -> Result<()> {
    let map = floats(source, name)?;
    let mut pairs = map.slice::<f32>()?.iter().zip(kind.table());
    match map.shape().numel() == 16 && pairs.all(|(found, known)| (found - known).abs() < 1e-6) {
        true => Ok(()),
        false => Err(refuse(source, name, format!("holds other values than {}'s", kind.name()))),
    }
}

fn plain(source: &dyn WeightSource, has: &dyn Fn(&str) -> bool, name: &str) -> Result<Tensor> {
    let part = |leaf: &str| format!("{name}.{leaf}");
    match PARTS[2..].iter().map(|leaf| part(leaf)).find(|nested| has(nested)) {
        Some(nested) => Err(refuse(source, &nested, "is there, but the state knows no nested scales")),
        None => scales(source, &part("absmax")),
    }
}

fn nested(source: &dyn WeightSource, name: &str, blocksize: usize, offset: Option<f32>) -> Result<Nested> {
    let [codes, _, absmax, map] = PARTS.map(|leaf| format!("{name}.{leaf}"));
    let offset = offset.filter(|offset| offset.is_finite());
    let offset = offset.ok_or_else(|| refuse(source, name, "has a state with nested scales and no nested_offset"))?;
    let codes = source.load(&codes, source.shape(&codes)?, DType::U8, &Device::Cpu)?;
    let values = floats(source, &map)?;
    if let Some(at) = values.slice::<f32>()?.iter().position(|value| !value.is_finite()) {
        return Err(refuse(source, &map, format!("holds a NaN or an infinity, at {at}")));
    }
    Ok(Nested { codes, map: values, absmax: scales(source, &absmax)?, offset, blocksize })
}

fn floats(source: &dyn WeightSource, name: &str) -> Result<Tensor> {
    source.load(name, source.shape(name)?, DType::F32, &Device::Cpu)
}

fn scales(source: &dyn WeightSource, name: &str) -> Result<Tensor> {
    let scales = floats(source, name)?;
    refuse_bad_scale(source, name, &scales)?;
    Ok(scales)
}
