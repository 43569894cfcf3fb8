//! Models whose linear layers are of 4 and 8 bits.

use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::io::model::ModelFiles;
use vicugna::io::quantized::{Choice, Scheme};
use vicugna::models::llama::Llama;
use vicugna::nn::{Batch, Plain, Sequence};

use crate::fixture;

fn model(case: &str, scheme: Scheme) -> Llama {
    let files = ModelFiles::open(&fixture::folder(case)).unwrap();
    let choice = Choice { scheme: Some(scheme), ..Choice::default() };
    files.quantized(&choice).unwrap().load(DType::F32, &Device::Cpu).unwrap()
}

/// Folders that bitsandbytes wrote, and codes made now.
#[test]
fn a_gpu_gives_the_logits_of_the_cpu() {
    for (case, scheme) in [
        ("quantized/int8", None),
        ("quantized/nf4", None),
        ("quantized/nf4_double", None),
        ("quantized/fp4_bf16_storage", None),
        ("gqa", Some(Scheme::Int8)),
        ("gqa", Some(Scheme::Fp4)),
    ] {
        let logits = |device: &Device| {
            let files = ModelFiles::open(&fixture::folder(case)).unwrap();
            let files = files.quantized(&Choice { scheme, ..Choice::default() }).unwrap();
            let model = files.load(DType::F32, device).unwrap();
            let input_ids: Vec<u32> = (0..40).map(|i| i * i % 61 + 3).collect();
            let sequence = Sequence { labels: vec![-100; input_ids.len()], input_ids };
            let hidden = model.hidden(&Batch::new([&sequence], device).unwrap(), None, &Plain).unwrap();
            model.logits(&hidden).unwrap().to_vec::<f32>().unwrap()
        };
        let distance = fixture::relative(&logits(&Device::emulated()), &logits(&Device::Cpu));
        println!("{case} {scheme:?}: {distance:e}");
        // A difference in the last bit of an activation is one of a whole code in int8.
        assert!(
            distance < if case.contains("int8") || scheme == Some(Scheme::Int8) { 5e-3 } else { 1e-5 },
            "{case}: {distance:e}"
        );
    }
}

/// The most likely token, and how far the next one is below it.
fn top(logits: &[f32]) -> (usize, f32) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    (order[0], logits[order[0]] - logits[order[1]])
}

#[test]
fn cached_decoding_gives_a_full_forwards_tokens() {
    for case in ["gqa", "llama3_rope"] {
        for scheme in [Scheme::Int8, Scheme::Nf4, Scheme::Fp4] {
            let model = model(case, scheme);
            let input_ids: Vec<u32> = (0..90).map(|i| i * i % 61 + 3).collect();
            let sequence = Sequence { labels: vec![-100; input_ids.len()], input_ids };
            let batch = Batch::new([&sequence], &Device::Cpu).unwrap();
            let logits = |hidden: &Tensor| model.logits(hidden).unwrap().to_vec::<f32>().unwrap();
            let whole = logits(&model.hidden(&batch, None, &Plain).unwrap());
            let (mut cache, mut pieces) = (model.cache(sequence.input_ids.len()).unwrap(), Vec::new());
            for piece in [&sequence.input_ids[..40]].into_iter().chain(sequence.input_ids[40..].chunks(1)) {
                let ids = Tensor::from_slice(&Device::Cpu, [piece.len()], piece).unwrap();
                pieces.extend(logits(&model.hidden_cached(&ids, &mut cache).unwrap()));
            }
            let (vocabulary, mut compared) = (model.config().vocab_size, 0);
            for (found, wanted) in pieces.chunks(vocabulary).zip(whole.chunks(vocabulary)) {
                let (token, margin) = top(wanted);
                if margin > 0.05 {
                    assert_eq!(top(found).0, token, "{case} {scheme}: margin {margin}");
                    compared += 1;
                }
            }
            assert!(compared > 20, "{case} {scheme}: {compared} margins are above 0.05");
            let largest = whole.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
            let distance = fixture::furthest(&pieces, &whole) / f64::from(largest);
            println!("{case} {scheme}: {distance:e}");
            assert!(distance < 0.05, "{case} {scheme}: {distance:e}");
        }
    }
}
