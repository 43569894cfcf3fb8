//! Why a launch stopped, and where.

use crate::program::Place;
use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// What went wrong in a kernel.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum TrapKind { $($(#[$doc])* $variant,)+ }

        impl TrapKind {
            /// The kind's name in JSON.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

kinds! {
    /// An access that is not wholly inside one allocation.
    OutOfBounds = "out_of_bounds",
    /// An address that is not a multiple of the access's size.
    Misaligned = "misaligned",
    /// A read of memory that nobody wrote.
    Uninitialized = "uninitialized",
    /// A write to memory that is read-only, or that the launch reads with `ld.global.nc`.
    ReadOnly = "read_only",
    /// Two warps of a block touch a shared byte, one of them writing, with no barrier between.
    SharedRace = "shared_race",
    /// Two blocks touch a global byte, one of them writing, not atomically.
    GlobalRace = "global_race",
    /// Lanes of one warp write different values to one address in one instruction.
    WriteConflict = "write_conflict",
    /// Shared memory that an asynchronous copy is writing is touched before the wait for it.
    CopyInFlight = "copy_in_flight",
    /// A barrier that some threads do not reach.
    BarrierDivergence = "barrier_divergence",
    /// A warp's collective without the lanes that its mask names, or with others.
    CollectiveMask = "collective_mask",
    /// An `.aligned` instruction without every lane of the warp.
    WarpDivergence = "warp_divergence",
    /// The launch took more steps than it was allowed.
    StepLimit = "step_limit",
    /// `trap` or `brkpt`.
    TrapInstruction = "trap_instruction",
    /// An address in a space where the instruction cannot go.
    BadSpace = "bad_space",
}

/// A launch that stopped: what went wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    /// What went wrong.
    pub kind: TrapKind,
    /// The kernel's name.
    pub kernel: String,
    /// The line of the PTX text.
    pub line: u32,
    /// File and line of the source, where the PTX has `.loc`.
    pub source: Option<(String, u32)>,
    /// The block's place in the grid.
    pub block: [u32; 3],
    /// The warp's number in the block.
    pub warp: u32,
    /// The lane, where one lane is at fault.
    pub lane: Option<u32>,
    /// What happened, with addresses and values.
    pub detail: String,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "{}: {} at PTX line {}", self.kernel, self.detail, self.line)?;
        if let Some((file, line)) = &self.source {
            write!(f, " ({file}:{line})")?;
        }
        write!(f, ", block ({x}, {y}, {z}), warp {}", self.warp)?;
        self.lane.map_or(Ok(()), |lane| write!(f, ", lane {lane}"))
    }
}

impl std::error::Error for Trap {}

/// A trap before its place is known.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub kind: TrapKind,
    pub lane: Option<u32>,
    pub detail: String,
}

impl Fault {
    pub fn new(kind: TrapKind, lane: impl Into<Option<u32>>, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self { kind, lane: lane.into(), detail: detail.into() })
    }

    pub fn at(self, kernel: &str, place: &Place, block: [u32; 3], warp: u32) -> Trap {
        Trap {
            kind: self.kind,
            kernel: kernel.into(),
            line: place.line,
            source: place.source.as_ref().map(|(file, line)| (file.to_string(), *line)),
            block,
            warp,
            lane: self.lane,
            detail: self.detail,
        }
    }
}

pub(crate) type Checked<T> = Result<T, Box<Fault>>;
