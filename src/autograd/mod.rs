//! Tensors, and the tape that differentiates what was done with them. Knows no op.
//!
//! An op computes its outputs and calls [`record`] with a closure from output gradients to input gradients;
//! [`backward`] runs those closures in reverse order of their recording.

mod accumulate;
mod storage;
mod tape;
mod tensor;

pub use accumulate::accumulate;
pub use storage::Storage;
pub use tape::{
    Gradients, backward, backward_from, is_recording, no_grad, record, record_all, record_nested, recording,
};
pub use tensor::Tensor;
