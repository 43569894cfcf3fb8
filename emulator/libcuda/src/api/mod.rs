//! The exported functions, each under the name and with the arguments of NVIDIA's CUDA driver API reference,
//! <https://docs.nvidia.com/cuda/cuda-driver-api/>. Handles and device addresses are `u64`, sizes `usize`, places for
//! results [`Out`](crate::border::Out).

#![expect(unsafe_code, reason = "exported names")]

pub mod address;
pub mod context;
pub mod copy;
pub mod device;
pub mod event;
pub mod fill;
pub mod function;
pub mod graph;
pub mod host;
pub mod init;
pub mod launch;
pub mod library;
pub mod memory;
pub mod module;
pub mod occupancy;
pub mod pool;
pub mod rows;
pub mod stream;
