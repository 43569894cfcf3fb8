//! What a run that was cut off goes on from, and what it refuses.

use std::path::Path;

use serde_json::Value;

use crate::command::{Ran, fixture};
use crate::run::{Place, results};

/// 12 steps with shuffling, dropout, warm-up, a schedule and evaluations: everything that has a state.
const OPTIONS: &[&str] = &[
    "--max-steps",
    "12",
    "--epochs",
    "9",
    "--batch-size",
    "1",
    "--gradient-accumulation-steps",
    "2",
    "--max-input-length",
    "24",
    "--lr-schedule",
    "cosine",
    "--warmup-steps",
    "3",
    "--learning-rate",
    "0.01",
    "--lora-dropout",
    "0.2",
    "--eval-every",
    "4",
    "--save-every",
    "5",
    "--max-grad-norm",
    "1",
    "--weight-decay",
    "0.1",
];

/// A place with some records, a model, and the run above on them.
pub struct Setting {
    pub place: Place,
    pub model: String,
    pub data: String,
}

impl Setting {
    pub fn new() -> Self {
        let place = Place::new();
        let data = place.random_records("data.jsonl", 30);
        Self { model: fixture("gqa"), place, data }
    }

    pub fn run(&self, out: &str, extra: &[&str]) -> Ran {
        let is_new = |option: &&[&str]| !extra.contains(&option[0]);
        let options: Vec<&str> = OPTIONS.chunks(2).filter(is_new).flatten().copied().collect();
        self.place.finetune(&self.model, &self.data, out, &[&options[..], extra].concat())
    }

    /// A copy of the finished run `from` as it was when only the checkpoints of `steps` had been written.
    pub fn cut_off(&self, from: &str, to: &str, steps: &[u64]) {
        copy(&self.place.path(from), &self.place.path(to));
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::remove_file(self.place.path(to).join(name)).unwrap();
        }
        for entry in std::fs::read_dir(self.place.path(to).join("checkpoints")).unwrap() {
            let path = entry.unwrap().path();
            if !steps.iter().any(|step| path.ends_with(format!("step-{step}"))) {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }

    fn checkpoints(&self, out: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.place.path(out).join("checkpoints")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// `metrics.jsonl` without what depends on the clock.
    fn metrics(&self, out: &str) -> Vec<Value> {
        let mut lines = self.place.metrics(out);
        for line in &mut lines {
            line.as_object_mut().unwrap().retain(|key, _| key != "tokens_per_second" && key != "peak_rss_bytes");
        }
        lines
    }
}

/// Breaks a checkpoint.
type Spoil<'a> = &'a dyn Fn(&Path);

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[test]
fn goes_on_to_the_same_bits() {
    let setting = Setting::new();
    let whole = setting.run("whole", &[]).json();
    assert_eq!(whole["steps"], 12);
    let again = setting.run("again", &["--threads", "1", "--activation-checkpointing"]).json();
    assert_eq!(again["train_loss"], whole["train_loss"]);
    assert!(results(&setting.place.path("again")) == results(&setting.place.path("whole")), "a second run differs");

    setting.cut_off("whole", "cut", &[10]);
    let resumed = setting.run("cut", &["--resume"]).json();
    assert_eq!(resumed["train_loss"], whole["train_loss"]);
    assert_eq!(resumed["eval_loss"], whole["eval_loss"]);
    assert!(results(&setting.place.path("cut")) == results(&setting.place.path("whole")), "the resumed run differs");
    assert_eq!(setting.metrics("cut"), setting.metrics("whole"));
}

/// Batches of more than one pass.
#[test]
fn goes_on_to_the_same_bits_in_large_batches() {
    let mut setting = Setting::new();
    setting.data = setting.place.random_records("large.jsonl", 160);
    let large = ["--no-packing", "--batch-size", "60", "--max-steps", "8", "--eval-every", "2", "--save-every", "2"];
    setting.run("whole", &large).json();
    let tokens = setting.place.column("whole", "tokens");
    assert!(tokens[0] > 2.0 * 512.0, "{tokens:?}");
    setting.run("one-thread", &[&large[..], &["--threads", "1"]].concat()).json();
    assert!(results(&setting.place.path("one-thread")) == results(&setting.place.path("whole")));
    setting.cut_off("whole", "cut", &[6]);
    setting.run("cut", &[&large[..], &["--resume"]].concat()).json();
    assert!(results(&setting.place.path("cut")) == results(&setting.place.path("whole")));
    assert_eq!(setting.metrics("cut"), setting.metrics("whole"));
}

#[test]
fn the_config_it_wrote_is_all_that_resuming_needs() {
    let setting = Setting::new();
    setting.run("whole", &[]).json();
    setting.cut_off("whole", "cut", &[10]);
    let config = setting.place.path("cut/config.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("/whole\"", "/cut\"");
    std::fs::write(&config, text).unwrap();
    crate::command::vicugna(&["finetune", "--config", config.to_str().unwrap(), "--resume", "--json"]).json();
    assert!(results(&setting.place.path("cut")) == results(&setting.place.path("whole")));
}

#[test]
fn keeps_the_last_two_and_the_best() {
    let setting = Setting::new();
    let whole = setting.run("out", &[]).json();
    let (steps, losses) = (setting.metrics("out"), setting.place.column("out", "eval_loss"));
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let best_step = steps.iter().find(|line| line["eval_loss"] == best).unwrap()["step"].as_u64().unwrap();
    assert_eq!(whole["eval_loss"], best);
    let kept = setting.checkpoints("out");
    assert!(kept.contains(&"step-12".into()) && kept.contains(&"step-10".into()), "{kept:?}");
    assert!(kept.contains(&format!("step-{best_step}")) && kept.len() <= 3, "{kept:?}, the best is {best_step}");
    let best = format!("out/checkpoints/step-{best_step}/adapter_model.safetensors");
    let result = std::fs::read(setting.place.path("out/adapter_model.safetensors")).unwrap();
    assert!(std::fs::read(setting.place.path(&best)).unwrap() == result, "the result is not the best checkpoint");
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let setting = Setting::new();
    let whole = setting.run("out", &[]).json();
    let times = || {
        let entries = std::fs::read_dir(setting.place.path("out")).unwrap().map(|e| e.unwrap());
        let visible = entries.filter(|e| e.file_name() != ".lock");
        visible
            .map(|e| (e.file_name(), e.metadata().unwrap().modified().unwrap()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = times();
    let again = setting.run("out", &["--resume"]);
    assert!(again.stderr.contains("finished already"), "{}", again.stderr);
    let mut again = again.json();
    again["peak_rss_bytes"] = whole["peak_rss_bytes"].clone();
    assert_eq!(again, whole);
    assert_eq!(times(), before);
}

#[test]
fn without_a_checkpoint_it_starts_anew() {
    let setting = Setting::new();
    setting.run("whole", &[]).json();
    setting.run("fresh", &["--resume"]).json();
    assert!(results(&setting.place.path("fresh")) == results(&setting.place.path("whole")));
    setting.cut_off("whole", "cut", &[]);
    setting.run("cut", &["--resume"]).json();
    assert!(results(&setting.place.path("cut")) == results(&setting.place.path("whole")));
    assert_eq!(setting.metrics("cut"), setting.metrics("whole"));
}

#[test]
fn a_bad_checkpoint_is_refused_and_the_one_before_is_used() {
    let setting = Setting::new();
    setting.run("whole", &[]).json();
    let spoil: [(&str, Spoil); 5] = [
        ("torn: optimizer.safetensors is not what was written", &|step| {
            let path = step.join("optimizer.safetensors");
            let mut bytes = std::fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(path, bytes).unwrap();
        }),
        ("torn: adapter_model.safetensors is missing", &|step| {
            std::fs::remove_file(step.join("adapter_model.safetensors")).unwrap();
        }),
        ("torn: manifest.json cannot be read", &|step| std::fs::remove_file(step.join("manifest.json")).unwrap()),
        ("is of another run: seed was 43, is 42", &|step| {
            let path = step.join("manifest.json");
            let text = std::fs::read_to_string(&path).unwrap().replace("\"seed\": 42", "\"seed\": 43");
            std::fs::write(path, text).unwrap();
        }),
        ("has version 99; this vicugna reads up to 1", &|step| {
            let path = step.join("manifest.json");
            let text = std::fs::read_to_string(&path).unwrap().replace("\"version\": 1", "\"version\": 99");
            std::fs::write(path, text).unwrap();
        }),
    ];
    for (i, (message, spoil)) in spoil.into_iter().enumerate() {
        let out = format!("spoilt-{i}");
        setting.cut_off("whole", &out, &[10, 12]);
        let step = setting.place.path(&out).join("checkpoints/step-12");
        spoil(&step);
        let ran = setting.run(&out, &["--resume"]);
        ran.json();
        assert!(ran.stderr.contains(&format!("refused: {}: {message}", step.display())), "{}", ran.stderr);
        assert!(ran.stderr.contains("going on from ") && ran.stderr.contains("step-10"), "{}", ran.stderr);
        assert!(results(&setting.place.path(&out)) == results(&setting.place.path("whole")), "{message}");
    }
}

#[test]
fn the_checkpoint_of_another_run_is_refused_by_what_differs() {
    let setting = Setting::new();
    setting.run("out", &[]).json();
    let before = results(&setting.place.path("out"));
    let other = setting.place.random_records("other.jsonl", 31);
    let refused = |ran: Ran, difference: &str| {
        assert_eq!(ran.code, 1);
        let first = format!(
            "error: {}: is of another run: {difference}",
            setting.place.path("out/checkpoints/step-12").display()
        );
        let line = ran.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(line.starts_with(&first), "{line}");
    };
    refused(setting.run("out", &["--resume", "--learning-rate", "0.5"]), "learning_rate was 0.01, is 0.5");
    refused(setting.run("out", &["--resume", "--seed", "7"]), "model was ");
    refused(
        setting.place.finetune(&setting.model, &other, "out", &[OPTIONS, &["--resume"]].concat()),
        "evaluation data was ",
    );
    assert!(results(&setting.place.path("out")) == before);
}
