//! Text from a Llama, and proof that the cache of keys and values changes nothing.
//!
//!     cargo run --example 05_generate

use std::path::Path;

use vicugna::autograd::no_grad;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::generate::{GenerateOptions, Sampling, argmax, generate};
use vicugna::io::model::ModelFiles;
use vicugna::nn::{Batch, Plain, Sequence};

fn main() -> Result<()> {
    let files = ModelFiles::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny"))?;
    let (model, tokenizer) = (files.load_frozen(DType::F32, &Device::Cpu)?, files.tokenizer()?);

    // Greedy: the most likely token each time. The closure sees each piece of text as soon as it is certain.
    let text = "Mount Gobra is a mountain in Tavia. It is 2411 metres high. How high is Mount Gobra? The answer is";
    let prompt = tokenizer.encode(text, true)?;
    let options = GenerateOptions { max_new_tokens: 16, sampling: Sampling::GREEDY, stop: vec![".".into()] };
    let mut streamed = String::new();
    let found = generate(&model, &tokenizer, &prompt, &options, &mut |piece| streamed.push_str(piece))?;
    println!("{text}: found {:?}, expected \" 2411 metres\"", found.text);
    assert_eq!(found.text, " 2411 metres");
    assert_eq!(found.text, streamed);

    // The same tokens without a cache: all of the text through the model again for each.
    let mut ids = prompt.clone();
    for &found in &found.token_ids {
        let batch = Batch::new(&[Sequence { labels: vec![-100; ids.len()], input_ids: ids.clone() }], &Device::Cpu)?;
        let logits = no_grad(|| model.logits(&model.hidden(&batch, None, &Plain)?))?.to_vec::<f32>()?;
        let expected = argmax(&logits[logits.len() - model.config().vocab_size..]);
        println!("token: found {found:4}, expected {expected:4}  {:?}", tokenizer.decode(&[expected], false)?);
        assert_eq!(found, expected);
        ids.push(found);
    }

    // Sampling depends on the seed alone.
    let sampling = Sampling { temperature: 1.0, seed: 7, ..Sampling::GREEDY };
    let options = GenerateOptions { max_new_tokens: 40, sampling, stop: Vec::new() };
    let once = generate(&model, &tokenizer, &prompt, &options, &mut |_| {})?.text;
    let again = generate(&model, &tokenizer, &prompt, &options, &mut |_| {})?.text;
    println!("sampled: {once:?}");
    assert_eq!(once, again);
    Ok(())
}
