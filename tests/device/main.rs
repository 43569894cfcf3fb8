//! Tensors and kernels on a GPU: memory, launches, and what each refuses.

mod launch;
mod memory;
