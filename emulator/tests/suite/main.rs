//! The emulator as its users see it.

mod compiled;
mod harness;
mod matrix;
mod traps;
