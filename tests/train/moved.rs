//! Runs that are gone on with: where there is nothing, and where they are not what they were.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::command::{command, fixture, vicugna};
use crate::run::{Place, results};

/// 6 steps, with the first three behind it: as it was left when it was stopped there.
struct Stopped {
    place: Place,
    data: String,
}

const OPTIONS: [&str; 7] = ["--max-steps", "6", "--save-every", "3", "--validation-split-ratio", "0", "--no-packing"];

impl Stopped {
    fn new() -> Self {
        let place = Place::new();
        let records = ["hello", "hello hello", "a hello"].map(|text| json!({"q": text, "a": text}));
        let data = place.records("data.jsonl", &records);
        let template = place.write("template.json", r#"{"prompt": "{q}", "completion": "{a}"}"#);
        let model = fixture("gguf_llama_spm/tiny.gguf");
        for out in ["whole", "out"] {
            place.finetune(&model, &data, out, &[&OPTIONS[..], &["--template", &template]].concat()).json();
        }
        std::fs::remove_file(place.path("template.json")).unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::remove_file(place.path("out").join(name)).unwrap();
        }
        std::fs::remove_dir_all(place.path("out/checkpoints/step-6")).unwrap();
        Self { place, data }
    }

    /// Goes on by a config.toml, from within `folder`, and fails unless `out` comes to what the whole run came to.
    fn goes_on(&self, folder: &Path, config: &str, out: &str) {
        let ran =
            command(&["finetune", "--config", config, "--resume", "--json"]).current_dir(folder).output().unwrap();
        let stderr = String::from_utf8(ran.stderr).unwrap();
        assert!(ran.status.success() && stderr.contains("going on from ") && stderr.contains("step-3"), "{stderr}");
        assert!(results(&self.place.path(out)) == results(&self.place.path("whole")));
        let written = std::fs::read_to_string(self.place.path(out).join("config.toml")).unwrap();
        let written: toml::Table = written.parse().unwrap();
        assert_eq!(
            written["out"].as_str().map(Path::new),
            Some(self.place.path(out).canonicalize().unwrap().as_path())
        );
        assert!(
            Path::new(written["template"].as_str().unwrap()).starts_with(self.place.path(out).canonicalize().unwrap())
        );
    }
}

#[test]
fn a_moved_run_goes_on_where_it_is() {
    let stopped = Stopped::new();
    std::fs::rename(stopped.place.path("out"), stopped.place.path("its new place")).unwrap();
    stopped.goes_on(&stopped.place.path(""), "its new place/config.toml", "its new place");
    assert!(!stopped.place.path("out").exists());
}

#[test]
fn a_moved_run_goes_on_from_within() {
    let stopped = Stopped::new();
    std::fs::rename(stopped.place.path("out"), stopped.place.path("moved")).unwrap();
    stopped.goes_on(&stopped.place.path("moved"), "config.toml", "moved");
}

/// What the copy was made from is a run of its own.
#[test]
fn a_copied_run_goes_on_in_the_copy() {
    let stopped = Stopped::new();
    let folders = ["out", "copy"].map(|name| stopped.place.path(name));
    let copied = Command::new("cp").arg("-r").args(folders).status().unwrap();
    assert!(copied.success());
    stopped.goes_on(&stopped.place.path(""), "copy/config.toml", "copy");
    assert!(!stopped.place.path("out/adapter_config.json").exists());
}

#[test]
fn data_that_was_moved_is_named_with_the_way_out() {
    let stopped = Stopped::new();
    let moved = stopped.place.text("moved.jsonl");
    std::fs::rename(&stopped.data, &moved).unwrap();
    let config = stopped.place.text("out/config.toml");
    let ran = vicugna(&["finetune", "--config", &config, "--resume"]);
    ran.refused(&format!("{config}: train: {} is not there", stopped.data));
    assert!(ran.stderr.contains("hint: if it was moved, name its place with --train"), "{}", ran.stderr);
    vicugna(&["finetune", "--config", &config, "--resume", "--train", &moved, "--json"]).json();
    assert!(results(&stopped.place.path("out")) == results(&stopped.place.path("whole")));
}

#[test]
fn nothing_to_go_on_from_is_said() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 8);
    let run = |out: &str, extra: &[&str]| {
        place.finetune(&fixture("gqa"), &data, out, &[&["--max-steps", "1"], extra].concat()).stderr
    };
    let line = |out: &str| format!("{}: no checkpoint to go on from, starting anew\n", place.text(out));
    assert!(run("new", &["--resume"]).contains(&line("new")));
    assert!(run("again", &["--resume_from_checkpoint", "True"]).contains(&line("again")));
    assert!(!run("plain", &[]).contains("anew"));
    std::fs::create_dir(place.path("empty")).unwrap();
    assert!(run("empty", &["--resume"]).contains(&line("empty")));
    assert!(!run("new", &["--resume"]).contains("anew"), "a finished run is not begun anew");
}

/// A shell that reads the hint comes to the run, whatever its folder is called.
#[cfg(unix)]
#[test]
fn the_hint_of_a_stopped_run_is_a_command() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 12);
    let (model, name) = (fixture("gqa"), "my $HOME's \"out\" & `so` on");
    let out = place.text(name);
    let args = ["finetune", "--model", &model, "--train", &data, "--out", &out, "--max-steps", "1000000"];
    let mut child = command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while std::fs::read_to_string(place.path(name).join("metrics.jsonl")).unwrap_or_default().lines().count() < 2 {
        assert!(begun.elapsed().as_secs() < 60 && child.try_wait().unwrap().is_none(), "it does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let stopped = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(stopped.stderr).unwrap();
    let hint = stderr.lines().find_map(|line| line.strip_prefix("hint: go on with: ")).unwrap();

    let binary = Path::new(env!("CARGO_BIN_EXE_vicugna")).parent().unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec {hint}")]).env("PATH", binary).env("CUDA_VISIBLE_DEVICES", "");
    let mut child = shell.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let resumed = lines.find(|line| line.starts_with("going on from ") || line.starts_with("error"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(resumed.as_ref().is_some_and(|line| line.contains(&out)), "{resumed:?}");
}
