//! Runs that learn nothing any more are told.

use crate::command::{Ran, fixture};
use crate::run::{Place, results};

fn train(place: &Place, model: &str, options: &[&str]) -> Ran {
    let data = place.random_records("data.jsonl", 12);
    let common = ["--batch-size", "1", "--no-packing", "--validation-split-ratio", "0"];
    place.finetune(model, &data, "out", &[&common, options].concat())
}

/// A fixture whose output layers are 0, so that nothing has an influence on the loss.
fn mute(place: &Place) -> String {
    let model = crate::command::copy("gqa", &place.path(""));
    let path = model.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let zeroed =
        metadata.tensors().into_iter().filter(|(name, _)| name.contains("o_proj") || name.contains("down_proj"));
    for (_, info) in zeroed {
        bytes[8 + header + info.data_offsets.0..8 + header + info.data_offsets.1].fill(0);
    }
    std::fs::write(path, bytes).unwrap();
    model.to_str().unwrap().into()
}

#[test]
fn a_run_that_is_dead_from_its_first_step_is_given_up() {
    for (steps, ends) in [("40", true), ("10", true), ("9", false), ("1", false)] {
        for alpha in ["0", "16"] {
            let place = Place::new();
            let model = if alpha == "0" { fixture("gqa") } else { mute(&place) };
            let ran = train(&place, &model, &["--max-steps", steps, "--lora-alpha", alpha]);
            let has = |start: &str| ran.stderr.lines().any(|line| line.starts_with(start));
            assert!(has("step 1: the gradient is 0 everywhere, at a loss of "), "{}", ran.stderr);
            let error = "error: training: the gradient is 0 everywhere from step 1 to 10, and the loss stays at ";
            assert_eq!((has(error), ran.code), (ends, i32::from(ends)), "{}", ran.stderr);
            assert_eq!(has("hint: what is trained has no influence on the loss: "), ends, "{}", ran.stderr);
            assert_eq!(place.path("out/adapter_config.json").exists(), !ends);
        }
    }
}

/// A step so large that the sums of squares overflow and the normalisation takes all away.
#[test]
fn a_run_that_dies_on_its_way_is_told_and_given_up() {
    let place = Place::new();
    let ran = train(&place, &fixture("gqa"), &["--learning-rate", "1e25", "--max-steps", "30"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("step 2: the gradient is 0 everywhere, at a loss of "), "{}", ran.stderr);
    let error = "error: training: the gradient is 0 everywhere from step 2 to 11, and the loss stays at ";
    assert!(ran.stderr.lines().any(|line| line.starts_with(error)), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: a step was too large: a lower --learning-rate"), "{}", ran.stderr);
}

/// Dropout of nearly all leaves some steps without a gradient: they are told, and the run goes on.
#[test]
fn a_run_that_recovers_goes_on() {
    let place = Place::new();
    let options = ["--lora-dropout", "0.9995", "--epochs", "2", "--learning-rate", "0.1", "--target-modules", "q_proj"];
    let ran = train(&place, &fixture("gqa"), &options);
    let norms = place.column("out", "grad_norm");
    let dead = norms.iter().filter(|&&norm| norm == 0.0).count();
    assert!(dead > 0 && dead < norms.len(), "{norms:?}");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains(": the gradient is 0 everywhere, at a loss of "), "{}", ran.stderr);
    results(&place.path("out"));
}
