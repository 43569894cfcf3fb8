//! One op, one room: the public function with its backward in `mod.rs`, the CPU code in `cpu.rs`, the launch of its
//! kernels in `cuda.rs`. An op uses another only by its public function.

/// Calls the function of that name of this room's `cpu` or `cuda`, as the device of `$tensor` demands.
macro_rules! on_device {
    ($tensor:expr, $function:ident($($arg:expr),*)) => {
        match $tensor.device() {
            $crate::device::Device::Cpu => cpu::$function($($arg),*),
            $crate::device::Device::Cuda(_) => cuda::$function($($arg),*),
        }
    };
}

mod check;
mod gemm;
mod math;
mod pack;
mod philox;
mod tensor_table;

pub use gemm::{Instructions, Packed};

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod grad_norm;
pub mod int8_matmul;
pub mod lora;
pub mod matmul;
pub mod nf4;
pub mod rmsnorm;
pub mod rope;
pub mod swiglu;
pub mod weight;
