//! Tiny random Llamas: logits, loss, every gradient, greedy continuations.

use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::generate::{Sampling, continue_tokens};
use vicugna::io::model::ModelFiles;
use vicugna::nn::{Batch, Plain, Sequence};

use crate::fixture::{self, Expected};

/// The bounds of the project: f32 against float64.
const LOGITS: f64 = 2e-5;
const LOSS: f64 = 1e-6;
const GRADIENT: f64 = 1e-4;

fn check(case: &str) {
    check_on(case, &Device::Cpu);
}

fn check_on(case: &str, device: &Device) {
    let (expected, tensors): (Expected, _) = (fixture::json(case), fixture::tensors(case));
    let model = fixture::model_on(case, device);
    let batch = Batch::new(&expected.sequences, &model.device()).unwrap();
    assert_eq!(batch.supervised, expected.supervised_tokens, "{case}");

    let logits = model.logits(&model.hidden(&batch, None, &Plain).unwrap()).unwrap().to_vec::<f32>().unwrap();
    let stacked: Vec<f32> =
        (0..expected.sequences.len()).flat_map(|i| tensors[&format!("logits.{i}")].clone()).collect();
    let largest = fixture::furthest(&stacked, &vec![0.0; stacked.len()]);
    let logits = fixture::furthest(&logits, &stacked) / largest;
    assert!(logits < LOGITS, "{case}: logits differ by {logits:e} of the largest");

    let (loss, gradients) = fixture::differentiate(&model, &batch);
    let loss = (loss / expected.loss - 1.0).abs();
    assert!(loss < LOSS, "{case}: the loss differs by {loss:e}");

    let gradients = fixture::named(&model, &gradients);
    let wanted = tensors.iter().filter_map(|(name, values)| Some((name.strip_prefix("grad.")?, values)));
    let mut worst: f64 = 0.0;
    for (name, values) in wanted.clone() {
        let gradient = gradients.get(name).unwrap_or_else(|| panic!("{case}: {name} is not trained"));
        let distance = fixture::relative(&gradient.to_vec::<f32>().unwrap(), values);
        assert!(distance < GRADIENT, "{case}: the gradient of {name} differs by {distance:e}");
        worst = if distance > worst { distance } else { worst };
    }
    assert_eq!(wanted.count(), gradients.len(), "{case}: number of trained tensors");
    println!("{case}: logits {logits:.1e}, loss {loss:.1e}, gradients {worst:.1e}");
}

#[test]
fn mha_matches_pytorch() {
    check("mha");
}

#[test]
fn gqa_tied_matches_pytorch() {
    check("gqa");
}

#[test]
fn given_head_dim_and_shards_match_pytorch() {
    check("gqa_head_dim");
}

#[test]
fn llama3_rope_to_600_positions_matches_pytorch() {
    check("llama3_rope");
}

#[test]
fn padded_and_masked_batch_matches_pytorch() {
    check("padded");
}

#[test]
fn bf16_and_f16_files_match_pytorch() {
    check("bf16");
    check("f16");
}

#[test]
fn lora_on_all_seven_matches_peft() {
    check("lora");
}

#[test]
fn rslora_on_q_and_v_matches_peft() {
    check("lora_qv_rslora");
}

#[test]
fn biases_match_pytorch() {
    check("bias");
    check("bias_lora");
    check("qwen2");
}

#[test]
fn biases_on_the_kernels_match_pytorch() {
    check_on("bias", &Device::emulated());
    check_on("bias_lora", &Device::emulated());
}

#[test]
fn stretched_frequencies_match_pytorch() {
    for case in ["linear", "dynamic", "yarn", "yarn_mscale"] {
        check(case);
    }
}

#[test]
fn mistral_up_to_its_window_matches_pytorch() {
    check("mistral");
    let model = fixture::model("mistral");
    let window: Vec<u32> = (0..25).collect();
    let sequence = Sequence { labels: vec![-100; 25], input_ids: window };
    let batch = Batch::new([&sequence], &model.device()).unwrap();
    let error = model.hidden(&batch, None, &Plain).unwrap_err();
    let expected =
        "input: 25 tokens are more than the model's attention window of 24, beyond which nothing is computed";
    assert_eq!(error.to_string(), expected);
}

/// As in transformers a token has the frequencies of the text up to it, and keys keep those that they were cached with.
#[test]
fn cached_decoding_with_dynamic_frequencies_matches_pytorch() {
    let (expected, tensors): (Expected, _) = (fixture::json("dynamic"), fixture::tensors("dynamic"));
    let (model, cached) = (fixture::model("dynamic"), expected.cached.unwrap());
    let ids = &expected.sequences[cached.sequence].input_ids;
    let mut cache = model.cache(ids.len()).unwrap();
    let singles = (cached.prompt..ids.len()).map(|at| &ids[at..at + 1]);
    let mut found = Vec::new();
    for piece in std::iter::once(&ids[..cached.prompt]).chain(singles) {
        let piece = Tensor::from_slice(&model.device(), [piece.len()], piece).unwrap();
        let hidden = model.hidden_cached(&piece, &mut cache).unwrap();
        found.extend(model.logits(&hidden).unwrap().to_vec::<f32>().unwrap());
    }
    let wanted = &tensors["cached_logits"];
    let largest = fixture::furthest(wanted, &vec![0.0; wanted.len()]);
    let distance = fixture::furthest(&found, wanted) / largest;
    assert!(distance < LOGITS, "logits differ by {distance:e} of the largest");
    let whole = fixture::furthest(wanted, &tensors[&format!("logits.{}", cached.sequence)]);
    assert!(whole > 0.1, "in this text the cache makes no difference");
}

#[test]
fn layers_that_an_adapter_has_whole_match_peft() {
    check("lora_saved");
    check("lora_saved_tied");
}

#[test]
fn lora_on_a_tied_head_matches_peft() {
    check("lora_head");
    check_on("lora_head", &Device::emulated());
}

#[test]
fn a_frozen_model_computes_the_same_and_trains_nothing() {
    for case in ["lora_saved", "lora_head"] {
        let (expected, model): (Expected, _) = (fixture::json(case), fixture::model(case));
        let batch = Batch::new(&expected.sequences, &model.device()).unwrap();
        let logits = || model.logits(&model.hidden(&batch, None, &Plain).unwrap()).unwrap();
        let before = logits();
        assert!(before.is_tracked() && !model.trained().is_empty(), "{case}");
        model.freeze().unwrap();
        let after = logits();
        assert!(!after.is_tracked() && model.trained().is_empty(), "{case}");
        assert_eq!(before.to_vec::<f32>().unwrap(), after.to_vec::<f32>().unwrap(), "{case}");
    }
}

#[test]
fn greedy_tokens_match_pytorch() {
    for case in ["mha", "gqa"] {
        let expected = fixture::json::<Expected>(case).greedy.unwrap();
        let found =
            continue_tokens(&fixture::model(case), &expected.prompt_ids, expected.ids.len(), Sampling::GREEDY).unwrap();
        assert_eq!(found, expected.ids, "{case} (margins {:?})", expected.margins);
    }
}

#[test]
fn cached_decoding_agrees_with_the_full_forward() {
    let (expected, model): (Expected, _) = (fixture::json("llama3_rope"), fixture::model("llama3_rope"));
    let sequence = &expected.sequences[0];
    let batch = Batch::new([sequence], &model.device()).unwrap();
    let whole = model.hidden(&batch, None, &Plain).unwrap().to_vec::<f32>().unwrap();
    let mut cache = model.cache(sequence.input_ids.len()).unwrap();
    let mut pieces = Vec::new();
    for piece in [300, 1, 1, 7, 291].iter().scan(0, |first, n| Some((std::mem::replace(first, *first + n), *n))) {
        let ids = &sequence.input_ids[piece.0..piece.0 + piece.1];
        let ids = Tensor::from_slice(&model.device(), [ids.len()], ids).unwrap();
        pieces.extend(model.hidden_cached(&ids, &mut cache).unwrap().to_vec::<f32>().unwrap());
    }
    let distance = fixture::relative(&pieces, &whole);
    assert!(distance < 1e-5, "{distance:e}");
}

/// With `VICUGNA_DEVICE=cuda` most tokens are a graph's launch; attention takes 128, 256 and more keys in more and more
/// parts, each of which is a graph of its own.
#[test]
fn tokens_as_graphs_are_the_same() {
    let files = ModelFiles::open(&fixture::folder("llama3_rope")).unwrap();
    let prompt: Vec<u32> = (0..120).map(|i| i * i % 61 + 3).collect();
    let sampling = Sampling { temperature: 1.5, seed: 7, ..Sampling::GREEDY };
    for dtype in [DType::F32, DType::Bf16] {
        let [plain, graphs] = [false, true].map(|graphs| {
            let device = match std::env::var("VICUGNA_DEVICE").as_deref() {
                Ok("cuda") => Device::cuda(0).unwrap(),
                _ => Device::emulated(),
            };
            assert!(!graphs || device.use_graphs().is_none() == device.to_string().starts_with("cuda"));
            continue_tokens(&files.load(dtype, &device).unwrap(), &prompt, 160, sampling).unwrap()
        });
        assert_eq!(plain, graphs, "{dtype}");
    }
}
