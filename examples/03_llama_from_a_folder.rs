//! A Llama from a Hugging Face folder: its weights, its logits, its loss.
//!
//!     cargo run --example 03_llama_from_a_folder

use std::path::Path;

use vicugna::autograd::no_grad;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::io::model::ModelFiles;
use vicugna::nn::{Batch, Plain, Sequence};

fn main() -> Result<()> {
    // config.json, model.safetensors, tokenizer.json. This one is small enough to come with the source.
    let files = ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny"))?;
    let config = files.config();
    let expected: usize = config.parameters().iter().map(|(_, shape)| shape.numel()).sum();

    // Stored in bf16, computed in f32.
    let model = files.load(DType::F32, &Device::Cpu)?;
    let mut found = 0;
    model.visit_weights(&mut |_, weight| found += weight.get().shape().numel());
    println!("{} blocks; {found} weights, expected {expected}", config.num_hidden_layers);
    assert_eq!(found, expected);

    // Every token is a label: the model shifts them by one.
    let tokenizer = files.tokenizer()?;
    let input_ids = tokenizer.encode("The capital of France is Paris.", true)?;
    let labels = input_ids.iter().map(|&id| id as i32).collect();
    let batch = Batch::new(&[Sequence { input_ids: input_ids.clone(), labels }], &Device::Cpu)?;
    let (logits, loss) = no_grad(|| -> Result<_> {
        let logits = model.logits(&model.hidden(&batch, None, &Plain)?)?;
        Ok((logits, model.loss(&batch, batch.supervised as f32, None, &Plain)?))
    })?;
    println!("{} tokens, logits {}", input_ids.len(), logits.shape());

    // The loss again, by hand: the mean of -log softmax(logits)[next token].
    let (logits, found) = (logits.to_vec::<f32>()?, f64::from(loss.to_vec::<f32>()?[0]));
    let surprise = |(row, &next): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        sum.ln() - f64::from(row[next as usize])
    };
    let rows = logits.chunks_exact(config.vocab_size).zip(&input_ids[1..]);
    let expected = rows.map(surprise).sum::<f64>() / batch.supervised as f64;
    println!("loss: found {found:.6}, expected {expected:.6}");
    assert!((found - expected).abs() < 1e-5);
    Ok(())
}
