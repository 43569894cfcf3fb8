//! Llama on hand-written kernels: a minimal autograd engine, fine-tuning and inference without an ML framework.
//!
//! `docs/architecture.md` is the map; imports run one way only, from the top of this list to its end.

pub mod dtype;
pub mod error;
pub mod shape;

pub mod reference;

pub mod device;

pub mod autograd;

pub mod ops;

pub mod nn;

pub mod optim;

pub mod models;

pub mod io;

pub mod data;

pub mod generate;

pub mod parallel;

pub mod train;

pub mod safety;

pub mod cli;
