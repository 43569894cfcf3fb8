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
mod traps;
mod warp;
