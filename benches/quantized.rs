//! What fewer bits cost and save: SmolLM2-135M in f32, packed by each product and packed once, int8 with both ways to the
//! gradient, nf4 and fp4, in one run.
//!
//! Each scheme runs in a process of its own, in turn, several times over; the best of each is kept. A LoRA of rank 8 on q and
//! v, 4 x 256 tokens: training with every token supervised, and with the first 70 % of each sequence masked as prompts are;
//! the forward pass alone; greedy decoding; the bytes of the linear layers; the process' peak memory, when the model is
//! loaded and in the end; the loss on the records of `assets/dolly_sample/eval.jsonl`, untrained.
//!
//!     cargo bench --bench quantized            VICUGNA_MODEL names another model, VICUGNA_ROUNDS how often (3)

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use vicugna::autograd::{backward, no_grad};
use vicugna::device::{Device, host};
use vicugna::dtype::DType;
use vicugna::generate::{Sampling, continue_tokens};
use vicugna::io::adapter::AdapterConfig;
use vicugna::io::hub::{Hub, Kind};
use vicugna::io::model::{ModelFiles, attach_new_adapter};
use vicugna::io::quantized::{Choice, Scheme};
use vicugna::models::llama::Llama;
use vicugna::nn::{Batch, Plain, Sequence, Weight};
use vicugna::ops::Instructions;
use vicugna::ops::cross_entropy::IGNORE_INDEX;
use vicugna::ops::int8_matmul::Backward;
use vicugna::train::{self, DataOptions, peak_rss_bytes};

/// The yardstick: weights as rows of floats, which each product packs.
const YARDSTICK: &str = "f32, packed each time";

const SCHEMES: [(&str, Scheme, Backward, bool); 7] = [
    (YARDSTICK, Scheme::None, Backward::Int8, false),
    ("f32", Scheme::None, Backward::Int8, false),
    ("int8", Scheme::Int8, Backward::Int8, false),
    ("int8+dequant", Scheme::Int8, Backward::Dequant, false),
    ("nf4", Scheme::Nf4, Backward::Int8, false),
    ("nf4 double", Scheme::Nf4, Backward::Int8, true),
    ("fp4", Scheme::Fp4, Backward::Int8, false),
];

/// What is measured of a scheme, and whether more is better.
const MEASURES: [(&str, bool); 8] = [
    ("training, tokens/s", true),
    ("masked, tokens/s", true),
    ("forward, tokens/s", true),
    ("decoding, tokens/s", true),
    ("linears, bytes", false),
    ("loading, peak bytes", false),
    ("peak RSS, bytes", false),
    ("held-out loss", false),
];

fn main() {
    match std::env::var("VICUGNA_BENCH_SCHEME") {
        Ok(name) => println!("{}", measure(&name)),
        Err(_) => compare(),
    }
}

/// Measures the schemes in turn, round after round, and prints the best of each and its ratio to the first.
fn compare() {
    let rounds = std::env::var("VICUGNA_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let mut best = [[f64::NAN; MEASURES.len()]; SCHEMES.len()];
    for _ in 0..rounds {
        for ((name, ..), best) in SCHEMES.iter().zip(&mut best) {
            let child =
                Command::new(std::env::current_exe().unwrap()).env("VICUGNA_BENCH_SCHEME", name).output().unwrap();
            assert!(child.status.success(), "{name}: {}", String::from_utf8_lossy(&child.stderr));
            let found: Vec<f64> = serde_json::from_slice(&child.stdout).unwrap();
            for ((best, found), (_, is_more_better)) in best.iter_mut().zip(found).zip(MEASURES) {
                *best = if is_more_better { best.max(found) } else { best.min(found) };
            }
        }
    }
    println!("{}, {} threads\n", Instructions::of_this_cpu(), rayon::current_num_threads());
    print!("{:24}", "");
    SCHEMES.iter().for_each(|(name, ..)| print!("{name:>22}"));
    for (i, (measure, _)) in MEASURES.iter().enumerate() {
        print!("\n{measure:24}");
        let digits = if best[0][i] < 10.0 { 4 } else { 1 };
        best.iter().for_each(|of| print!("{:>13.digits$} ({:>5.3})", of[i], of[i] / best[0][i]));
    }
    println!();
}

/// The measures of one scheme, as a list.
fn measure(name: &str) -> Value {
    let (_, scheme, backward, double) = *SCHEMES.iter().find(|(known, ..)| *known == name).unwrap();
    let model = std::env::var("VICUGNA_MODEL").unwrap_or("smollm2-135m".into());
    let path = Hub { quiet: true, ..Hub::from_env() }.resolve(&model, Kind::Model).unwrap();
    let choice = Choice { scheme: Some(scheme), double, backward: Some(backward), threshold: None };
    let files = ModelFiles::open(&path).unwrap().quantized(&choice).unwrap();
    let load = if name == YARDSTICK { ModelFiles::load } else { ModelFiles::load_frozen };
    let model = load(&files, DType::F32, &Device::Cpu).unwrap();
    let loaded = peak_rss_bytes();
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/dolly_sample/eval.jsonl");
    let sequences = train::read(&records, &DataOptions::default(), &files).unwrap().0;
    let held_out = train::evaluate(&model, &sequences, |_| ()).unwrap().loss;
    let (all, masked) = (batch(&model, 0), batch(&model, 180));
    let loss = |batch: &Batch| model.loss(batch, batch.supervised as f32, None, &Plain).unwrap();
    let forward = rate(1024, || host::in_pool(|| no_grad(|| drop(loss(&all)))));
    let prompt: Vec<u32> = (0..16).map(|i| i * 191 + 7).collect();
    let decoding = rate(32, || {
        let tokens = continue_tokens(&model, &prompt, 32, Sampling::GREEDY).unwrap();
        assert_eq!(tokens.len(), 32, "the model ended the text");
    });
    attach_new_adapter(&model, &AdapterConfig::default(), 1).unwrap();
    let step = |batch: &Batch| host::in_pool(|| drop(self::backward(&loss(batch)).unwrap()));
    let (training, with_prompts) = (rate(1024, || step(&all)), rate(1024, || step(&masked)));
    let memory = [loaded, peak_rss_bytes()].map(Option::unwrap_or_default);
    json!([training, with_prompts, forward, decoding, bytes_of_linears(&model), memory[0], memory[1], held_out])
}

/// 4 sequences of 256 tokens, of which the first so many of each are not supervised.
fn batch(model: &Llama, masked: usize) -> Batch {
    let vocabulary = model.config().vocab_size as u32;
    let sequence = |s: u32| {
        let input_ids: Vec<u32> = (0..256).map(|i| (i * 191 + s * 7919) % vocabulary).collect();
        let label = |(i, id): (usize, &u32)| if i < masked { IGNORE_INDEX } else { *id as i32 };
        Sequence { labels: input_ids.iter().enumerate().map(label).collect(), input_ids }
    };
    Batch::new(&[0, 1, 2, 3].map(sequence), &Device::Cpu).unwrap()
}

/// Units a second: the best of some runs after one.
fn rate(units: usize, mut run: impl FnMut()) -> f64 {
    run();
    let times = (0..4).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    units as f64 / times.fold(f64::INFINITY, f64::min)
}

fn bytes_of_linears(model: &Llama) -> usize {
    let linears = model.linears().into_iter().filter(|(name, _)| name != "lm_head");
    let bytes = linears.map(|(_, linear)| match &linear.weight {
        Weight::Dense(parameter) => parameter.get().bytes(),
        Weight::Packed(packed) => packed.memory().bytes(),
        Weight::Quantized(quantized) => quantized.bytes(),
    });
    bytes.sum()
}
