//! One op, one room: the public function with its backward in `mod.rs`, the CPU code in `cpu.rs`, the launch of its
//! kernels in `cuda.rs`. An op uses another only by its public function.

mod check;
mod gemm;
mod math;
mod philox;

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod grad_norm;
pub mod lora;
pub mod matmul;
pub mod rmsnorm;
pub mod rope;
pub mod swiglu;
