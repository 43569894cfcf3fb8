//! The binary as a user meets it: what it prints, what it refuses, what it leaves behind.

mod chain;
mod command;

mod emulate;
mod ends;
mod inspect;
mod kernels;
mod quantized;
mod refusals;
mod smoke;
