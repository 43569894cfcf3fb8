//! `mma.sync`.

use super::decoder::{Decoded, Decoder};
use crate::parse::Result;
use crate::parse::ast::Operand;
use crate::program::{Class, Op};
use crate::run::mma::{Accumulator, Element, Mma};
use crate::types::Type;

/// The shapes that the PTX ISA has for each element, as (m, k) with n = 8.
fn shapes(element: Element) -> &'static [(usize, usize)] {
    match element {
        Element::F16 | Element::Bf16 => &[(16, 8), (16, 16)],
        Element::Tf32 => &[(16, 4), (16, 8)],
        Element::S8 | Element::U8 => &[(8, 16), (16, 16), (16, 32)],
        Element::S4 | Element::U4 => &[(8, 32), (16, 32), (16, 64)],
    }
}

fn element(name: &str) -> Option<Element> {
    Some(match name {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "s8" => Element::S8,
        "u8" => Element::U8,
        "s4" => Element::S4,
        "u4" => Element::U4,
        _ => return None,
    })
}

fn shape(name: &str) -> Option<(usize, usize)> {
    let (m, rest) = name.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    (n == "8").then_some((m.parse().ok()?, k.parse().ok()?))
}

/// `mma.sync.aligned.shape.row.col[.satfinite].dtype.atype.btype.ctype d, a, b, c`.
pub(super) fn decode(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let modifiers = d.modifiers();
    let ["sync", "aligned", shape_name, "row", "col", ref rest @ ..] = modifiers[..] else { return d.unknown() };
    let (saturates, types) = match rest {
        ["satfinite", types @ ..] => (true, types),
        types => (false, types),
    };
    let [to, a, b, c] = types else { return d.unknown() };
    let (a_element, b_element) = (d.known(element(a))?, d.known(element(b))?);
    let (m, k) = d.known(shape(shape_name).filter(|shape| shapes(a_element).contains(shape)))?;
    let accumulator = d.known(accumulator(a_element, to).filter(|_| to == c))?;
    let same = a_element == b_element || a_element.is_integer() && a_element.bits() == b_element.bits();
    if !same || saturates && accumulator != Accumulator::S32 || b_element.is_integer() != a_element.is_integer() {
        return d.unknown();
    }
    let mma = operands(d, Mma { m, k, a_element, b_element, accumulator, saturates, ..Mma::default() })?;
    Ok((Op::Mma(Box::new(mma)), Class::Mma))
}

fn accumulator(element: Element, name: &str) -> Option<Accumulator> {
    match (name, element) {
        ("f16", Element::F16) => Some(Accumulator::F16),
        ("f32", _) if !element.is_integer() => Some(Accumulator::F32),
        ("s32", _) if element.is_integer() => Some(Accumulator::S32),
        _ => None,
    }
}

fn operands(d: &mut Decoder<'_, '_, '_>, mut mma: Mma) -> Result<Mma> {
    let [to, a, b, c] = d.operands()?;
    let (inputs, totals) = match mma.accumulator {
        Accumulator::S32 => (Type::B32, Type::S32),
        Accumulator::F32 => (Type::B32, Type::F32),
        Accumulator::F16 => (Type::B32, Type::B32),
    };
    let (a_count, b_count, c_count) = mma.registers();
    mma.a = rows(d, a, a_count, |d, operand| d.read(operand, inputs))?;
    mma.b = rows(d, b, b_count, |d, operand| d.read(operand, inputs))?;
    mma.c = rows(d, c, c_count, |d, operand| d.read(operand, totals))?;
    mma.d = rows(d, to, c_count, |d, operand| d.write(operand, totals))?;
    Ok(mma)
}

fn rows<'d, 'a, 'p>(
    d: &mut Decoder<'d, 'a, 'p>,
    operand: &Operand<'a>,
    count: usize,
    row: impl Fn(&mut Decoder<'d, 'a, 'p>, &Operand<'a>) -> Result<u16>,
) -> Result<[u16; 4]> {
    let elements = Decoder::elements(operand);
    if elements.len() != count {
        return d.error(format!("`{}` takes {count} registers here", d.instruction.opcode));
    }
    let mut rows = [0; 4];
    for (at, element) in elements.iter().enumerate() {
        rows[at] = row(d, element)?;
    }
    Ok(rows)
}
