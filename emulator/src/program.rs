//! A kernel decoded: flat code whose operands are rows of the register files.

use crate::run::lanes::{Alu, Rows};
use crate::run::mma::Mma;
use crate::run::registers::FileSizes;
use crate::types::{File, Space, Type};
use std::sync::Arc;

/// One kernel, ready to run.
#[derive(Debug)]
pub(crate) struct Program {
    pub code: Vec<Inst>,
    /// Where each instruction stands.
    pub places: Vec<Place>,
    pub files: FileSizes,
    /// Rows that hold constants, and their values.
    pub constants: Vec<Constant>,
    /// Word rows that hold special registers.
    pub specials: Vec<(u16, Special)>,
    /// Bytes of static shared memory.
    pub shared_bytes: u64,
    /// Where dynamic shared memory starts.
    pub dynamic_start: u64,
    /// Bytes of local memory for each thread.
    pub local_bytes: u64,
    /// Bytes of the parameter block.
    pub param_bytes: u64,
}

/// A row that never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Word(u16, u32),
    Wide(u16, u64),
    Pred(u16, bool),
    /// The address of a module's variable, by number.
    Variable(u16, u32),
}

/// Where an instruction stands in the PTX and, through `.loc`, in the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub line: u32,
    pub source: Option<(Arc<str>, u32)>,
}

/// A special register that differs by lane, warp, block or launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    WarpCount,
    LaneMask(Relation),
    DynamicShared,
    TotalShared,
}

/// Which lanes a `%lanemask_…` names, seen from a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Relation {
    Equal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// One instruction.
#[derive(Debug)]
pub(crate) struct Inst {
    pub op: Op,
    pub guard: Guard,
    pub class: Class,
}

/// `@p`, `@!p` or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    Always,
    If(u16),
    Unless(u16),
}

/// What an instruction does.
#[derive(Debug)]
pub(crate) enum Op {
    Alu(Alu, Rows),
    Branch(u32),
    Switch(Box<Switch>),
    Exit,
    Trap,
    /// Fences, prefetches: nothing that this machine's memory order shows.
    Nothing,
    Load(Box<Load>),
    Store(Box<Store>),
    Atomic(Box<Atomic>),
    CopyAsync(Box<CopyAsync>),
    CopyCommit,
    /// Waits until at most this many groups are pending; `all` takes what is not committed as well.
    CopyWait {
        pending: u32,
        all: bool,
    },
    LoadMatrix(Box<LoadMatrix>),
    Mma(Box<Mma>),
    Shuffle(Box<Shuffle>),
    Vote(Box<Vote>),
    Match(Box<Match>),
    Reduce(Box<Reduce>),
    ActiveMask(u16),
    Barrier(Box<Barrier>),
    WarpSync(u16),
}

/// `brx.idx`.
#[derive(Debug)]
pub(crate) struct Switch {
    pub index: u16,
    pub targets: Vec<u32>,
}

/// `[base + offset]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    /// The row of the base and its file, where there is a base.
    pub base: Option<(u16, File)>,
    pub offset: i64,
}

/// How a memory instruction takes part in races.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Plain,
    /// `.nc`: the bytes must not be written during the launch.
    ReadOnly,
    /// `.volatile`, `.relaxed`, `.acquire`, `.release` and atomics.
    Strong,
}

/// `ld`: up to four elements into as many rows.
#[derive(Debug)]
pub(crate) struct Load {
    pub space: Space,
    pub order: Order,
    pub address: Address,
    /// Bytes of an element.
    pub bytes: u64,
    pub extend: Extend,
    pub file: File,
    pub rows: [u16; 4],
    pub count: usize,
}

/// How an element widens to its register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extend {
    Zero,
    /// From the element's bits to the given number of bits.
    Sign(u32),
}

impl Extend {
    /// Widens a value of `bits` bits.
    #[inline(always)]
    pub fn apply(self, value: u64, bits: u32) -> u64 {
        match self {
            Self::Zero => value,
            Self::Sign(to) => ((value << (64 - bits)) as i64 >> (64 - bits)) as u64 & (u64::MAX >> (64 - to)),
        }
    }
}

/// `st`: up to four elements from as many rows.
#[derive(Debug)]
pub(crate) struct Store {
    pub space: Space,
    pub order: Order,
    pub address: Address,
    pub bytes: u64,
    pub file: File,
    pub rows: [u16; 4],
    pub count: usize,
}

/// What an atomic does to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
}

/// `atom` and, without a destination, `red`.
#[derive(Debug)]
pub(crate) struct Atomic {
    pub space: Space,
    pub address: Address,
    pub op: AtomicOp,
    pub ty: Type,
    pub file: File,
    pub destination: Option<u16>,
    pub operand: u16,
    /// The new value of a compare-and-swap.
    pub swap: u16,
}

/// `cp.async`.
#[derive(Debug)]
pub(crate) struct CopyAsync {
    pub to: Address,
    pub from: Address,
    pub bytes: u64,
    /// Row of the number of bytes that are read; the rest is zero.
    pub source_bytes: Option<u16>,
    /// Predicate that, where true, reads nothing.
    pub ignore: Option<(u16, bool)>,
}

/// `ldmatrix`.
#[derive(Debug)]
pub(crate) struct LoadMatrix {
    pub address: Address,
    pub rows: [u16; 4],
    pub count: usize,
    pub transposed: bool,
}

/// Which lane a shuffle reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `shfl.sync`.
#[derive(Debug)]
pub(crate) struct Shuffle {
    pub mode: ShuffleMode,
    pub destination: u16,
    /// True where the source lane was in range.
    pub valid: u16,
    pub source: u16,
    pub lane: u16,
    pub clamp: u16,
    pub mask: u16,
}

/// What `vote.sync` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

/// `vote.sync`.
#[derive(Debug)]
pub(crate) struct Vote {
    pub mode: VoteMode,
    pub destination: u16,
    pub source: (u16, bool),
    pub mask: u16,
}

/// `match.sync`.
#[derive(Debug)]
pub(crate) struct Match {
    pub all: bool,
    pub file: File,
    pub destination: u16,
    pub equal: u16,
    pub source: u16,
    pub mask: u16,
}

/// `redux.sync`.
#[derive(Debug)]
pub(crate) struct Reduce {
    pub op: AtomicOp,
    pub signed: bool,
    pub destination: u16,
    pub source: u16,
    pub mask: u16,
}

/// What a reducing barrier hands to each thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarrierReduce {
    Count,
    And,
    Or,
}

/// `bar` and `barrier`.
#[derive(Debug)]
pub(crate) struct Barrier {
    pub id: u16,
    /// Row of the number of threads; all of the block without it.
    pub threads: Option<u16>,
    pub aligned: bool,
    /// False for `arrive`.
    pub waits: bool,
    /// The reduction, its destination and its source.
    pub reduce: Option<(BarrierReduce, u16, (u16, bool))>,
}

macro_rules! classes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// A kind of instruction, as the counters tell them apart.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Class { $($(#[$doc])* $variant,)+ }

        impl Class {
            /// Every class, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The class's name in tables and JSON.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

classes! {
    /// Integer and bit arithmetic.
    Integer = "integer",
    /// Floating-point arithmetic of any width.
    Float = "float",
    /// Approximations that a GPU computes in its special function unit.
    Special = "special_function",
    /// `cvt`.
    Convert = "convert",
    /// `mov`, `selp`, `cvta`, packing.
    Move = "move",
    /// `setp`, `set` and logic on predicates.
    Compare = "compare",
    /// Branches and exits.
    Control = "control",
    /// Loads of kernel parameters.
    Param = "param_load",
    /// Loads of global and constant memory.
    GlobalLoad = "global_load",
    /// Stores to global memory.
    GlobalStore = "global_store",
    /// Loads of shared memory.
    SharedLoad = "shared_load",
    /// Stores to shared memory.
    SharedStore = "shared_store",
    /// Loads and stores of local memory.
    Local = "local",
    /// Atomics and reductions on memory.
    Atomic = "atomic",
    /// `shfl`, `vote`, `match`, `redux`.
    Collective = "collective",
    /// `ldmatrix`.
    LoadMatrix = "ldmatrix",
    /// `mma`.
    Mma = "mma",
    /// `cp.async` and its groups.
    AsyncCopy = "async_copy",
    /// Barriers of a block or warp.
    Barrier = "barrier",
    /// Fences and prefetches.
    Fence = "fence",
}
