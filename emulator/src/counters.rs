//! What a launch did, counted exactly.

use crate::program::Class;
use std::fmt::{self, Write};

const CLASSES: usize = Class::ALL.len();

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)+) => {
        /// What a launch did. The same launch gives the same counts, whatever the threads and the schedule.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Counters {
            /// Warp instructions of each class, in the order of [`Class::ALL`].
            pub instructions: [u64; CLASSES],
            $($(#[$doc])* pub $field: u64,)+
        }

        impl Default for Counters {
            fn default() -> Self {
                Self { instructions: [0; CLASSES], $($field: 0,)+ }
            }
        }

        impl Counters {
            /// Each counter but the instructions, by name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)+]
            }

            /// Adds another launch's or block's counts.
            pub fn add(&mut self, other: &Self) {
                for (mine, more) in self.instructions.iter_mut().zip(other.instructions) {
                    *mine += more;
                }
                $(self.$field += other.$field;)+
            }
        }
    };
}

counters! {
    /// Blocks that ran.
    blocks,
    /// Warps that ran.
    warps,
    /// Warp instructions times the lanes that executed each.
    thread_instructions,
    /// Warp instructions that load global memory with at least one lane.
    global_load_requests,
    /// Bytes that lanes asked global memory for.
    global_load_bytes,
    /// 32-byte sectors that these requests touch, counted for each warp instruction.
    global_load_sectors,
    /// Warp instructions that store to global memory with at least one lane.
    global_store_requests,
    /// Bytes that lanes stored to global memory.
    global_store_bytes,
    /// 32-byte sectors that these stores touch, counted for each warp instruction.
    global_store_sectors,
    /// Different 32-byte sectors of global memory that the launch touched; 0 where races were not checked.
    global_distinct_sectors,
    /// Bytes that lanes loaded from or stored to shared memory, `ldmatrix` and `cp.async` too.
    shared_bytes,
    /// Passes through the banks of shared memory.
    shared_wavefronts,
    /// Passes beyond the least that the same accesses need.
    shared_excess_wavefronts,
    /// Warp-wide `mma` instructions.
    mma,
    /// Multiplications and additions of those.
    mma_operations,
    /// Barriers that a whole block, or a named part of it, completed.
    barriers,
    /// Atomic operations, one a lane.
    atomics,
    /// Bytes copied by `cp.async`.
    async_copy_bytes,
}

impl Counters {
    /// Warp instructions of one class.
    pub fn of(&self, class: Class) -> u64 {
        self.instructions[class as usize]
    }

    /// Warp instructions of every class.
    pub fn total_instructions(&self) -> u64 {
        self.instructions.iter().sum()
    }

    /// One JSON object.
    pub fn to_json(&self) -> String {
        let mut out = format!("{{\"instructions\":{{\"total\":{}", self.total_instructions());
        for &class in Class::ALL {
            let _ = write!(out, ",\"{}\":{}", class.name(), self.of(class));
        }
        out.push('}');
        for (name, value) in self.named() {
            let _ = write!(out, ",\"{name}\":{value}");
        }
        out.push('}');
        out
    }
}

/// A table of the counters that are not zero.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28}{:>16}", "warp instructions", self.total_instructions())?;
        for &class in Class::ALL.iter().filter(|&&class| self.of(class) > 0) {
            writeln!(f, "  {:<26}{:>16}", class.name(), self.of(class))?;
        }
        for (name, value) in self.named().into_iter().filter(|(_, value)| *value > 0) {
            writeln!(f, "{:<28}{value:>16}", name.replace('_', " "))?;
        }
        Ok(())
    }
}
