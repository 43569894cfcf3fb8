//! `mov`, packing and unpacking, `cvta`, `isspacep`.

use super::decoder::{Decoded, Decoder};
use crate::parse::ast::Operand;
use crate::program::{Class, Op};
use crate::run::lanes::{Alu, Rows, logic, pack, test, unary, unpack};
use crate::run::window;
use crate::types::{File, Space, Type};

/// `mov.type d, a`, where one side may be a vector.
pub(super) fn mov(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let (modifiers, ty) = d.typed()?;
    if !modifiers.is_empty() {
        return d.unknown();
    }
    let [to, from] = d.operands()?;
    let op = match (to, from) {
        (Operand::Vector(parts), _) => split(d, parts, from, ty)?,
        (_, Operand::Vector(parts)) => joined(d, to, parts, ty)?,
        _ => {
            let alu = match ty.file() {
                File::Pred => logic(|a, _| a),
                File::Word if ty.bits() == 16 => unary(|a: u16| a),
                File::Word if ty.bits() == 32 => unary(|a: u32| a),
                File::Wide => unary(|a: u64| a),
                File::Word => return d.unknown(),
            };
            d.alu(alu, ty, [ty])?
        }
    };
    Ok((op, Class::Move))
}

/// The type of each of `parts` elements of a packed value.
fn part(ty: Type, parts: usize) -> Option<Type> {
    match (ty.bits() as usize).checked_div(parts)? {
        8 => Some(Type::B8),
        16 => Some(Type::B16),
        32 => Some(Type::B32),
        _ => None,
    }
}

fn joined<'a>(
    d: &mut Decoder<'_, 'a, '_>,
    to: &Operand<'a>,
    parts: &[Operand<'a>],
    ty: Type,
) -> crate::parse::Result<Op> {
    let alu = d.known(pack_alu(ty.bits(), parts.len()))?;
    let part = d.known(part(ty, parts.len()))?;
    let mut rows = Rows::default();
    for (at, operand) in parts.iter().enumerate() {
        rows[1 + at] = d.read(operand, part)?;
    }
    rows[0] = d.write(to, ty)?;
    Ok(Op::Alu(alu, rows))
}

fn split<'a>(
    d: &mut Decoder<'_, 'a, '_>,
    parts: &[Operand<'a>],
    from: &Operand<'a>,
    ty: Type,
) -> crate::parse::Result<Op> {
    let alu = d.known(unpack_alu(ty.bits(), parts.len()))?;
    let part = d.known(part(ty, parts.len()))?;
    let mut rows = Rows::default();
    rows[parts.len()] = d.read(from, ty)?;
    for (at, operand) in parts.iter().enumerate() {
        rows[at] = d.write(operand, part)?;
    }
    Ok(Op::Alu(alu, rows))
}

fn pack_alu(bits: u32, parts: usize) -> Option<Alu> {
    Some(match (bits, parts) {
        (16, 2) => pack(u16::from_le_bytes),
        (32, 2) => pack(|[a, b]: [u16; 2]| u32::from(a) | u32::from(b) << 16),
        (32, 4) => pack(u32::from_le_bytes),
        (64, 2) => pack(|[a, b]: [u32; 2]| u64::from(a) | u64::from(b) << 32),
        (64, 4) => pack(|parts: [u16; 4]| parts.iter().rev().fold(0u64, |all, &part| all << 16 | u64::from(part))),
        _ => return None,
    })
}

fn unpack_alu(bits: u32, parts: usize) -> Option<Alu> {
    Some(match (bits, parts) {
        (16, 2) => unpack(u16::to_le_bytes),
        (32, 2) => unpack(|a: u32| [a as u16, (a >> 16) as u16]),
        (32, 4) => unpack(u32::to_le_bytes),
        (64, 2) => unpack(|a: u64| [a as u32, (a >> 32) as u32]),
        (64, 4) => unpack(|a: u64| [0, 16, 32, 48].map(|by| (a >> by) as u16)),
        _ => return None,
    })
}

/// `cvta[.to].space.u64 d, a`: between an address in a space and a generic one.
pub(super) fn cvta(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let (modifiers, ty) = d.typed()?;
    let (to, space) = match modifiers[..] {
        ["to", space] => (true, space),
        [space] => (false, space),
        _ => return d.unknown(),
    };
    let space = d.known(Space::named(space.trim_end_matches("::cta")))?;
    let alu = match (space, to) {
        (Space::Global | Space::Const, _) => unary(|a: u64| a),
        (Space::Shared, false) => unary(|a: u64| a.wrapping_add(window::SHARED)),
        (Space::Shared, true) => unary(|a: u64| a.wrapping_sub(window::SHARED)),
        (Space::Local, false) => unary(|a: u64| a.wrapping_add(window::LOCAL)),
        (Space::Local, true) => unary(|a: u64| a.wrapping_sub(window::LOCAL)),
        (Space::Param, false) => unary(|a: u64| a.wrapping_add(window::PARAM)),
        (Space::Param, true) => unary(|a: u64| a.wrapping_sub(window::PARAM)),
        (Space::Generic, _) => return d.unknown(),
    };
    if !matches!(ty, Type::U64) {
        return d.unknown();
    }
    Ok((d.alu(alu, ty, [ty])?, Class::Move))
}

/// `isspacep.space p, a`.
pub(super) fn isspacep(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let alu = match d.modifiers()[..] {
        ["global"] => test(|a: u64| window::space(a) == Space::Global),
        ["shared"] => test(|a: u64| window::space(a) == Space::Shared),
        ["local"] => test(|a: u64| window::space(a) == Space::Local),
        ["param"] => test(|a: u64| window::space(a) == Space::Param),
        _ => return d.unknown(),
    };
    Ok((d.alu(alu, Type::Pred, [Type::B64])?, Class::Compare))
}
