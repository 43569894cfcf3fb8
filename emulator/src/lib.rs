//! Executes PTX on the CPU: a machine of warps of 32 lanes that checks every access, finds races, and counts what a GPU's
//! performance depends on. Knows no tensor.
//!
//! ```
//! use ptx_emulator::{Arch, Device, Launch, Module};
//!
//! let module = Module::parse(
//!     ".version 8.0
//!      .target sm_80
//!      .address_size 64
//!      .visible .entry twice(.param .u64 data) {
//!          .reg .b32 %r<3>;
//!          .reg .b64 %rd<4>;
//!          ld.param.u64 %rd1, [data];
//!          mov.u32 %r1, %tid.x;
//!          mul.wide.u32 %rd2, %r1, 4;
//!          add.s64 %rd3, %rd1, %rd2;
//!          ld.global.u32 %r2, [%rd3];
//!          shl.b32 %r2, %r2, 1;
//!          st.global.u32 [%rd3], %r2;
//!          ret;
//!      }",
//! )?;
//! let mut device = Device::new(Arch::Sm80);
//! let data = device.alloc(16)?;
//! device.write(data, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0])?;
//! let kernel = module.kernel("twice").ok_or("no such kernel")?;
//! let args = kernel.pack(&[&data.to_le_bytes()])?;
//! let counters = device.launch(kernel, &Launch { block: [4, 1, 1], args: &args, ..Launch::default() })?;
//! let mut out = [0; 16];
//! device.read(data, &mut out)?;
//! assert_eq!(out, [2, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0, 8, 0, 0, 0]);
//! assert_eq!(counters.global_load_bytes, 16);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![allow(clippy::needless_range_loop, reason = "a lane is an index into every register at once")]
#![allow(clippy::nonminimal_bool, reason = "modifiers are refused one by one")]

mod arith;
mod counters;
mod decode;
mod device;
mod module;
mod parse;
mod program;
mod race;
mod run;
mod trap;
mod types;

pub use counters::Counters;
pub use decode::opcodes;
pub use device::{Arch, Device, MemoryError};
pub use module::{Kernel, Module, Param};
pub use parse::ParseError;
pub use program::Class;
pub use run::launch::{Checks, Launch, LaunchError};
pub use trap::{Trap, TrapKind};
pub use types::{Space, Type};
