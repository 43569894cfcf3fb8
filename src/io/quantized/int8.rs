//! int8 weights in files: `X.weight` i8 `[N, K]`, `X.SCB` f32 `[N]`, and the number of its layout.

use super::{WeightSource, located, refuse};
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
        // Row by row is 0.
        let bytes = source.bytes(&layout)?;
        if let Some(number) = bytes.slice::<u8>()?.iter().find(|number| **number != 0) {
            let found = if *number == 1 { "1, col_turing".into() } else { number.to_string() };
            return Err(refuse(source, &layout, format!("is {found}, a layout of one kind of GPU"))
                .with_hint("col_turing and its like: save it again with bitsandbytes >= 0.45"));
        }
    }
    if !has(&scales) {
        return match source.bits(name) {
            Some(8) => Err(refuse(source, name, format!("is codes without their scales, {scales}"))),
            _ => Ok(None),
        };
    }
    let codes = source.load(name, shape, DType::I8, &Device::Cpu)?;
    let absmax = source.load(&scales, [shape.rows()].into(), DType::F32, &Device::Cpu)?;
    let bad = absmax.slice::<f32>()?.iter().enumerate().find(|(_, scale)| !(scale.is_finite() && **scale >= 0.0));
    if let Some((row, scale)) = bad {
        return Err(refuse(
            source,
            &scales,
            format!("is {scale} in row {row}: a scale must be finite and not negative"),
        ));
    }
    Int8::new(codes, absmax, method).map(Some).map_err(|error| located(source, name, &error))
}
