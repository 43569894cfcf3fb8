//! Branches, barriers, and what the lanes of a warp do together.

use super::decoder::{Decoded, Decoder};
use super::memory::atomic_op;
use super::names::Binding;
use crate::parse::Result;
use crate::parse::ast::Operand;
use crate::program::{
    AtomicOp, Barrier, BarrierReduce, Class, Match, Op, Reduce, Shuffle, ShuffleMode, Switch, Vote, VoteMode,
};
use crate::types::{File, Type};

/// `bra`; the target is a label's number until labels have places.
pub(super) fn branch(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    if !matches!(d.modifiers()[..], [] | ["uni"]) {
        return d.unknown();
    }
    let [target] = d.operands()?;
    Ok((Op::Branch(d.label(target)?), Class::Control))
}

/// `ret`, `exit`, `trap` and `brkpt`: `op`.
pub(super) fn leave(d: &mut Decoder<'_, '_, '_>, op: Op) -> Decoded {
    if !(d.modifiers().is_empty() || d.instruction.opcode == "ret.uni") {
        return d.unknown();
    }
    let [] = d.operands()?;
    Ok((op, Class::Control))
}

/// `brx.idx`; targets are labels' numbers until labels have places.
pub(super) fn switch(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    if !matches!(d.modifiers()[..], ["idx"] | ["idx", "uni"]) {
        return d.unknown();
    }
    let [index, list] = d.operands()?;
    let index = d.read(index, Type::U32)?;
    let Operand::Name(list) = list else { return d.error("the list of targets must be a name") };
    let Some(Binding::Targets(number)) = d.names.find(list) else {
        return d.error(format!("`{list}` is no list of branch targets"));
    };
    let names = d.names.targets[number as usize].clone();
    let targets = names.iter().map(|name| d.label(&Operand::Name(name))).collect::<Result<_>>()?;
    Ok((Op::Switch(Box::new(Switch { index, targets })), Class::Control))
}

/// `bar` and `barrier`.
pub(super) fn barrier(d: &mut Decoder<'_, '_, '_>, base: &str) -> Decoded {
    let modifiers = d.modifiers();
    let rest = modifiers.strip_prefix(&["cta"]).unwrap_or(&modifiers);
    if base == "bar" && rest == ["warp", "sync"] {
        let [mask] = d.operands()?;
        return Ok((Op::WarpSync(d.read(mask, Type::U32)?), Class::Barrier));
    }
    let (aligned, rest) = match rest {
        [kind @ ("sync" | "arrive" | "red"), "aligned", rest @ ..] if base == "barrier" => (true, (*kind, rest)),
        [kind @ ("sync" | "arrive" | "red"), rest @ ..] => (base == "bar", (*kind, rest)),
        _ => return d.unknown(),
    };
    match rest {
        ("sync" | "arrive", []) => plain_barrier(d, aligned, rest.0 == "sync"),
        ("red", [op, ty]) => reducing_barrier(d, aligned, op, ty),
        _ => d.unknown(),
    }
}

fn plain_barrier(d: &mut Decoder<'_, '_, '_>, aligned: bool, waits: bool) -> Decoded {
    let operands = d.instruction.operands.as_slice();
    let (id, threads) = match operands {
        [id] if waits => (id, None),
        [id, threads] => (id, Some(threads)),
        _ => return d.error(format!("`{}` has the wrong number of operands", d.instruction.opcode)),
    };
    let id = d.read(id, Type::U32)?;
    let threads = threads.map(|threads| d.read(threads, Type::U32)).transpose()?;
    Ok((Op::Barrier(Box::new(Barrier { id, threads, aligned, waits, reduce: None })), Class::Barrier))
}

fn reducing_barrier(d: &mut Decoder<'_, '_, '_>, aligned: bool, op: &str, ty: &str) -> Decoded {
    let (op, ty) = match (op, ty) {
        ("popc", "u32") => (BarrierReduce::Count, Type::U32),
        ("and", "pred") => (BarrierReduce::And, Type::Pred),
        ("or", "pred") => (BarrierReduce::Or, Type::Pred),
        _ => return d.unknown(),
    };
    let operands = d.instruction.operands.as_slice();
    let (to, id, threads, source) = match operands {
        [to, id, source] => (to, id, None, source),
        [to, id, threads, source] => (to, id, Some(threads), source),
        _ => return d.error(format!("`{}` has the wrong number of operands", d.instruction.opcode)),
    };
    let id = d.read(id, Type::U32)?;
    let threads = threads.map(|threads| d.read(threads, Type::U32)).transpose()?;
    let source = d.predicate(source)?;
    let reduce = Some((op, d.write(to, ty)?, source));
    Ok((Op::Barrier(Box::new(Barrier { id, threads, aligned, waits: true, reduce })), Class::Barrier))
}

/// `shfl.sync.mode.b32 d[|p], a, b, c, mask`.
pub(super) fn shuffle(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let mode = match d.modifiers()[..] {
        ["sync", "up", "b32"] => ShuffleMode::Up,
        ["sync", "down", "b32"] => ShuffleMode::Down,
        ["sync", "bfly", "b32"] => ShuffleMode::Butterfly,
        ["sync", "idx", "b32"] => ShuffleMode::Index,
        _ => return d.unknown(),
    };
    let [to, source, lane, clamp, mask] = d.operands()?;
    let (to, valid) = Decoder::pair(to);
    let shuffle = Shuffle {
        mode,
        source: d.read(source, Type::B32)?,
        lane: d.read(lane, Type::B32)?,
        clamp: d.read(clamp, Type::B32)?,
        mask: d.read(mask, Type::B32)?,
        destination: d.write(to, Type::B32)?,
        valid: d.write(valid, Type::Pred)?,
    };
    Ok((Op::Shuffle(Box::new(shuffle)), Class::Collective))
}

/// `vote.sync.mode d, [!]a, mask`.
pub(super) fn vote(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let (mode, ty) = match d.modifiers()[..] {
        ["sync", "all", "pred"] => (VoteMode::All, Type::Pred),
        ["sync", "any", "pred"] => (VoteMode::Any, Type::Pred),
        ["sync", "uni", "pred"] => (VoteMode::Uniform, Type::Pred),
        ["sync", "ballot", "b32"] => (VoteMode::Ballot, Type::B32),
        _ => return d.unknown(),
    };
    let [to, source, mask] = d.operands()?;
    let source = d.predicate(source)?;
    let mask = d.read(mask, Type::B32)?;
    let vote = Vote { mode, source, mask, destination: d.write(to, ty)? };
    Ok((Op::Vote(Box::new(vote)), Class::Collective))
}

/// `match.any.sync.type d, a, mask` and `match.all.sync.type d[|p], a, mask`.
pub(super) fn find_equal(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let (all, ty) = match d.modifiers()[..] {
        [which @ ("any" | "all"), "sync", "b32"] => (which == "all", Type::B32),
        [which @ ("any" | "all"), "sync", "b64"] => (which == "all", Type::B64),
        _ => return d.unknown(),
    };
    let [to, source, mask] = d.operands()?;
    let (to, equal) = Decoder::pair(to);
    let found = Match {
        all,
        file: ty.file(),
        source: d.read(source, ty)?,
        mask: d.read(mask, Type::B32)?,
        destination: d.write(to, Type::B32)?,
        equal: d.write(equal, Type::Pred)?,
    };
    Ok((Op::Match(Box::new(found)), Class::Collective))
}

/// `redux.sync.op.type d, a, mask`.
pub(super) fn reduce(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    let modifiers = d.modifiers();
    let ["sync", op, ty] = modifiers[..] else { return d.unknown() };
    let op = d.known(atomic_op(op))?;
    let signed = match (op, ty) {
        (AtomicOp::Add | AtomicOp::Min | AtomicOp::Max, "s32") => true,
        (AtomicOp::Add | AtomicOp::Min | AtomicOp::Max, "u32") => false,
        (AtomicOp::And | AtomicOp::Or | AtomicOp::Xor, "b32") => false,
        _ => return d.unknown(),
    };
    let [to, source, mask] = d.operands()?;
    let source = d.read(source, Type::B32)?;
    let mask = d.read(mask, Type::B32)?;
    let reduce = Reduce { op, signed, source, mask, destination: d.write(to, Type::B32)? };
    Ok((Op::Reduce(Box::new(reduce)), Class::Collective))
}

/// `activemask.b32 d`.
pub(super) fn active_mask(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    if d.modifiers() != ["b32"] {
        return d.unknown();
    }
    let [to] = d.operands()?;
    Ok((Op::ActiveMask(d.write(to, Type::B32)?), Class::Collective))
}

/// Instructions that order memory or warm caches: read and passed over.
pub(super) fn nothing(d: &mut Decoder<'_, '_, '_>, base: &str) -> Decoded {
    let modifiers = d.modifiers();
    let known = match base {
        "membar" => matches!(modifiers[..], ["cta" | "gl" | "sys"]),
        "fence" => matches!(modifiers[..], ["cta" | "gpu" | "sys"] | ["sc" | "acq_rel", "cta" | "gpu" | "sys"]),
        "nanosleep" => modifiers == ["u32"],
        "prefetch" => {
            matches!(modifiers[..], ["global", "L1" | "L2"] | ["global", "L2::evict_last" | "L2::evict_normal"])
        }
        _ => false,
    };
    if !known {
        return d.unknown();
    }
    for operand in &d.instruction.operands {
        match operand {
            Operand::Address(..) => {
                d.address(operand, crate::types::Space::Global)?;
            }
            _ => {
                d.read(operand, Type::U32)?;
            }
        }
    }
    Ok((Op::Nothing, Class::Fence))
}

/// `createpolicy`: a cache policy changes nothing here, so any value will do.
pub(super) fn cache_policy(d: &mut Decoder<'_, '_, '_>) -> Decoded {
    if d.modifiers().last() != Some(&"b64") {
        return d.unknown();
    }
    let Some(to) = d.instruction.operands.first() else { return d.unknown() };
    let zero = d.names.constant_row(File::Wide, 0, d.instruction.line)?;
    let to = d.write(to, Type::B64)?;
    Ok((Op::Alu(crate::run::lanes::unary(|a: u64| a), [to, zero, 0, 0, 0, 0]), Class::Move))
}
