//! Loads, stores, atomics, asynchronous copies, matrix loads.

use super::decoder::{Decoded, Decoder};
use crate::parse::Result;
use crate::parse::ast::Operand;
use crate::program::{Atomic, AtomicOp, Class, CopyAsync, Extend, Load, LoadMatrix, Op, Order, Store};
use crate::types::{File, Space, Type};

/// The modifiers of `ld` and `st`.
struct Access {
    space: Space,
    order: Order,
    count: usize,
    ty: Type,
    /// A cache policy follows as a last operand; it changes nothing here.
    policy: bool,
}

/// Hints that change speed alone.
fn is_hint(modifier: &str) -> bool {
    const HINTS: &[&str] = &["ca", "cg", "cs", "lu", "cv", "wb", "wt", "L2::64B", "L2::128B", "L2::256B"];
    HINTS.contains(&modifier)
        || modifier.strip_prefix("L1::").or(modifier.strip_prefix("L2::")).is_some_and(|hint| {
            matches!(hint, "evict_normal" | "evict_unchanged" | "evict_first" | "evict_last" | "no_allocate")
        })
}

fn space(modifier: &str) -> Option<Space> {
    match modifier {
        "shared::cta" => Some(Space::Shared),
        "param::entry" => Some(Space::Param),
        "global" | "shared" | "local" | "const" | "param" => Space::named(modifier),
        _ => None,
    }
}

fn access(d: &Decoder<'_, '_, '_>) -> Result<Access> {
    let (modifiers, ty) = d.typed()?;
    let mut access = Access { space: Space::Generic, order: Order::Plain, count: 1, ty, policy: false };
    for modifier in modifiers {
        match modifier {
            "weak" | "cta" | "gpu" | "sys" => {}
            "volatile" | "relaxed" | "acquire" | "release" => access.order = Order::Strong,
            "nc" => access.order = Order::ReadOnly,
            "v2" => access.count = 2,
            "v4" => access.count = 4,
            "L2::cache_hint" => access.policy = true,
            _ if is_hint(modifier) => {}
            _ => access.space = d.known(space(modifier))?,
        }
    }
    let bytes = ty.bytes() * access.count as u64;
    if bytes == 0 || bytes > 16 || access.order == Order::ReadOnly && access.space != Space::Global {
        return d.unknown();
    }
    Ok(access)
}

/// Reads over the cache policy and leaves `N` operands.
fn operands<'d, 'a, const N: usize>(d: &mut Decoder<'d, 'a, '_>, policy: bool) -> Result<&'d [Operand<'a>; N]> {
    let all = d.instruction.operands.as_slice();
    let (found, rest) = all.split_at(N.min(all.len()));
    if let ([operand], true) = (rest, policy) {
        d.read(operand, Type::B64)?;
    }
    match found.try_into() {
        Ok(found) if rest.len() == usize::from(policy) => Ok(found),
        _ => d.error(format!("`{}` takes {} operands, found {}", d.instruction.opcode, N, all.len())),
    }
}

fn class(space: Space, load: bool) -> Class {
    match (space, load) {
        (Space::Param, _) => Class::Param,
        (Space::Shared, true) => Class::SharedLoad,
        (Space::Shared, false) => Class::SharedStore,
        (Space::Local, _) => Class::Local,
        (_, true) => Class::GlobalLoad,
        (_, false) => Class::GlobalStore,
    }
}

/// `ld`.
pub(super) fn load(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let access = access(d)?;
    let [to, from] = operands(d, access.policy)?;
    let address = d.address(from, access.space)?;
    let elements = Decoder::elements(to);
    if elements.len() != access.count {
        return d.error(format!("`{}` takes {} destinations", d.instruction.opcode, access.count));
    }
    let mut rows = [0; 4];
    let mut held = None;
    for (row, element) in rows.iter_mut().zip(elements) {
        let (found, file, bits) = d.write_loose(element, access.ty)?;
        let sink = *element == Operand::Sink;
        if !sink && held.is_some_and(|held| held != (file, bits)) || bits < access.ty.bits() {
            return d.error(format!("the register's size does not fit type .{}", access.ty));
        }
        *row = found;
        held = if sink { held } else { Some((file, bits)) };
    }
    let (file, bits) = held.unwrap_or((access.ty.file(), access.ty.bits()));
    for (row, element) in rows.iter_mut().zip(elements) {
        if *element == Operand::Sink {
            *row = d.names.sink_row(file, d.instruction.line)?;
        }
    }
    let widens = access.ty.is_signed() && bits > access.ty.bits();
    let load = Load {
        space: access.space,
        order: access.order,
        address,
        bytes: access.ty.bytes(),
        extend: if widens { Extend::Sign(bits) } else { Extend::Zero },
        file,
        rows,
        count: access.count,
    };
    Ok((Op::Load(Box::new(load)), class(access.space, true)))
}

/// `st`.
pub(super) fn store(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let access = access(d)?;
    let [to, from] = operands(d, access.policy)?;
    let address = d.address(to, access.space)?;
    let elements = Decoder::elements(from);
    if elements.len() != access.count || matches!(access.space, Space::Param | Space::Const) {
        return d.unknown();
    }
    let mut rows = [0; 4];
    let mut held = None;
    for (row, element) in rows.iter_mut().zip(elements) {
        let (found, file, bits) = d.read_loose(element, access.ty)?;
        if held.is_some_and(|held| held != file) || bits < access.ty.bits() {
            return d.error(format!("the register's size does not fit type .{}", access.ty));
        }
        *row = found;
        held = Some(file);
    }
    let store = Store {
        space: access.space,
        order: access.order,
        address,
        bytes: access.ty.bytes(),
        file: held.unwrap_or(File::Word),
        rows,
        count: access.count,
    };
    Ok((Op::Store(Box::new(store)), class(access.space, false)))
}

/// `atom` and `red`.
pub(super) fn atomic(d: &mut Decoder<'_, '_, '_>, returns: bool) -> Decoded {
    let (modifiers, ty) = d.typed()?;
    let (mut place, mut op, mut noftz, mut policy) = (Space::Generic, None, false, false);
    for modifier in modifiers {
        match modifier {
            "relaxed" | "acquire" | "release" | "acq_rel" | "cta" | "gpu" | "sys" => {}
            "noftz" => noftz = true,
            "L2::cache_hint" => policy = true,
            _ => match atomic_op(modifier) {
                Some(found) if op.is_none() => op = Some(found),
                _ => place = d.known(space(modifier))?,
            },
        }
    }
    let op = d.known(op.filter(|op| fits(*op, ty, noftz)))?;
    let swaps = op == AtomicOp::CompareSwap;
    let mut rest = d.instruction.operands.as_slice();
    if policy && let Some((last, others)) = rest.split_last() {
        d.read(last, Type::B64)?;
        rest = others;
    }
    let destination = match rest.split_first() {
        Some((first, others)) if returns => {
            rest = others;
            Some(first)
        }
        _ => None,
    };
    let (address, operand, swap) = match rest {
        [address, operand] if !swaps => (address, operand, operand),
        [address, operand, swap] if swaps && returns => (address, operand, swap),
        _ => return d.error(format!("`{}` has the wrong number of operands", d.instruction.opcode)),
    };
    if !matches!(place, Space::Global | Space::Shared | Space::Generic) {
        return d.unknown();
    }
    let atomic = Atomic {
        space: place,
        address: d.address(address, place)?,
        op,
        ty,
        file: ty.file(),
        operand: d.read(operand, ty)?,
        swap: d.read(swap, ty)?,
        destination: destination.map(|operand| d.write(operand, ty)).transpose()?,
    };
    Ok((Op::Atomic(Box::new(atomic)), Class::Atomic))
}

/// The operation of that name.
pub(super) fn atomic_op(name: &str) -> Option<AtomicOp> {
    Some(match name {
        "add" => AtomicOp::Add,
        "min" => AtomicOp::Min,
        "max" => AtomicOp::Max,
        "inc" => AtomicOp::Inc,
        "dec" => AtomicOp::Dec,
        "and" => AtomicOp::And,
        "or" => AtomicOp::Or,
        "xor" => AtomicOp::Xor,
        "exch" => AtomicOp::Exchange,
        "cas" => AtomicOp::CompareSwap,
        _ => return None,
    })
}

/// Whether the PTX ISA has the operation on that type.
fn fits(op: AtomicOp, ty: Type, noftz: bool) -> bool {
    let small_float = matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2);
    if noftz != (small_float && op == AtomicOp::Add) {
        return false;
    }
    match op {
        AtomicOp::Add => {
            small_float || matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64 | Type::F32 | Type::F64)
        }
        AtomicOp::Min | AtomicOp::Max => matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64),
        AtomicOp::Inc | AtomicOp::Dec => ty == Type::U32,
        AtomicOp::And | AtomicOp::Or | AtomicOp::Xor | AtomicOp::Exchange => matches!(ty, Type::B32 | Type::B64),
        AtomicOp::CompareSwap => matches!(ty, Type::B16 | Type::B32 | Type::B64),
    }
}

/// `cp.async` and its groups.
pub(super) fn copy_async(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let modifiers = d.modifiers();
    let op = match modifiers[..] {
        ["async", "commit_group"] => {
            let [] = d.operands()?;
            Op::CopyCommit
        }
        ["async", "wait_all"] => {
            let [] = d.operands()?;
            Op::CopyWait { pending: 0, all: true }
        }
        ["async", "wait_group"] => match d.operands()? {
            [Operand::Int(pending @ 0..=0xffff)] => Op::CopyWait { pending: *pending as u32, all: false },
            _ => return d.error("the number of pending groups must be a small constant"),
        },
        ["async", cache @ ("ca" | "cg"), "shared" | "shared::cta", "global", ref hints @ ..] => copy(d, cache, hints)?,
        _ => return d.unknown(),
    };
    Ok((op, Class::AsyncCopy))
}

fn copy(d: &mut Decoder<'_, '_, '_>, cache: &str, hints: &[&str]) -> Result<Op> {
    let policy = hints.last() == Some(&"L2::cache_hint");
    if !hints.iter().all(|hint| is_hint(hint) || *hint == "L2::cache_hint") {
        return d.unknown();
    }
    let mut rest = d.instruction.operands.as_slice();
    if policy && let Some((last, others)) = rest.split_last() {
        d.read(last, Type::B64)?;
        rest = others;
    }
    let [to, from, Operand::Int(bytes), source @ ..] = rest else {
        return d.error(format!("`{}` takes two addresses and a size", d.instruction.opcode));
    };
    if !(matches!(bytes, 4 | 8 | 16) && (cache == "ca" || *bytes == 16)) {
        return d.error(format!("`{}` cannot copy {bytes} bytes", d.instruction.opcode));
    }
    let (mut source_bytes, mut ignore) = (None, None);
    match source {
        [] => {}
        [Operand::Not(_)] => ignore = Some(d.predicate(&source[0])?),
        [operand] => match d.read_loose(operand, Type::U32)? {
            (row, File::Pred, _) => ignore = Some((row, false)),
            (row, File::Word, _) => source_bytes = Some(row),
            _ => return d.error("the source size must be 32 bits"),
        },
        _ => return d.error(format!("`{}` has too many operands", d.instruction.opcode)),
    }
    let to = d.address(to, Space::Shared)?;
    let from = d.address(from, Space::Global)?;
    Ok(Op::CopyAsync(Box::new(CopyAsync { to, from, bytes: *bytes as u64, source_bytes, ignore })))
}

/// `ldmatrix.sync.aligned.m8n8.xN[.trans].shared.b16`.
pub(super) fn load_matrix(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let modifiers = d.modifiers();
    let ["sync", "aligned", "m8n8", number, ref rest @ ..] = modifiers[..] else { return d.unknown() };
    let transposed = match rest {
        ["shared" | "shared::cta", "b16"] => false,
        ["trans", "shared" | "shared::cta", "b16"] => true,
        _ => return d.unknown(),
    };
    let count = match number {
        "x1" => 1,
        "x2" => 2,
        "x4" => 4,
        _ => return d.unknown(),
    };
    let [to, from] = d.operands()?;
    let address = d.address(from, Space::Shared)?;
    let elements = Decoder::elements(to);
    if elements.len() != count {
        return d.error(format!("`{}` takes {count} destinations", d.instruction.opcode));
    }
    let mut rows = [0; 4];
    for (row, element) in rows.iter_mut().zip(elements) {
        *row = d.write(element, Type::B32)?;
    }
    Ok((Op::LoadMatrix(Box::new(LoadMatrix { address, rows, count, transposed })), Class::LoadMatrix))
}
