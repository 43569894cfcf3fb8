//! Optimizers: ops on parameters, and the state that they carry from step to step. They know names and tensors, no layer.

mod adamw;

pub use crate::ops::adamw::AdamWOptions;
pub use adamw::{AdamW, Trained};
