//! Long work is seen to go on.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::{command, fixture};
use crate::run::Place;

/// How long a log may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// Runs the binary with its messages in a pipe: how they came, with the seconds since the one before, and the result.
fn watch(args: &[&str]) -> (Vec<(String, Duration)>, String) {
    let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut last = Instant::now();
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        lines.push((line.unwrap(), last.elapsed()));
        last = Instant::now();
    }
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    lines.push(("the end".into(), last.elapsed()));
    (lines, stdout)
}

/// Records that take about so long to evaluate, by the time that some of them take.
fn records_for(place: &Place, seconds: f64) -> String {
    let time = |count: u32| {
        let data = place.random_records("data.jsonl", count);
        let begun = Instant::now();
        watch(&["eval", "--model", &fixture("gqa"), "--data", &data, "--quiet"]);
        begun.elapsed().as_secs_f64()
    };
    let (few, many) = (time(10), time(2010));
    place.random_records("data.jsonl", (seconds / ((many - few) / 2000.0).max(1e-5)) as u32)
}

/// Numbers before and after the slash of lines like `evaluating 12/80, …`.
fn places(lines: &[(String, Duration)]) -> Vec<(u64, u64)> {
    let counts =
        lines.iter().filter_map(|(line, _)| line.strip_prefix("evaluating ")?.split(", ").next()?.split_once('/'));
    counts.map(|(behind, all)| (behind.parse().unwrap(), all.parse().unwrap())).collect()
}

#[test]
fn an_evaluation_in_a_log_is_never_silent_for_long() {
    let place = Place::new();
    let data = records_for(&place, 20.0);
    let (lines, stdout) = watch(&["eval", "--model", &fixture("gqa"), "--data", &data, "--json"]);
    assert!(lines.iter().all(|(_, silence)| *silence <= SILENCE), "{lines:?}");
    let places = places(&lines);
    assert!(!places.is_empty() && places.windows(2).all(|pair| pair[0].0 < pair[1].0), "{lines:?}");
    assert!(lines.iter().any(|(line, _)| line.starts_with("evaluating ") && line.ends_with(" left")), "{lines:?}");
    let records = serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["records"].as_u64().unwrap();
    assert!(places.iter().all(|(behind, all)| behind < all && *all == records));
}

/// A pipe that nothing comes out of for a while stands for a large file.
#[cfg(unix)]
#[test]
fn reading_in_a_log_is_never_silent_for_long() {
    let place = Place::new();
    let (pipe, data) = (place.text("pipe.jsonl"), place.random_records("data.jsonl", 4));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let feed = format!("exec 3> {pipe}; sleep 9; cat {data} >&3");
    let mut feeder = Command::new("sh").args(["-c", &feed]).spawn().unwrap();
    let (lines, _) = watch(&["eval", "--model", &fixture("gqa"), "--data", &pipe]);
    assert!(feeder.wait().unwrap().success());
    assert!(lines.iter().all(|(_, silence)| *silence <= SILENCE), "{lines:?}");
    assert!(lines.iter().any(|(line, _)| line.starts_with("reading the records, ")), "{lines:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_evaluation_on_a_terminal_has_a_bar() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 400);
    let eval = format!("{} eval --model {} --data {data}", env!("CARGO_BIN_EXE_vicugna"), fixture("gqa"));
    let show = |eval: &str| Command::new("script").args(["-qec", eval, "/dev/null"]).env("TERM", "xterm").output();
    let Ok(output) = show(&eval) else { return println!("SKIPPED: there is no `script` to make a terminal with") };
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("/400 [") && shown.contains("evaluating, "), "{shown}");
    let quiet = show(&format!("{eval} --quiet")).unwrap();
    let quiet = String::from_utf8_lossy(&quiet.stdout);
    assert!(quiet.starts_with("loss ") && quiet.trim_end().lines().count() == 1, "{quiet}");
}

/// The time left counts the evaluations that are still to come, though none was made yet.
#[test]
fn the_time_left_counts_evaluations() {
    let place = Place::new();
    let (train, eval) = (place.random_records("train.jsonl", 8), records_for(&place, 1.5));
    let options = ["--eval", &eval, "--batch-size", "1", "--no-packing", "--max-steps", "4", "--eval-every", "1"];
    let ran = place.finetune(&fixture("gqa"), &train, "out", &options);
    let first = ran.stderr.lines().find(|line| line.starts_with("step 1/4: loss ")).unwrap();
    assert!(!first.ends_with(", 0 seconds left"), "four evaluations of more than a second are no instant: {first}");
    assert!(ran.stderr.contains("step 4/4: loss "), "{}", ran.stderr);
}
