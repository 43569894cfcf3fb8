//! `setp`, `set`, `selp`, `slct`.

use super::decoder::{Decoded, Decoder};
use super::macros::{by_sign, by_size};
use crate::arith::float::flush;
use crate::arith::half::{Bf16, Half, Small};
use crate::program::{Class, Op};
use crate::run::lanes::{Alu, Combine, NEGATE, compare, select, set, ternary};
use crate::types::Type;

/// The functions of one comparison: as a predicate (`compare`) or as a value (`set`).
macro_rules! comparison {
    ($make:ident, $name:expr, $ty:expr, $ftz:expr) => {
        match $ty {
            Type::F32 if $ftz => floats!($make, $name, f32, flush),
            Type::F32 => floats!($make, $name, f32, |x: f32| x),
            Type::F64 if !$ftz => floats!($make, $name, f64, |x: f64| x),
            Type::F16 if $ftz => floats!($make, $name, Half, |x: Half| crate::arith::half::flush(x).to_f32()),
            Type::F16 => floats!($make, $name, Half, Small::to_f32),
            Type::Bf16 if !$ftz => floats!($make, $name, Bf16, Small::to_f32),
            _ if $ftz => None,
            _ => integers($name, $ty),
        }
    };
}

macro_rules! floats {
    ($make:ident, $name:expr, $T:ty, $to:expr) => {
        Some(match $name {
            "eq" => $make(|a: $T, b: $T| $to(a) == $to(b)),
            "ne" => $make(|a: $T, b: $T| $to(a) != $to(b) && !$to(a).is_nan() && !$to(b).is_nan()),
            "lt" => $make(|a: $T, b: $T| $to(a) < $to(b)),
            "le" => $make(|a: $T, b: $T| $to(a) <= $to(b)),
            "gt" => $make(|a: $T, b: $T| $to(a) > $to(b)),
            "ge" => $make(|a: $T, b: $T| $to(a) >= $to(b)),
            "equ" => $make(|a: $T, b: $T| $to(a) == $to(b) || $to(a).is_nan() || $to(b).is_nan()),
            "neu" => $make(|a: $T, b: $T| $to(a) != $to(b)),
            "ltu" => $make(|a: $T, b: $T| !($to(a) >= $to(b))),
            "leu" => $make(|a: $T, b: $T| !($to(a) > $to(b))),
            "gtu" => $make(|a: $T, b: $T| !($to(a) <= $to(b))),
            "geu" => $make(|a: $T, b: $T| !($to(a) < $to(b))),
            "num" => $make(|a: $T, b: $T| !$to(a).is_nan() && !$to(b).is_nan()),
            "nan" => $make(|a: $T, b: $T| $to(a).is_nan() || $to(b).is_nan()),
            _ => return None,
        })
    };
}

macro_rules! ordered {
    ($make:ident, $name:expr, $ty:expr) => {
        Some(match $name {
            "eq" => by_size!($ty, T => $make(|a: T, b: T| a == b)),
            "ne" => by_size!($ty, T => $make(|a: T, b: T| a != b)),
            "lo" | "ls" | "hi" | "hs" if $ty.is_signed() => return None,
            "lt" | "lo" => by_sign!($ty, T => $make(|a: T, b: T| a < b)),
            "le" | "ls" => by_sign!($ty, T => $make(|a: T, b: T| a <= b)),
            "gt" | "hi" => by_sign!($ty, T => $make(|a: T, b: T| a > b)),
            "ge" | "hs" => by_sign!($ty, T => $make(|a: T, b: T| a >= b)),
            _ => return None,
        })
    };
}

#[allow(clippy::neg_cmp_op_on_partial_ord)]
fn compare_alu(name: &str, ty: Type, ftz: bool) -> Option<Alu> {
    fn integers(name: &str, ty: Type) -> Option<Alu> {
        ordered!(compare, name, ty)
    }
    comparison!(compare, name, ty, ftz)
}

#[allow(clippy::neg_cmp_op_on_partial_ord)]
fn set_alu(name: &str, ty: Type, ftz: bool) -> Option<Alu> {
    fn integers(name: &str, ty: Type) -> Option<Alu> {
        ordered!(set, name, ty)
    }
    comparison!(set, name, ty, ftz)
}

/// `setp.cmp[.bool][.ftz].type p[|q], a, b[, c]`.
pub(super) fn setp(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let (mut modifiers, ty) = d.typed()?;
    let ftz = modifiers.last() == Some(&"ftz");
    if ftz {
        modifiers.pop();
    }
    let (name, combine) = match modifiers[..] {
        [name] => (name, Combine::Alone),
        [name, "and"] => (name, Combine::And),
        [name, "or"] => (name, Combine::Or),
        [name, "xor"] => (name, Combine::Xor),
        _ => return d.unknown(),
    };
    let alu = d.known(compare_alu(name, ty, ftz))?;
    let operands = d.instruction.operands.as_slice();
    if operands.len() != if combine == Combine::Alone { 3 } else { 4 } {
        return d.error("wrong number of operands");
    }
    let (a, b) = (d.read(&operands[1], ty)?, d.read(&operands[2], ty)?);
    let (other, negated) = match operands.get(3) {
        Some(other) => d.predicate(other)?,
        None => (d.names.sink_row(crate::types::File::Pred, d.instruction.line)?, false),
    };
    let (p, q) = Decoder::pair(&operands[0]);
    let (p, q) = (p.clone(), q.clone());
    let flags = combine as u16 | if negated { NEGATE } else { 0 };
    let q = d.write(&q, Type::Pred)?;
    let p = d.write(&p, Type::Pred)?;
    Ok((Op::Alu(alu, [p, q, a, b, other, flags]), Class::Compare))
}

/// `set.cmp[.ftz].dtype.stype d, a, b`.
pub(super) fn set_value(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let (mut modifiers, from) = d.typed()?;
    let to = d.known(modifiers.pop().and_then(Type::named))?;
    let (name, ftz) = match modifiers[..] {
        [name] => (name, false),
        [name, "ftz"] => (name, true),
        _ => return d.unknown(),
    };
    let truth = match to {
        Type::U32 | Type::S32 => u64::from(u32::MAX),
        Type::F32 => u64::from(1.0f32.to_bits()),
        Type::F16 => 0x3c00,
        Type::Bf16 => 0x3f80,
        _ => return d.unknown(),
    };
    let alu = d.known(set_alu(name, from, ftz))?;
    let [to_operand, a, b] = d.operands()?;
    let (a, b) = (d.read(a, from)?, d.read(b, from)?);
    let truth = d.names.constant_row(crate::types::File::Word, truth, d.instruction.line)?;
    let to = d.write(to_operand, to)?;
    Ok((Op::Alu(alu, [to, a, b, truth, 0, 0]), Class::Compare))
}

/// `selp.type d, a, b, p`.
pub(super) fn selp(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let (modifiers, ty) = d.typed()?;
    let alu = match ty.bits() {
        16 => select::<u16>(),
        32 => select::<u32>(),
        64 => select::<u64>(),
        _ => return d.unknown(),
    };
    if !modifiers.is_empty() {
        return d.unknown();
    }
    Ok((d.alu(alu, ty, [ty, ty, Type::Pred])?, Class::Move))
}

/// `slct[.ftz].type.ctype d, a, b, c`: a where c is not negative.
pub(super) fn slct(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    fn alu(ty: Type, by: Type, ftz: bool) -> Option<Alu> {
        Some(match by {
            Type::S32 => by_size!(ty, T => ternary(|a: T, b: T, c: i32| if c >= 0 { a } else { b })),
            Type::F32 if ftz => by_size!(ty, T => ternary(|a: T, b: T, c: f32| if flush(c) >= 0.0 { a } else { b })),
            Type::F32 => by_size!(ty, T => ternary(|a: T, b: T, c: f32| if c >= 0.0 { a } else { b })),
            _ => return None,
        })
    }
    let (mut modifiers, by) = d.typed()?;
    let ty = d.known(modifiers.pop().and_then(Type::named))?;
    let ftz = modifiers == ["ftz"];
    if !modifiers.is_empty() && !(ftz && by == Type::F32) {
        return d.unknown();
    }
    let alu = d.known(alu(ty, by, ftz))?;
    Ok((d.alu(alu, ty, [ty, ty, by])?, Class::Move))
}
