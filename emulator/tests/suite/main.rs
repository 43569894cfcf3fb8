//! The emulator as its users see it.

mod compiled;
mod coverage;
mod doubles;
mod exact;
mod floats;
mod fragments;
mod fuzz;
mod halves;
mod harness;
mod integers;
mod matrix;
mod memory;
mod opcodes;
mod recorded;
mod spans;
mod traps;
#[path = "../vectors/mod.rs"]
mod vectors;
mod warp;
