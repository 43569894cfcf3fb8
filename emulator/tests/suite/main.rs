//! The emulator as its users see it.

mod compiled;
mod harness;
