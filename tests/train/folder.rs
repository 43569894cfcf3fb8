//! The folder of a run is written by one run, and never over anything.

use std::process::Command;

use crate::command::{fixture, vicugna};
use crate::run::Place;

#[test]
fn a_folder_with_anything_in_it_is_refused() {
    let place = Place::new();
    let (model, data) = (fixture("gqa"), place.random_records("data.jsonl", 8));
    place.finetune(&model, &data, "out", &["--max-steps", "1"]).json();
    let out = place.text("out");
    let again = place.finetune(&model, &data, "out", &["--max-steps", "1"]);
    again.refused(&format!("{out}: is there already and not empty"));
    assert!(again.stderr.contains("hint: go on with the run in it by --resume, or name a new --out"));

    std::fs::create_dir(place.path("mine")).unwrap();
    place.write("mine/thesis.txt", "words");
    place
        .finetune(&model, &data, "mine", &[])
        .refused(&format!("{}: is there already and not empty", place.text("mine")));
    let line = format!("{}: is not the folder of a run: it holds thesis.txt, but no config.toml", place.text("mine"));
    place.finetune(&model, &data, "mine", &["--resume"]).refused(&line);
    assert_eq!(std::fs::read_to_string(place.path("mine/thesis.txt")).unwrap(), "words");
}

#[test]
fn results_without_a_checkpoint_are_not_trained_over() {
    let place = Place::new();
    let (model, data) = (fixture("gqa"), place.random_records("data.jsonl", 8));
    place.finetune(&model, &data, "out", &["--max-steps", "1"]).json();
    std::fs::remove_dir_all(place.path("out/checkpoints")).unwrap();
    let ran = place.finetune(&model, &data, "out", &["--max-steps", "1", "--resume"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("holds results, but not the checkpoint they came with"), "{}", ran.stderr);
}

#[test]
fn a_run_cut_off_before_it_began_is_in_nobodys_way() {
    let place = Place::new();
    let (model, data) = (fixture("gqa"), place.random_records("data.jsonl", 8));
    for (out, extra) in [("anew", vec![]), ("resumed", vec!["--resume"])] {
        std::fs::create_dir_all(place.path(out).join("checkpoints")).unwrap();
        place.write(&format!("{out}/template.json"), "{}");
        // Without a run's lock the template may be anybody's.
        let line = match extra[..] {
            [] => "is there already and not empty",
            _ => "is not the folder of a run: it holds template.json, but no config.toml",
        };
        let options = [&["--max-steps", "1"], &extra[..]].concat();
        place.finetune(&model, &data, out, &options).refused(&format!("{}: {line}", place.text(out)));
        assert!(!place.path(out).join(".lock").exists());
        place.write(&format!("{out}/.lock"), "12345");
        place.finetune(&model, &data, out, &options).json();
    }
}

#[test]
fn a_run_that_cannot_begin_leaves_nothing() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 8);
    let bad = place.write("bad.jsonl", "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [1, 2,\n");
    assert_eq!(place.finetune(&fixture("gqa"), &bad, "out", &[]).code, 1);
    assert!(!place.path("out").exists());
    let file = place.write("file", "");
    let out = format!("{file}/out");
    let ran = vicugna(&["finetune", "--model", &fixture("gqa"), "--train", &data, "--out", &out]);
    ran.refused(&format!("{out}: Not a directory (os error 20)"));
}

#[test]
fn what_it_leaves() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 20);
    let options = ["--epochs", "2", "--batch-size", "1", "--max-input-length", "32"];
    let ran = place.finetune(&fixture("gqa"), &data, "out", &options);
    let json = ran.json();
    let keys = [
        "out",
        "steps",
        "train_loss",
        "eval_loss",
        "eval_perplexity",
        "tokens_per_second",
        "seconds",
        "peak_rss_bytes",
        "trainable_parameters",
        "all_parameters",
    ];
    assert_eq!(
        json.as_object().unwrap().keys().collect::<std::collections::BTreeSet<_>>(),
        keys.iter().map(|k| k.to_string()).collect::<Vec<_>>().iter().collect()
    );
    let all = json["all_parameters"].as_u64().unwrap();
    let share = 100.0 * 1792.0 / all as f64;
    let all = format!("{},{:03}", all / 1000, all % 1000);
    let trainable = format!("trainable params: 1,792 || all params: {all} || trainable%: {share:.4}");
    assert!(ran.stderr.lines().any(|line| line == trainable), "{trainable}: {}", ran.stderr);
    let last = format!("step {0}/{0}: loss ", json["steps"]);
    let last = ran.stderr.lines().find(|line| line.starts_with(&last)).unwrap();
    assert!(last.contains(" tokens/s, ") && last.ends_with(" left"), "{last}");
    let perplexity = json["eval_loss"].as_f64().unwrap().exp();
    assert!((json["eval_perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-12);
    // q: [32, 32] and v: [16, 32], two layers, rank 8
    assert_eq!(json["trainable_parameters"], 2 * 8 * ((32 + 32) + (32 + 16)));

    let mut names: Vec<String> =
        std::fs::read_dir(place.path("out")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".lock");
    names.sort();
    assert_eq!(
        names,
        ["adapter_config.json", "adapter_model.safetensors", "checkpoints", "config.toml", "loss.svg", "metrics.jsonl"]
    );
    metrics(&place, json["steps"].as_u64().unwrap());
    is_well_formed(&std::fs::read_to_string(place.path("out/loss.svg")).unwrap());
    let adapter = std::fs::read(place.path("out/adapter_model.safetensors")).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&adapter).unwrap();
    assert_eq!(metadata.metadata(), &Some([("format".to_string(), "pt".to_string())].into()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_gets_a_bar() {
    let place = Place::new();
    let (model, data, out) = (fixture("gqa"), place.random_records("data.jsonl", 20), place.text("out"));
    let run = env!("CARGO_BIN_EXE_vicugna");
    let run = format!("{run} finetune --model {model} --train {data} --out {out} --batch-size 1 --max-input-length 32");
    let terminal = Command::new("script").args(["-qec", &run, "/dev/null"]).env("TERM", "xterm").output();
    let Ok(output) = terminal else { return println!("SKIPPED: there is no `script` to make a terminal with") };
    let shown = String::from_utf8_lossy(&output.stdout);
    let steps = place.column("out", "learning_rate").len();
    assert!(shown.contains(&format!("0/{steps} [")) && shown.contains("s left"), "{shown}");
}

fn metrics(place: &Place, steps: u64) {
    let lines = place.metrics("out");
    let (evaluations, trained): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.get("eval_loss").is_some());
    assert_eq!(trained.len() as u64, steps);
    assert_eq!(evaluations.len(), 2, "once an epoch");
    for (i, line) in trained.iter().enumerate() {
        assert_eq!(line["step"], i as u64 + 1);
        for key in ["epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second"] {
            assert!(line[key].as_f64().unwrap() > 0.0, "{key} in {line}");
        }
        assert!(line["tokens"].as_u64().unwrap() <= 32);
        assert!(line["peak_rss_bytes"].as_u64().is_none_or(|bytes| bytes > 1_000_000));
        assert_eq!(line.as_object().unwrap().len(), 8);
    }
    assert_eq!(trained.last().unwrap()["epoch"], 2.0);
    assert_eq!(evaluations[1]["step"], steps);
    assert!(evaluations[1]["eval_tokens"].as_u64().unwrap() > 0);
    assert_eq!(evaluations[1].as_object().unwrap().len(), 4);
}

/// Every tag is closed, in order; the axes and the curves have their names.
fn is_well_formed(svg: &str) {
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1).map(|part| part.split('>').next().unwrap()) {
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap();
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name), "in {svg}"),
            (false, false) => open.push(name),
            (false, true) => {}
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for text in ["step", "loss (nats per token)", "training", "evaluation"] {
        assert!(svg.contains(text), "no {text} in the drawing");
    }
}
