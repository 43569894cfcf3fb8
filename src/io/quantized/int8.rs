//! int8 weights in files: `X.weight` i8 `[N, K]`, `X.SCB` f32 `[N]`, and the number of its layout.

use super::{WeightSource, located, refuse, refuse_bad_scale};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::int8_matmul::{Int8, Method};
use crate::shape::Shape;

const SCALES: &str = "SCB";
const LAYOUT: &str = "weight_format";

/// The names of what stands beside the weight `name`.
pub(super) fn beside(name: &str) -> [String; 2] {
    let module = name.strip_suffix("weight").unwrap_or(name);
    [SCALES, LAYOUT].map(|leaf| format!("{module}{leaf}"))
}

/// The weight `name`; `None` if it has neither scales nor a layout, and is no integers.
pub(super) fn read(
    source: &dyn WeightSource,
    has: &dyn Fn(&str) -> bool,
    name: &str,
    shape: Shape,
    method: Method,
) -> Result<Option<Int8>> {
    let [scales, layout] = beside(name);
    if has(&layout) {
        refuse_layout(source, &layout)?;
    }
    if !has(&scales) {
        let missing = || match source.shape(name) {
            Ok(found) if found == shape => format!("is codes without their scales, {scales}"),
            _ => "is codes without their state".into(),
        };
        return if source.bits(name).is_some() { Err(refuse(source, name, missing())) } else { Ok(None) };
    }
    let codes = source.load(name, shape, DType::I8, &Device::Cpu)?;
    let absmax = source.load(&scales, [shape.rows()].into(), DType::F32, &Device::Cpu)?;
    refuse_bad_scale(source, &scales, &absmax)?;
    Int8::new(codes, absmax, method).map(Some).map_err(|error| located(source, name, &error))
}

/// Refuses the orders of elements that were made for one kind of GPU each.
fn refuse_layout(source: &dyn WeightSource, layout: &str) -> Result<()> {
    let bytes = source.bytes(layout)?;
    let Some(number) = bytes.slice::<u8>()?.iter().find(|number| **number != 0) else { return Ok(()) };
    let name = ["col32", "col_turing", "col_ampere"].get(usize::from(*number) - 1);
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    let detail = format!("is {number}{name}, and only 0, row by row, is read: save it again with bitsandbytes >= 0.45");
    Err(refuse(source, layout, detail))
}
