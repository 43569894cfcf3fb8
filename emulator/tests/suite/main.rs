//! The emulator as its users see it.

mod compiled;
mod exact;
mod floats;
mod fragments;
mod harness;
mod matrix;
mod opcodes;
mod traps;
