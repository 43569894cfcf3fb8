//! Whole models against PyTorch's float64 numbers (`tests/fixtures/README.md`), and against themselves.

mod fixture;

mod checkpointing;
mod frozen;
mod launches;
mod memory;
mod quantized;
mod quantized_training;
mod smollm2;
mod tiny;
