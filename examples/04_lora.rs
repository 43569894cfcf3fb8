//! An adapter on a frozen Llama, trained on one sentence.
//!
//!     cargo run --example 04_lora

use std::path::Path;

use vicugna::autograd::{Tensor, backward};
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::io::adapter::AdapterConfig;
use vicugna::io::model::{ModelFiles, attach_new_adapter};
use vicugna::nn::{Batch, Plain, Sequence};
use vicugna::optim::{AdamW, AdamWOptions, Trained};

fn main() -> Result<()> {
    let files = ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny"))?;
    let input_ids = files.tokenizer()?.encode("The vicugna is the small wild relative of the llama.", true)?;
    let labels = input_ids.iter().map(|&id| id as i32).collect();
    let batch = Batch::new(&[Sequence { input_ids, labels }], &Device::Cpu)?;

    let model = files.load(DType::F32, &Device::Cpu)?;
    let loss = || model.loss(&batch, batch.supervised as f32, None, &Plain);
    let value = |loss: &Tensor| Ok::<f32, vicugna::error::Error>(loss.to_vec::<f32>()?[0]);
    let before = value(&loss()?)?;

    // B is zero, so a fresh adapter changes nothing.
    attach_new_adapter(&model, &AdapterConfig { r: 4, lora_alpha: 8.0, ..AdapterConfig::default() }, 42)?;
    let fresh = value(&loss()?)?;
    println!("loss with a fresh adapter: found {fresh:.6}, expected {before:.6}");
    assert!((fresh - before).abs() < 1e-5);

    // Two matrices for each query and value projection are trained, and nothing else.
    let trained = model.trained();
    println!("{} matrices trained, expected {}", trained.len(), 2 * 2 * files.config().num_hidden_layers);
    assert_eq!(trained.len(), 2 * 2 * files.config().num_hidden_layers);

    let mut optimizer = AdamW::new(AdamWOptions { learning_rate: 1e-2, ..AdamWOptions::default() });
    let unscaled = Tensor::from_slice(&Device::Cpu, [], &[1f32])?;
    for step in 0..10 {
        let loss = loss()?;
        println!("step {step}: loss {:.4}", value(&loss)?);
        let gradients = backward(&loss)?;
        let mut weights: Vec<_> = trained.iter().map(|(name, weight)| (name, weight.lock())).collect();
        let found: Vec<Tensor> = weights.iter().filter_map(|(_, weight)| gradients.get(weight).cloned()).collect();
        let updates = weights.iter_mut().zip(&found);
        let updates = updates.map(|((name, parameter), gradient)| Trained { name, parameter, gradient });
        optimizer.step(updates.collect(), &unscaled)?;
    }
    let after = value(&loss()?)?;
    println!("loss after ten steps: found {after:.4}, expected less than half of {before:.4}");
    assert!(after < 0.5 * before);
    Ok(())
}
