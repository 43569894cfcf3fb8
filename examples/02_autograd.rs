//! The tape: gradients of a loss, beside those of finite differences.
//!
//!     cargo run --example 02_autograd

use vicugna::autograd::{Tensor, backward, no_grad};
use vicugna::device::Device;
use vicugna::error::Result;
use vicugna::ops::cross_entropy::cross_entropy;
use vicugna::ops::swiglu::swiglu;

/// Two rows of three hidden values, gated, against three classes.
fn loss(gate: &Tensor) -> Result<Tensor> {
    let cpu = Device::Cpu;
    let up = Tensor::from_slice(&cpu, [2, 3], &[0.3f32, -1.2, 0.7, 1.1, 0.4, -0.6])?;
    let classes = Tensor::from_slice(&cpu, [3, 3], &[0.9f32, 0.1, -0.4, -0.3, 0.8, 0.5, 0.2, -0.7, 1.3])?;
    let targets = Tensor::from_slice(&cpu, [2], &[2i32, 0])?;
    cross_entropy(&swiglu(gate, &up)?, &classes, &targets, 2.0)
}

fn main() -> Result<()> {
    let values = [0.5f32, -0.8, 1.4, -0.1, 0.9, 0.2];

    // `with_grad` makes a leaf; whatever is computed from it is recorded; `backward` differentiates and frees the tape.
    let gate = Tensor::from_slice(&Device::Cpu, [2, 3], &values)?.with_grad();
    let gradients = backward(&loss(&gate)?)?;
    let found = gradients.get(&gate).expect("the loss depends on the gate").to_vec::<f32>()?;

    // The slope of the loss, from two points a little apart on either side.
    const STEP: f32 = 1e-2;
    let at = |i: usize, step: f32| -> Result<f32> {
        let mut moved = values;
        moved[i] += step;
        let moved = Tensor::from_slice(&Device::Cpu, [2, 3], &moved)?;
        Ok(no_grad(|| loss(&moved))?.to_vec::<f32>()?[0])
    };
    for (i, found) in found.into_iter().enumerate() {
        let expected = (at(i, STEP)? - at(i, -STEP)?) / (2.0 * STEP);
        println!("d loss / d gate[{i}]: found {found:9.6}, expected {expected:9.6}");
        assert!((found - expected).abs() < 1e-4);
    }
    Ok(())
}
