//! Runs of several ranks: the bits of one.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde_json::{Value, json};
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::io::safetensors::write_tensors;
use vicugna::io::slices::Slices;
use vicugna::shape::Shape;

use crate::command::{command, vicugna};
use crate::refusals::poison;
use crate::run::{Place, results};

/// Writes a model whose larger matrices are of several pieces, which ranks share out.
pub fn wide_model(place: &Place, is_tied: bool) -> String {
    let (hidden, intermediate, vocab) = (96, 300, 401);
    let name = if is_tied { "tied" } else { "untied" };
    let folder = place.path(name);
    std::fs::create_dir_all(&folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": hidden,
        "intermediate_size": intermediate, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "vocab_size": vocab, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": is_tied, "bos_token_id": 1, "eos_token_id": 2,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![("model.embed_tokens.weight".to_string(), vec![vocab, hidden])];
    for layer in 0..2 {
        let linears = [
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", hidden / 2, hidden),
            ("self_attn.v_proj", hidden / 2, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", intermediate, hidden),
            ("mlp.up_proj", intermediate, hidden),
            ("mlp.down_proj", hidden, intermediate),
        ];
        shapes.extend(linears.map(|(name, n, k)| (format!("model.layers.{layer}.{name}.weight"), vec![n, k])));
        let norms = ["input_layernorm", "post_attention_layernorm"];
        shapes.extend(norms.map(|name| (format!("model.layers.{layer}.{name}.weight"), vec![hidden])));
    }
    shapes.push(("model.norm.weight".into(), vec![hidden]));
    shapes.extend((!is_tied).then(|| ("lm_head.weight".into(), vec![vocab, hidden])));
    let mut x = 7u32;
    let mut random = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut weights = BTreeMap::new();
    for (name, shape) in shapes {
        let of_norm = shape.len() == 1;
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| if of_norm { 1.0 + 0.1 * random() } else { 0.15 * random() }).collect();
        let shape = if let [n, k] = shape[..] { Shape::from([n, k]) } else { Shape::from([values.len()]) };
        weights.insert(name, Tensor::from_slice(&Device::Cpu, shape, &values).unwrap());
    }
    write_tensors(&folder.join("model.safetensors"), &weights).unwrap();
    folder.to_str().unwrap().to_string()
}

/// 20 steps with everything that has a state.
pub const OPTIONS: &str = "--batch-size 1 --max-input-length 24 --learning-rate 0.01 --lr-schedule cosine --warmup-steps 2 \
    --lora-dropout 0.1 --max-grad-norm 1 --weight-decay 0.1 --target-modules all-linear --eval-every 10 --save-every 8";

/// All that a run leaves which its result is: weights, the optimizer's state, and what each step and evaluation found.
pub fn left(place: &Place, out: &str) -> BTreeMap<String, Vec<u8>> {
    let mut left = results(&place.path(out));
    for step in std::fs::read_dir(place.path(out).join("checkpoints")).unwrap() {
        let step = step.unwrap().path();
        let (stored, folder) = (Slices::open(&step).unwrap(), step.strip_prefix(place.path(out)).unwrap());
        for name in stored.names() {
            let shape = stored.shape(name).unwrap();
            let values = stored.read(name, shape, 0..shape.numel()).unwrap();
            left.insert(folder.join(name).to_str().unwrap().into(), values.buffer().unwrap().host().unwrap().to_vec());
        }
    }
    let found = |mut line: Value| {
        for machine in ["tokens_per_second", "peak_rss_bytes", "peak_device_bytes"] {
            line.as_object_mut().unwrap().remove(machine);
        }
        line.to_string()
    };
    let lines: Vec<String> = place.metrics(out).into_iter().map(found).collect();
    left.insert("metrics".into(), lines.join("\n").into_bytes());
    left
}

pub fn finetune(place: &Place, model: &str, data: &str, out: &str, steps: u32, options: &str) {
    let steps = steps.to_string();
    let all: Vec<&str> = OPTIONS.split_whitespace().chain(options.split_whitespace()).collect();
    let ran = place.finetune(model, data, out, &[&all[..], &["--max-steps", &steps]].concat());
    ran.json();
}

/// Names what differs.
pub fn assert_equal(found: &BTreeMap<String, Vec<u8>>, wanted: &BTreeMap<String, Vec<u8>>, case: &str) {
    let [names, of_wanted] = [found, wanted].map(|left| left.keys().collect::<Vec<_>>());
    assert_eq!(names, of_wanted, "{case}");
    for (name, bytes) in found {
        assert!(*bytes == wanted[name], "{case}: {name} differs");
    }
}

/// What is trained, and how the rest is held.
const METHODS: [&str; 7] = [
    "--dtype f32",
    "--dtype f32 --full",
    "--dtype bf16",
    "--dtype bf16 --full",
    "--quantize int8",
    "--quantize int8 --int8-backward dequant --int8-threshold 2.5",
    "--quantize nf4 --double-quant",
];
const STRATEGIES: [&str; 3] = ["none", "full", "grad-op"];

/// One run of several ranks: the number of an option of each kind.
type Case = [usize; 7];
/// How many options of each kind there are: models, methods, strategies, ranks, accumulation, packing, checkpointing.
const COUNTS: Case = [2, METHODS.len(), STRATEGIES.len(), 4, 2, 2, 2];

fn all_cases() -> Vec<Case> {
    let case = |mut number: usize| {
        COUNTS.map(|count| {
            let option = number % count;
            number /= count;
            option
        })
    };
    (0..COUNTS.iter().product()).map(case).collect()
}

/// Cases in which every two options of different kinds meet, greedily.
fn pairwise() -> Vec<Case> {
    let all = all_cases();
    let pairs = |case: &Case| {
        let case = *case;
        (0..7usize).flat_map(move |a| (a + 1..7).map(move |b| (a, case[a], b, case[b]))).collect::<Vec<_>>()
    };
    let mut left: HashSet<_> = all.iter().flat_map(pairs).collect();
    let mut chosen = Vec::new();
    while !left.is_empty() {
        let best = all.iter().max_by_key(|case| pairs(case).iter().filter(|pair| left.contains(pair)).count()).unwrap();
        left.retain(|pair| !pairs(best).contains(pair));
        chosen.push(*best);
    }
    chosen
}

#[test]
fn the_number_of_ranks_changes_no_bit() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 30);
    let models = [wide_model(&place, true), wide_model(&place, false)];
    let pairwise = pairwise();
    assert!(pairwise.len() <= 40, "{} cases", pairwise.len());
    let cases = if std::env::var_os("VICUGNA_ALL_CASES").is_some() { all_cases() } else { pairwise };
    let mut alone: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for [model, method, strategy, ranks, accumulation, packing, checkpointing] in cases {
        let (ranks, accumulation) = (ranks + 1, [1, 3][accumulation]);
        let packing = ["", "--no-packing"][packing];
        let common = format!("{} {packing}", METHODS[method]);
        let (batches, model) = (ranks * accumulation, &models[model]);
        let reference = format!("{model} {common} --gradient-accumulation-steps {batches}");
        let wanted = alone.entry(reference.clone()).or_insert_with(|| {
            finetune(&place, model, &data, "alone", 20, &format!("{common} --gradient-accumulation-steps {batches}"));
            let left = left(&place, "alone");
            std::fs::remove_dir_all(place.path("alone")).unwrap();
            left
        });
        let checkpointing = ["", "--activation-checkpointing"][checkpointing];
        let (strategy, steps) = (STRATEGIES[strategy], format!("--gradient-accumulation-steps {accumulation}"));
        let options = format!("{common} --ranks {ranks} --shard {strategy} {steps} {checkpointing}");
        finetune(&place, model, &data, "ranks", 20, &options);
        assert_equal(&left(&place, "ranks"), wanted, &format!("{options} against {reference}"));
        std::fs::remove_dir_all(place.path("ranks")).unwrap();
    }
}

#[test]
fn ranks_without_records_keep_the_bits() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 3);
    let model = wide_model(&place, true);
    let common = "--validation-split-ratio 0 --no-packing";
    finetune(&place, &model, &data, "alone", 5, &format!("{common} --gradient-accumulation-steps 4"));
    for strategy in STRATEGIES {
        finetune(&place, &model, &data, strategy, 5, &format!("{common} --ranks 4 --shard {strategy}"));
        assert_equal(&left(&place, strategy), &left(&place, "alone"), strategy);
    }
}

#[test]
fn emulated_ranks_give_the_bits_of_one() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 12);
    let model = wide_model(&place, true);
    for (i, method) in ["--dtype f32", "--dtype bf16 --full", "--quantize int8"].into_iter().enumerate() {
        let common = format!("{method} --device emulated");
        let alone = format!("alone-{i}");
        finetune(&place, &model, &data, &alone, 3, &format!("{common} --gradient-accumulation-steps 2"));
        for strategy in STRATEGIES {
            let out = format!("{strategy}-{i}");
            finetune(&place, &model, &data, &out, 3, &format!("{common} --ranks 2 --shard {strategy}"));
            assert_equal(&left(&place, &out), &left(&place, &alone), &format!("{method} {strategy}"));
        }
    }
}

/// A copy of the finished run `from` as it was after the checkpoint of `step`, as far as its checkpoints are still there.
fn cut_off(place: &Place, from: &str, to: &str, step: u64) {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &target);
            } else {
                std::fs::copy(&path, &target).unwrap();
            }
        }
    }
    copy(&place.path(from), &place.path(to));
    for name in results(&place.path(to)).keys() {
        std::fs::remove_file(place.path(to).join(name)).unwrap();
    }
    for entry in std::fs::read_dir(place.path(to).join("checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        let of: u64 = path.to_str().unwrap().rsplit_once('-').unwrap().1.parse().unwrap();
        if of > step {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

#[test]
fn a_run_goes_on_with_other_ranks_and_another_strategy() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 30);
    let model = wide_model(&place, false);
    let first = [("", "none"), ("--full", "full"), ("--full --dtype bf16", "grad-op"), ("--quantize int8", "none")];
    for (i, (method, strategy)) in first.into_iter().enumerate() {
        let whole = format!("whole-{i}");
        finetune(&place, &model, &data, &whole, 20, &format!("{method} --ranks 4 --shard {strategy}"));
        for (step, ranks, strategy) in [(10, 1, "none"), (10, 3, "full"), (16, 2, "grad-op")] {
            let out = format!("{whole}-{step}-{ranks}");
            cut_off(&place, &whole, &out, step);
            finetune(&place, &model, &data, &out, 20, &format!("{method} --ranks {ranks} --shard {strategy} --resume"));
            let [mut found, mut wanted] = [&out, &whole].map(|out| left(&place, out));
            // Which old checkpoints are left depends on where the run went on.
            let is_last = |name: &str| !name.starts_with("checkpoints/") || name.starts_with("checkpoints/step-20/");
            [&mut found, &mut wanted].into_iter().for_each(|left| left.retain(|name, _| is_last(name)));
            assert_equal(&found, &wanted, &format!("{method} from {step} on {ranks} ranks, {strategy}"));
        }
    }
}

#[test]
fn what_ranks_cannot_be_is_refused() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 3);
    let model = wide_model(&place, true);
    place.finetune(&model, &data, "out", &["--ranks", "0"]).refused("--ranks: must be at least 1");
    let ran = vicugna(&["finetune", "--model", &model, "--train", &data, "--out", "x", "--shard", "half"]);
    assert_eq!(ran.code, 2);
}

#[test]
fn processes_that_do_not_know_each_other_are_refused() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 3);
    let model = wide_model(&place, true);
    let out = place.text("out");
    for variable in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", "WORLD_SIZE"] {
        let arguments = ["finetune", "--model", &model, "--train", &data, "--out", &out, "--max-steps", "1"];
        let output = command(&arguments).env(variable, "4").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let line = format!("--ranks: {variable} says that this is one of 4 processes, but it finds none of the others");
        assert!(stderr.contains(&line), "{stderr}");
        assert!(stderr.contains(if cfg!(feature = "mpi") { "srun --mpi=pmix" } else { "--features mpi" }), "{stderr}");
        assert!(!place.path("out").exists());
    }
    let alone = [
        "finetune",
        "--model",
        &model,
        "--train",
        &data,
        "--out",
        &out,
        "--max-steps",
        "1",
        "--communicator",
        "threads",
    ];
    assert!(command(&alone).env("SLURM_NTASKS", "4").output().unwrap().status.success());
}

/// The line that a run ends in which comes to what is no number.
fn not_finite(place: &Place, model: &str, data: &str, options: &str) -> String {
    let fixed = "--batch-size 1 --max-input-length 24 --save-every 1 --max-steps 8";
    let all: Vec<&str> = fixed.split_whitespace().chain(options.split_whitespace()).collect();
    let ran = place.finetune(model, data, "out", &all);
    assert_eq!(ran.code, 1, "{options}: {}", ran.stderr);
    std::fs::remove_dir_all(place.path("out")).unwrap();
    ran.stderr.lines().find(|line| line.starts_with("error: ")).unwrap().to_string()
}

#[test]
fn all_ranks_find_what_is_no_number() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 30);
    let model = wide_model(&place, true);
    for method in ["--full --learning-rate 3e37", "--learning-rate 3e37", "--learning-rate 3e37 --eval-every 1"] {
        let wanted = not_finite(&place, &model, &data, &format!("{method} --gradient-accumulation-steps 3"));
        assert!(wanted.contains("the first tensor that is not finite is "), "{wanted}");
        for strategy in STRATEGIES {
            let found = not_finite(&place, &model, &data, &format!("{method} --ranks 3 --shard {strategy}"));
            assert_eq!(found, wanted, "{method} {strategy}");
        }
    }
    poison(&Path::new(&model).join("model.safetensors"), "model.layers.1.mlp.up_proj.weight");
    for (strategy, culprit) in
        [("grad-op", "model.layers.1.mlp.up_proj.weight"), ("full", "the output of model.layers.1")]
    {
        let found = not_finite(&place, &model, &data, &format!("--ranks 2 --shard {strategy}"));
        assert!(found.ends_with(&format!("at step 1; the first tensor that is not finite is {culprit}")), "{found}");
    }
}

/// A binary of the default features asks for no MPI.
#[cfg(not(feature = "mpi"))]
#[test]
fn no_mpi_is_linked() {
    let binary = std::fs::read(env!("CARGO_BIN_EXE_vicugna")).unwrap();
    assert!(!binary.windows(9).any(|bytes| bytes == b"libmpi.so"));
}

/// The most bytes that rank 0's emulated device held.
fn peak(place: &Place, model: &str, data: &str, options: &str) -> usize {
    let fixed = "--device emulated --batch-size 1 --max-input-length 4 --no-packing --max-steps 2 \
        --validation-split-ratio 0 --no-shuffle --save-every 1";
    let dtype = if options.contains("--dtype") { "" } else { "--dtype f32" };
    let all: Vec<&str> = [fixed, dtype, options].iter().flat_map(|options| options.split_whitespace()).collect();
    let found = place.finetune(model, data, "out", &all).json()["peak_device_bytes"].as_u64().unwrap();
    std::fs::remove_dir_all(place.path("out")).unwrap();
    found as usize
}

#[test]
fn ranks_hold_their_share() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 8);
    let (piece, f32s) = (65_536, |elements: usize| 4 * elements);
    for is_tied in [true, false] {
        let model = wide_model(&place, is_tied);
        let block = 96 * (96 + 48 + 48 + 96) + 3 * 300 * 96 + 2 * 96;
        let table = 401 * 96;
        let all = 2 * block + table + 96 + if is_tied { 0 } else { table };
        // Activations, logits and the like: what is left of a run that trains next to nothing.
        let little = "--lora-r 1 --target-modules q_proj";
        let other = peak(&place, &model, &data, little) - f32s(all);
        let units = f32s(block + block.max(table));
        // In bf16 the weights of a unit travel in bf16, but for tables, and no cast of them stays on the tape.
        let narrow = peak(&place, &model, &data, &format!("{little} --dtype bf16")) - f32s(all) / 2;
        for ranks in [2, 4] {
            let found = peak(&place, &model, &data, &format!("--full --dtype bf16 --shard full --ranks {ranks}"));
            let gradient = f32s(block.max(table) + if is_tied { table } else { 0 });
            let bound = 4 * (f32s(all) / ranks + piece) + 2 * f32s(block / 2).max(f32s(table)) + gradient + narrow;
            println!("tied {is_tied}, all, full, bf16, {ranks} ranks: {found} of {bound}");
            assert!(found <= bound, "{found} bytes on one of {ranks} ranks, not {bound}");
        }
        for ranks in [1, 2, 4] {
            let found = peak(&place, &model, &data, &format!("{little} --shard full --ranks {ranks}"));
            let bound = f32s(all) / ranks + units + other + piece;
            println!("tied {is_tied}, adapter, full, {ranks} ranks: {found} of {bound}");
            assert!(found <= bound, "{found} bytes on one of {ranks} ranks, not {bound}");
            // Of weights, gradients and the two moments each rank has its share; a gradient is whole while its unit is
            // differentiated, that of a tied embedding from the loss on.
            let gradient = f32s(block.max(table) + if is_tied { table } else { 0 });
            let found = peak(&place, &model, &data, &format!("--full --shard full --ranks {ranks}"));
            let bound = 4 * (f32s(all) / ranks + piece) + units + gradient + other;
            println!("tied {is_tied}, all, full, {ranks} ranks: {found} of {bound}");
            assert!(found <= bound, "{found} bytes on one of {ranks} ranks, not {bound}");
            let found = peak(&place, &model, &data, &format!("--full --shard grad-op --ranks {ranks}"));
            let bound = f32s(all) + 3 * (f32s(all) / ranks + piece) + gradient + other;
            println!("tied {is_tied}, all, grad-op, {ranks} ranks: {found} of {bound}");
            assert!(found <= bound, "{found} bytes on one of {ranks} ranks, not {bound}");
        }
    }
}

#[test]
fn a_step_keeps_the_batches_it_began_with() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 8);
    let model = wide_model(&place, true);
    place.finetune(&model, &data, "out", &["--max-steps", "2", "--gradient-accumulation-steps", "2"]).json();
    let ran = place.finetune(&model, &data, "out", &["--max-steps", "2", "--ranks", "3", "--resume"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("a step has 2 batches, as when the run began, not 3"), "{}", ran.stderr);
}
