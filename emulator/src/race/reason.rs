//! The faults of shared memory in words.

use super::{Access, Touch};
use crate::trap::{Fault, TrapKind};

/// Why an access is refused.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reason {
    Unwritten,
    InFlight(u8),
    Wrote(u8),
    Read(u8),
}

impl Reason {
    /// The fault of `access` at that byte.
    pub(super) fn fault(self, access: Access, byte: usize) -> (u64, Box<Fault>) {
        let me = access.warp;
        let does = match access.touch {
            _ if access.flight => "issues an asynchronous copy into",
            Touch::Read | Touch::ReadOnly => "reads",
            Touch::Write => "writes",
            Touch::Atomic => "atomically updates",
        };
        let (kind, detail) = match self {
            Self::Unwritten => (TrapKind::Uninitialized, format!("reads shared byte {byte:#x}, which nobody wrote")),
            Self::InFlight(warp) => {
                let detail = format!(
                    "warp {me} {does} shared byte {byte:#x}, into which an asynchronous copy of warp {warp} is still in flight"
                );
                (TrapKind::CopyInFlight, detail)
            }
            Self::Wrote(warp) => {
                let detail =
                    format!("warp {me} {does} shared byte {byte:#x}, which warp {warp} wrote, with no barrier between");
                (TrapKind::SharedRace, detail)
            }
            Self::Read(warp) => {
                let detail =
                    format!("warp {me} {does} shared byte {byte:#x}, which warp {warp} read, with no barrier between");
                (TrapKind::SharedRace, detail)
            }
        };
        (byte as u64, Fault::new(kind, None, detail))
    }
}
