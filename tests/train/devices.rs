//! The same training on any device: 20 steps on the kernels follow those on the CPU. `VICUGNA_DEVICE=cuda` takes a GPU, by
//! default the emulator executes them.

use vicugna::reference::tolerance::largest;

use crate::command::fixture;
use crate::run::{Place, results};

/// Adapters of all seven matrices, or all weights; records packed into rows, or each a row of its own. The model `mha`
/// has as many key/value heads as heads and an output layer of its own, `gqa` shares both.
const KINDS: [(&str, &[&str]); 4] = [
    ("mha", &["--target-modules", "all-linear", "--lora-dropout", "0.1"]),
    ("gqa", &["--target-modules", "all-linear", "--no-packing"]),
    ("mha", &["--full", "--no-packing"]),
    ("gqa", &["--full", "--activation-checkpointing"]),
];

/// The losses of 20 steps, of two records or a packed row each.
fn losses(place: &Place, [model, device, dtype]: [&str; 3], options: &[&str]) -> Vec<f64> {
    let data = place.random_records("data.jsonl", 45);
    let common = [
        ["--device", device],
        ["--dtype", dtype],
        ["--max-steps", "20"],
        ["--batch-size", "2"],
        ["--max-input-length", "24"],
        ["--learning-rate", "3e-3"],
        ["--validation-split-ratio", "0"],
    ];
    let out = format!("{model}-{device}-{dtype}");
    place.finetune(&fixture(model), &data, &out, &[&common.concat()[..], options].concat()).json();
    let losses = place.column(&out, "loss");
    assert_eq!(losses.len(), 20);
    losses
}

fn farthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    largest(a.iter().zip(b).map(|(a, b)| (a / b - 1.0).abs()))
}

#[test]
fn the_kernels_train_as_the_cpu_does() {
    let gpu = std::env::var("VICUGNA_DEVICE").unwrap_or("emulated".into());
    for (model, options) in KINDS {
        let place = Place::new();
        let run = |device, dtype| losses(&place, [model, device, dtype], options);
        let exact = run("cpu", "f32");
        let apart = farthest(&run(&gpu, "f32"), &exact);
        let (rounded, allowed) = (farthest(&run(&gpu, "bf16"), &exact), 2.0 * farthest(&run("cpu", "bf16"), &exact));
        println!("{model} {options:?}: f32 {apart:.1e} apart; bf16 {rounded:.1e} of {allowed:.1e}");
        assert!(apart < 1e-4, "{model} {options:?}: the losses are {apart:e} apart");
        assert!(rounded < allowed, "{model} {options:?}: in bf16 {rounded:e} from f32, not within {allowed:e}");
        assert!(exact[19] < exact[0], "{exact:?}");
    }
}

#[test]
fn threads_of_the_emulator_change_no_bit() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 12);
    let run = |out: &str, threads: &str| {
        let options = ["--device", "emulated", "--threads", threads, "--max-steps", "3", "--lora-dropout", "0.1"];
        let json = place.finetune(&fixture("gqa"), &data, out, &options).json();
        assert!(json["peak_device_bytes"].as_u64().unwrap() > 100_000);
        results(&place.path(out))
    };
    assert!(run("one", "1") == run("two", "2"));
}
