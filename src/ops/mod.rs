//! One op, one room: the public function with its backward in `mod.rs`, the CPU code in `cpu.rs`, the launch of its
//! kernels in `cuda.rs`. An op uses another only by its public function.

mod check;
mod math;

pub mod attention;
pub mod rmsnorm;
pub mod rope;
