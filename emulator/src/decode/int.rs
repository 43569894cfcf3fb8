//! Integer and bit instructions.

use super::decoder::{Decoded, Decoder};
use super::macros::{by_sign, by_size};
use crate::arith::int;
use crate::parse::Result;
use crate::program::{Class, Op};
use crate::run::lanes::{Alu, Rows, binary, carry, logic, quaternary, ternary, unary};
use crate::types::Type;

/// How an instruction's types follow from the type it names.
enum Form {
    /// d = a, of the named type.
    Unary,
    /// d = a, b.
    Binary,
    /// d = a, b, c.
    Ternary,
    /// d = a, b with b a 32-bit count.
    Shift,
    /// d (u32) = a.
    Count,
}

/// An integer instruction of one named type.
pub(super) fn decode(d: &mut Decoder<'_, '_, '_>, name: &str, ty: Type) -> Decoded {
    let (form, alu) = d.known(alu(name, ty))?;
    let op = match form {
        Form::Unary => d.alu(alu, ty, [ty])?,
        Form::Binary => d.alu(alu, ty, [ty; 2])?,
        Form::Ternary => d.alu(alu, ty, [ty; 3])?,
        Form::Shift => d.alu(alu, ty, [ty, Type::U32])?,
        Form::Count => d.alu(alu, Type::U32, [ty])?,
    };
    Ok((op, Class::Integer))
}

fn alu(name: &str, ty: Type) -> Option<(Form, Alu)> {
    if ty.is_float() || ty.bits() < 16 {
        return None;
    }
    let found = match name {
        "abs" | "neg" | "not" | "cnot" | "brev" => (Form::Unary, one(name, ty)?),
        "popc" | "clz" | "bfind" | "bfind.shiftamt" => (Form::Count, count(name, ty)?),
        "shl" | "shr" => (Form::Shift, shift(name, ty)?),
        "mad.lo" | "mad.hi" | "mad.hi.sat" | "mad24.lo" | "mad24.hi" | "sad" => (Form::Ternary, three(name, ty)?),
        _ => (Form::Binary, two(name, ty)?),
    };
    Some(found)
}

fn one(name: &str, ty: Type) -> Option<Alu> {
    Some(match (name, ty) {
        ("abs", Type::S16) => unary(i16::wrapping_abs),
        ("abs", Type::S32) => unary(i32::wrapping_abs),
        ("abs", Type::S64) => unary(i64::wrapping_abs),
        ("neg", Type::S16) => unary(i16::wrapping_neg),
        ("neg", Type::S32) => unary(i32::wrapping_neg),
        ("neg", Type::S64) => unary(i64::wrapping_neg),
        ("not", Type::B16 | Type::B32 | Type::B64) => by_size!(ty, T => unary(|a: T| !a)),
        ("cnot", Type::B16 | Type::B32 | Type::B64) => by_size!(ty, T => unary(|a: T| T::from(a == 0))),
        ("brev", Type::B32) => unary(u32::reverse_bits),
        ("brev", Type::B64) => unary(u64::reverse_bits),
        _ => return None,
    })
}

fn count(name: &str, ty: Type) -> Option<Alu> {
    use int::{bfind_s32, bfind_s64, bfind_u32, bfind_u64, shift_amount};
    Some(match (name, ty) {
        ("popc", Type::B32) => unary(u32::count_ones),
        ("popc", Type::B64) => unary(u64::count_ones),
        ("clz", Type::B32) => unary(u32::leading_zeros),
        ("clz", Type::B64) => unary(u64::leading_zeros),
        ("bfind", Type::U32) => unary(bfind_u32),
        ("bfind", Type::S32) => unary(bfind_s32),
        ("bfind", Type::U64) => unary(bfind_u64),
        ("bfind", Type::S64) => unary(bfind_s64),
        ("bfind.shiftamt", Type::U32) => unary(|a| shift_amount::<32>(bfind_u32(a))),
        ("bfind.shiftamt", Type::S32) => unary(|a| shift_amount::<32>(bfind_s32(a))),
        ("bfind.shiftamt", Type::U64) => unary(|a| shift_amount::<64>(bfind_u64(a))),
        ("bfind.shiftamt", Type::S64) => unary(|a| shift_amount::<64>(bfind_s64(a))),
        _ => return None,
    })
}

fn shift(name: &str, ty: Type) -> Option<Alu> {
    Some(match (name, ty) {
        ("shl", Type::B16) => binary(int::shl_b16),
        ("shl", Type::B32) => binary(int::shl_b32),
        ("shl", Type::B64) => binary(int::shl_b64),
        ("shr", Type::B16 | Type::U16) => binary(int::shr_u16),
        ("shr", Type::B32 | Type::U32) => binary(int::shr_u32),
        ("shr", Type::B64 | Type::U64) => binary(int::shr_u64),
        ("shr", Type::S16) => binary(int::shr_s16),
        ("shr", Type::S32) => binary(int::shr_s32),
        ("shr", Type::S64) => binary(int::shr_s64),
        _ => return None,
    })
}

fn two(name: &str, ty: Type) -> Option<Alu> {
    let arithmetic = !matches!(ty, Type::B16 | Type::B32 | Type::B64);
    Some(match name {
        "add" if arithmetic => by_size!(ty, T => binary(T::wrapping_add)),
        "sub" if arithmetic => by_size!(ty, T => binary(T::wrapping_sub)),
        "mul.lo" if arithmetic => by_size!(ty, T => binary(T::wrapping_mul)),
        "add.sat" if ty == Type::S32 => binary(i32::saturating_add),
        "sub.sat" if ty == Type::S32 => binary(i32::saturating_sub),
        "mul.hi" => multiply_high(ty)?,
        "mul24.lo" if ty == Type::U32 => binary(|a, b| (int::u24(a) * int::u24(b)) as u32),
        "mul24.lo" if ty == Type::S32 => binary(|a, b| (int::s24(a) * int::s24(b)) as i32),
        "mul24.hi" if ty == Type::U32 => binary(|a, b| ((int::u24(a) * int::u24(b)) >> 16) as u32),
        "mul24.hi" if ty == Type::S32 => binary(|a, b| ((int::s24(a) * int::s24(b)) >> 16) as i32),
        "div" | "rem" => divide(name, ty)?,
        "min" => by_sign!(ty, T => binary(|a: T, b: T| a.min(b))),
        "max" => by_sign!(ty, T => binary(|a: T, b: T| a.max(b))),
        "and" if !arithmetic => by_size!(ty, T => binary(|a: T, b: T| a & b)),
        "or" if !arithmetic => by_size!(ty, T => binary(|a: T, b: T| a | b)),
        "xor" if !arithmetic => by_size!(ty, T => binary(|a: T, b: T| a ^ b)),
        _ => return None,
    })
}

fn multiply_high(ty: Type) -> Option<Alu> {
    Some(match ty {
        Type::U16 => binary(|a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16),
        Type::S16 => binary(|a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16),
        Type::U32 => binary(|a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        Type::S32 => binary(|a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        Type::U64 => binary(int::mul_hi_u64),
        Type::S64 => binary(int::mul_hi_s64),
        _ => return None,
    })
}

fn divide(name: &str, ty: Type) -> Option<Alu> {
    Some(match (name, ty) {
        ("div", Type::U16) => binary(int::div_u16),
        ("div", Type::S16) => binary(int::div_s16),
        ("div", Type::U32) => binary(int::div_u32),
        ("div", Type::S32) => binary(int::div_s32),
        ("div", Type::U64) => binary(int::div_u64),
        ("div", Type::S64) => binary(int::div_s64),
        ("rem", Type::U16) => binary(int::rem_u16),
        ("rem", Type::S16) => binary(int::rem_s16),
        ("rem", Type::U32) => binary(int::rem_u32),
        ("rem", Type::S32) => binary(int::rem_s32),
        ("rem", Type::U64) => binary(int::rem_u64),
        ("rem", Type::S64) => binary(int::rem_s64),
        _ => return None,
    })
}

fn three(name: &str, ty: Type) -> Option<Alu> {
    Some(match (name, ty) {
        ("mad.lo", Type::U16 | Type::S16 | Type::U32 | Type::S32 | Type::U64 | Type::S64) => {
            by_size!(ty, T => ternary(|a: T, b: T, c: T| a.wrapping_mul(b).wrapping_add(c)))
        }
        ("mad.hi", Type::U32) => {
            ternary(|a: u32, b: u32, c: u32| ((u64::from(a) * u64::from(b)) >> 32).wrapping_add(c.into()) as u32)
        }
        ("mad.hi", Type::S32) => {
            ternary(|a: i32, b: i32, c: i32| (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c))
        }
        ("mad.hi.sat", Type::S32) => {
            ternary(|a: i32, b: i32, c: i32| (((i64::from(a) * i64::from(b)) >> 32) as i32).saturating_add(c))
        }
        ("mad.hi", Type::U64) => ternary(|a: u64, b: u64, c: u64| int::mul_hi_u64(a, b).wrapping_add(c)),
        ("mad.hi", Type::S64) => ternary(|a: i64, b: i64, c: i64| int::mul_hi_s64(a, b).wrapping_add(c)),
        ("mad24.lo", Type::U32) => {
            ternary(|a: u32, b: u32, c: u32| ((int::u24(a) * int::u24(b)) as u32).wrapping_add(c))
        }
        ("mad24.lo", Type::S32) => {
            ternary(|a: i32, b: i32, c: i32| ((int::s24(a) * int::s24(b)) as i32).wrapping_add(c))
        }
        ("mad24.hi", Type::U32) => {
            ternary(|a: u32, b: u32, c: u32| (((int::u24(a) * int::u24(b)) >> 16) as u32).wrapping_add(c))
        }
        ("mad24.hi", Type::S32) => {
            ternary(|a: i32, b: i32, c: i32| (((int::s24(a) * int::s24(b)) >> 16) as i32).wrapping_add(c))
        }
        ("sad", _) => by_sign!(ty, T => ternary(|a: T, b: T, c: T| c.wrapping_add(a.max(b).wrapping_sub(a.min(b))))),
        _ => return None,
    })
}

/// `mul.wide` and `mad.wide`: a result twice as wide as the sources.
pub(super) fn wide(d: &mut Decoder<'_, '_, '_>, multiply_add: bool, ty: Type) -> Decoded {
    macro_rules! wide {
        ($from:ty, $to:ty) => {
            if multiply_add {
                ternary(|a: $from, b: $from, c: $to| <$to>::from(a).wrapping_mul(b.into()).wrapping_add(c))
            } else {
                binary(|a: $from, b: $from| <$to>::from(a).wrapping_mul(b.into()))
            }
        };
    }
    let (alu, to) = match ty {
        Type::U16 => (wide!(u16, u32), Type::U32),
        Type::S16 => (wide!(i16, i32), Type::S32),
        Type::U32 => (wide!(u32, u64), Type::U64),
        Type::S32 => (wide!(i32, i64), Type::S64),
        _ => return d.unknown(),
    };
    let op = if multiply_add { d.alu(alu, to, [ty, ty, to])? } else { d.alu(alu, to, [ty; 2])? };
    Ok((op, Class::Integer))
}

/// `bfe` and `bfi`.
pub(super) fn bit_field(d: &mut Decoder<'_, '_, '_>, name: &str, ty: Type) -> Decoded {
    let alu = match (name, ty) {
        ("bfe", Type::U32) => ternary(int::bfe_u32),
        ("bfe", Type::S32) => ternary(int::bfe_s32),
        ("bfe", Type::U64) => ternary(int::bfe_u64),
        ("bfe", Type::S64) => ternary(int::bfe_s64),
        ("bfi", Type::B32) => quaternary(int::bfi_b32),
        ("bfi", Type::B64) => quaternary(int::bfi_b64),
        _ => return d.unknown(),
    };
    let op = match name {
        "bfe" => d.alu(alu, ty, [ty, Type::U32, Type::U32])?,
        _ => d.alu(alu, ty, [ty, ty, Type::U32, Type::U32])?,
    };
    Ok((op, Class::Integer))
}

/// Instructions on 32 bits whose operands are all 32 bits: `shf`, `prmt`, `lop3`, `dp4a`, `dp2a`.
pub(super) fn words(d: &mut Decoder<'_, '_, '_>, name: &str) -> Decoded {
    let word = Type::B32;
    let op = match name {
        "lop3.b32" => {
            let alu = quaternary(int::lop3);
            d.alu(alu, word, [word; 4])?
        }
        _ => {
            let alu = d.known(three_words(name))?;
            d.alu(alu, word, [word; 3])?
        }
    };
    Ok((op, Class::Integer))
}

fn three_words(name: &str) -> Option<Alu> {
    if let Some(mode) = name.strip_prefix("prmt.b32.") {
        return Some(match int::prmt_mode(mode)? {
            0 => ternary(int::prmt_special::<0>),
            1 => ternary(int::prmt_special::<1>),
            2 => ternary(int::prmt_special::<2>),
            3 => ternary(int::prmt_special::<3>),
            4 => ternary(int::prmt_special::<4>),
            _ => ternary(int::prmt_special::<5>),
        });
    }
    Some(match name {
        "prmt.b32" => ternary(int::prmt),
        "shf.l.wrap.b32" => ternary(int::shf_l_wrap),
        "shf.l.clamp.b32" => ternary(int::shf_l_clamp),
        "shf.r.wrap.b32" => ternary(int::shf_r_wrap),
        "shf.r.clamp.b32" => ternary(int::shf_r_clamp),
        "dp4a.s32.s32" => ternary(int::dp4a::<true, true>),
        "dp4a.s32.u32" => ternary(int::dp4a::<true, false>),
        "dp4a.u32.s32" => ternary(int::dp4a::<false, true>),
        "dp4a.u32.u32" => ternary(int::dp4a::<false, false>),
        "dp2a.lo.s32.s32" => ternary(int::dp2a::<true, true, false>),
        "dp2a.lo.s32.u32" => ternary(int::dp2a::<true, false, false>),
        "dp2a.lo.u32.s32" => ternary(int::dp2a::<false, true, false>),
        "dp2a.lo.u32.u32" => ternary(int::dp2a::<false, false, false>),
        "dp2a.hi.s32.s32" => ternary(int::dp2a::<true, true, true>),
        "dp2a.hi.s32.u32" => ternary(int::dp2a::<true, false, true>),
        "dp2a.hi.u32.s32" => ternary(int::dp2a::<false, true, true>),
        "dp2a.hi.u32.u32" => ternary(int::dp2a::<false, false, true>),
        _ => return None,
    })
}

/// `and`, `or`, `xor`, `not` on predicates.
pub(super) fn predicates(d: &mut Decoder<'_, '_, '_>, name: &str) -> Decoded {
    let alu = match name {
        "and" => logic(|a, b| a & b),
        "or" => logic(|a, b| a | b),
        "xor" => logic(|a, b| a ^ b),
        "not" => logic(|a, _| !a),
        _ => return d.unknown(),
    };
    let pred = Type::Pred;
    let op = if name == "not" { d.alu(alu, pred, [pred])? } else { d.alu(alu, pred, [pred; 2])? };
    Ok((op, Class::Compare))
}

/// Arithmetic with the carry flag: `add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, `madc.hi`, ….
pub(super) fn with_carry(d: &mut Decoder<'_, '_, '_>, name: &str, writes: bool, ty: Type) -> Decoded {
    let alu = d.known(carry_alu(name, ty))?;
    let operands = d.instruction.operands.as_slice();
    let sources = if name.starts_with("mad") { 3 } else { 2 };
    if operands.len() != sources + 1 {
        return d.error(format!("`{}` takes {} operands", d.instruction.opcode, sources + 1));
    }
    let mut rows: Rows = [0; 6];
    for at in 1..=sources {
        rows[at] = d.read(&operands[at], ty)?;
    }
    if sources == 2 {
        rows[3] = rows[2];
    }
    rows[4] = d.carry(writes);
    rows[5] = u16::from(writes);
    rows[0] = d.write(&operands[0], ty)?;
    Ok((Op::Alu(alu, rows), Class::Integer))
}

fn carry_alu(name: &str, ty: Type) -> Option<Alu> {
    macro_rules! sized {
        ($T:ident, $wide:ty) => {{
            fn sum(a: $T, b: $T, carry: bool) -> ($T, bool) {
                let (sum, first) = a.overflowing_add(b);
                let (sum, second) = sum.overflowing_add($T::from(carry));
                (sum, first || second)
            }
            fn difference(a: $T, b: $T, borrow: bool) -> ($T, bool) {
                let (rest, first) = a.overflowing_sub(b);
                let (rest, second) = rest.overflowing_sub($T::from(borrow));
                (rest, first || second)
            }
            fn product(a: $T, b: $T) -> ($T, $T) {
                let product = <$wide>::from(a) * <$wide>::from(b);
                (product as $T, (product >> $T::BITS) as $T)
            }
            match name {
                "add" => carry(|a: $T, b: $T, _: $T, _| sum(a, b, false)),
                "addc" => carry(|a: $T, b: $T, _: $T, flag| sum(a, b, flag)),
                "sub" => carry(|a: $T, b: $T, _: $T, _| difference(a, b, false)),
                "subc" => carry(|a: $T, b: $T, _: $T, flag| difference(a, b, flag)),
                "mad.lo" => carry(|a: $T, b: $T, c: $T, _| sum(product(a, b).0, c, false)),
                "madc.lo" => carry(|a: $T, b: $T, c: $T, flag| sum(product(a, b).0, c, flag)),
                "mad.hi" if !ty.is_signed() => carry(|a: $T, b: $T, c: $T, _| sum(product(a, b).1, c, false)),
                "madc.hi" if !ty.is_signed() => carry(|a: $T, b: $T, c: $T, flag| sum(product(a, b).1, c, flag)),
                _ => return None,
            }
        }};
    }
    Some(match ty {
        Type::U32 | Type::S32 => sized!(u32, u64),
        Type::U64 | Type::S64 => sized!(u64, u128),
        _ => return None,
    })
}

impl Decoder<'_, '_, '_> {
    /// The row of the carry flag.
    fn carry(&mut self, writes: bool) -> u16 {
        let flag = self.names.carry();
        self.names.read.push(flag);
        if writes {
            self.names.written.push(flag);
        }
        self.names.register_row(flag)
    }
}

/// Integer instructions whose modifiers stand before the type: `mul.lo.s32`, `bfind.shiftamt.u32`, ….
pub(super) fn family(d: &mut Decoder<'_, '_, '_>, base: &str) -> Result<Option<(Op, Class)>> {
    let (modifiers, ty) = match base {
        "prmt" | "shf" | "lop3" | "dp4a" | "dp2a" => return words(d, d.instruction.opcode).map(Some),
        _ => d.typed()?,
    };
    if ty.is_float() {
        return Ok(None);
    }
    let name = std::iter::once(base).chain(modifiers.iter().copied()).collect::<Vec<_>>().join(".");
    let decoded = match (base, ty) {
        ("and" | "or" | "xor" | "not", Type::Pred) => predicates(d, &name),
        ("mul" | "mad", _) if modifiers == ["wide"] => wide(d, base == "mad", ty),
        ("bfe" | "bfi", _) if modifiers.is_empty() => bit_field(d, base, ty),
        ("add" | "sub" | "addc" | "subc" | "mad" | "madc", _)
            if base.ends_with('c') || modifiers.last() == Some(&"cc") =>
        {
            let writes = modifiers.last() == Some(&"cc");
            with_carry(d, name.trim_end_matches(".cc"), writes, ty)
        }
        _ => decode(d, &name, ty),
    };
    decoded.map(Some)
}
