//! Tensors and operations on them.
//!
//!     cargo run --example 01_tensor

use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::ops::elementwise::{add, cast};
use vicugna::ops::matmul::matmul;
use vicugna::ops::rmsnorm::rmsnorm;

fn main() -> Result<()> {
    let cpu = Device::Cpu;

    // A tensor has a device, a shape and a dtype. This one is [2, 3], f32.
    let x = Tensor::from_slice(&cpu, [2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    compare("x + x", &add(&x, &x)?, &[2.0, 4.0, 6.0, 8.0, 10.0, 12.0])?;

    // Weights are [out, in], as in Hugging Face's files: y = x Wᵀ.
    let weight = Tensor::from_slice(&cpu, [2, 3], &[1f32, 0.0, 0.0, 0.0, 1.0, 1.0])?;
    compare("x Wᵀ", &matmul(&x, &weight)?, &[1.0, 5.0, 4.0, 11.0])?;

    // Llama's norm: the root mean square of (3, 4) is sqrt(12.5).
    let row = Tensor::from_slice(&cpu, [1, 2], &[3f32, 4.0])?;
    let ones = Tensor::from_slice(&cpu, [2], &[1f32, 1.0])?;
    compare("rmsnorm", &rmsnorm(&row, &ones, 0.0)?, &[3.0 / 12.5f32.sqrt(), 4.0 / 12.5f32.sqrt()])?;

    // bf16 has 8 significant bits: between 256 and 512 it knows even numbers only, and rounds ties to even ones.
    let rounded = cast(&Tensor::from_slice(&cpu, [2], &[257f32, 259.0])?, DType::Bf16)?;
    compare("bf16", &cast(&rounded, DType::F32)?, &[256.0, 260.0])?;

    // What does not fit is refused, in words.
    let refusal = add(&x, &row).unwrap_err().to_string();
    println!("refused    {refusal}");
    assert!(refusal.contains("add"));
    Ok(())
}

fn compare(name: &str, found: &Tensor, expected: &[f32]) -> Result<()> {
    let found = found.to_vec::<f32>()?;
    println!("{name:10} found {found:?}, expected {expected:?}");
    assert!(found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs()));
    Ok(())
}
