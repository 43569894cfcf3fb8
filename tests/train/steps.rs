//! What the options of the loop do.

use crate::command::{Ran, fixture};
use crate::run::{Place, results, tensors};

struct Setting {
    place: Place,
    data: String,
}

impl Setting {
    fn new(records: u32) -> Self {
        let place = Place::new();
        let data = place.random_records("data.jsonl", records);
        Self { place, data }
    }

    fn run(&self, out: &str, options: &[&str]) -> Ran {
        self.place.finetune(&fixture("gqa"), &self.data, out, options)
    }
}

fn close(found: &[f64], expected: &[f64], within: f64) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f / e - 1.0).abs() < within, "{found:?} is not {expected:?}");
    }
}

/// Masked records make the batches unequal: a mean of batch means would show.
#[test]
fn accumulation_is_the_large_batch() {
    let setting = Setting::new(24);
    let options =
        ["--no-packing", "--epochs", "1", "--learning-rate", "0.01", "--lora-dropout", "0.3", "--eval-every", "2"];
    let run = |out: &str, rows: &str, batches: &str| {
        let batch = ["--batch-size", rows, "--gradient-accumulation-steps", batches];
        setting.run(out, &[&options[..], &batch].concat()).json();
    };
    run("large", "6", "1");
    run("small", "1", "6");
    let column = |out: &str, key: &str| setting.place.column(out, key);
    for key in ["loss", "grad_norm", "eval_loss"] {
        close(&column("small", key), &column("large", key), 1e-5);
    }
    assert_eq!(column("small", "tokens"), column("large", "tokens"));
    assert_eq!(column("small", "loss").len(), 4);
}

#[test]
fn packing_fills_rows_and_changes_no_record() {
    let setting = Setting::new(40);
    let options = ["--epochs", "1", "--max-input-length", "24", "--batch-size", "2", "--validation-split-ratio", "0"];
    setting.run("packed", &options).json();
    setting.run("apart", &[&options[..], &["--no-packing"]].concat()).json();
    let (packed, apart) = (setting.place.column("packed", "tokens"), setting.place.column("apart", "tokens"));
    assert_eq!(packed.iter().sum::<f64>(), apart.iter().sum::<f64>());
    assert!(packed.len() < apart.len() && packed.iter().all(|&tokens| tokens <= 48.0), "{packed:?}");
    // A batch of all records has the loss that they have one by one.
    let all = ["--epochs", "1", "--validation-split-ratio", "0", "--lora-dropout", "0"];
    setting.run("one", &[&all[..], &["--batch-size", "40"]].concat()).json();
    let each = ["--no-packing", "--batch-size", "1", "--learning-rate", "0"];
    let summary = setting.run("each", &[&all[..], &each].concat()).json();
    let loss = setting.place.column("one", "loss")[0];
    close(&[summary["train_loss"].as_f64().unwrap()], &[loss], 1e-6);
}

#[test]
fn learning_rates_follow_their_schedules() {
    let setting = Setting::new(15);
    let rates = |out: &str, options: &[&str]| {
        let common = ["--no-packing", "--batch-size", "3", "--epochs", "2", "--learning-rate", "0.5"];
        setting.run(out, &[&common[..], options].concat()).json();
        setting.place.column(out, "learning_rate")
    };
    close(&rates("constant", &[]), &[0.5; 8], 1e-12);
    close(&rates("step", &["--gamma", "0.1"]), &[0.5, 0.5, 0.5, 0.5, 0.05, 0.05, 0.05, 0.05], 1e-12);
    let linear = rates("linear", &["--lr-schedule", "linear", "--warmup-steps", "4"]);
    assert_eq!(linear[0], 0.0);
    close(&linear[1..], &[0.125, 0.25, 0.375, 0.5, 0.375, 0.25, 0.125], 1e-12);
    let cosine: Vec<f64> = (0..8).map(|s| 0.25 * (1.0 + (std::f64::consts::PI * f64::from(s) / 8.0).cos())).collect();
    close(&rates("cosine", &["--lr-schedule", "cosine"]), &cosine, 1e-12);
}

#[test]
fn the_seed_decides_order_and_dropout() {
    let setting = Setting::new(20);
    let options = ["--epochs", "1", "--batch-size", "1", "--max-input-length", "40"];
    for (out, extra) in [("a", vec![]), ("b", vec!["--seed", "1"]), ("c", vec!["--no-shuffle"])] {
        setting.run(out, &[&options[..], &extra].concat()).json();
    }
    let [a, b, c] = ["a", "b", "c"].map(|out| results(&setting.place.path(out)));
    assert!(a != b && a != c && b != c);
}

#[test]
fn full_training_leaves_a_model_that_loads() {
    let setting = Setting::new(20);
    let before = setting.run("full", &["--full", "--learning-rate", "0.001", "--batch-size", "1"]).json();
    assert_eq!(before["trainable_parameters"], before["all_parameters"]);
    let out = setting.place.text("full");
    let eval = ["eval", "--model", &out, "--data", &setting.data, "--json"];
    let found = crate::command::vicugna(&eval).json();
    assert_eq!(found["records"], 20);
    let whole =
        crate::command::vicugna(&["eval", "--model", &fixture("gqa"), "--data", &setting.data, "--json"]).json();
    assert!(found["loss"].as_f64().unwrap() < whole["loss"].as_f64().unwrap(), "{found} {whole}");
}

#[test]
fn eval_agrees_with_the_evaluation_of_the_run() {
    let setting = Setting::new(30);
    let held = setting.place.records("held.jsonl", &[serde_json::json!({"input_ids": [5, 6, 7, 8, 9, 10, 11, 12]})]);
    let options = ["--eval", &held, "--epochs", "2", "--learning-rate", "0.01", "--max-input-length", "6"];
    let run = setting.run("out", &options).json();
    let out = setting.place.text("out");
    let eval = |extra: &[&str]| {
        let common = ["eval", "--model", &fixture("gqa"), "--data", &held, "--json"].map(String::from);
        let all: Vec<&str> = common.iter().map(String::as_str).chain(extra.iter().copied()).collect();
        crate::command::vicugna(&all).json()
    };
    // Lengths come from the run's config.toml: the record is cut there too.
    let found = eval(&["--adapter", &out]);
    assert_eq!(found["loss"], run["eval_loss"]);
    assert_eq!(found["perplexity"], run["eval_perplexity"]);
    assert_eq!((found["tokens"].as_u64(), found["records"].as_u64()), (Some(5), Some(1)));
    assert_eq!(eval(&[])["tokens"], 7);
    assert_eq!(eval(&["--adapter", &out, "--max-input-length", "4"])["tokens"], 3);
}

#[test]
fn an_adapter_goes_on_from_another() {
    let setting = Setting::new(20);
    let common = ["--batch-size", "1", "--validation-split-ratio", "0", "--lora-dropout", "0", "--learning-rate"];
    let fresh = ["0.01", "--lora-r", "2", "--lora-alpha", "6", "--target-modules", "o_proj,up_proj"];
    setting.run("first", &[&common[..], &fresh].concat()).json();
    let first = setting.place.text("first");
    setting.run("second", &[&common[..], &["0", "--init-adapter", &first]].concat()).json();
    let weights = |out: &str| tensors(&setting.place.path(out).join("adapter_model.safetensors"));
    assert_eq!(weights("first"), weights("second"));
    let config = |out: &str| std::fs::read_to_string(setting.place.path(out).join("adapter_config.json")).unwrap();
    assert_eq!(config("first"), config("second"));
    assert!(std::fs::read_to_string(setting.place.path("second/config.toml")).unwrap().contains("lora_r = 2\n"));
}

#[test]
fn samples_can_be_limited() {
    let setting = Setting::new(30);
    let run = setting.run(
        "out",
        &["--no-packing", "--batch-size", "1", "--epochs", "1", "--max-train-samples", "7", "--max-eval-samples", "2"],
    );
    assert!(
        run.stderr.contains("training on 7 sequences of ") && run.stderr.contains("evaluating on 2 of "),
        "{}",
        run.stderr
    );
    assert_eq!(run.json()["steps"], 7);
}

#[test]
fn bf16_trains_an_f32_adapter() {
    let setting = Setting::new(20);
    let run = setting.run("out", &["--dtype", "bf16", "--batch-size", "1", "--learning-rate", "0.003"]).json();
    assert!(run["train_loss"].as_f64().unwrap().is_finite());
    let adapter = tensors(&setting.place.path("out/adapter_model.safetensors"));
    assert_eq!(adapter.len(), 8);
}
