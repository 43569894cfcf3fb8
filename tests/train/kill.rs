//! Runs that are killed, stopped, or out of disk.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::{command, fixture, vicugna};
use crate::run::{Place, results};

const KILLS: usize = 24;

/// 40 steps that each end with a checkpoint.
const OPTIONS: &[&str] = &[
    "--max-steps",
    "40",
    "--batch-size",
    "1",
    "--max-input-length",
    "24",
    "--save-every",
    "1",
    "--eval-every",
    "7",
    "--learning-rate",
    "0.001",
];

fn spawn(place: &Place, data: &str, out: &str, extra: &[&str]) -> Child {
    command(&["finetune", "--model", &fixture("gqa"), "--train", data, "--out", &place.text(out)])
        .args(extra)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Whether a checkpoint is being written.
fn is_saving(out: &Path) -> bool {
    let entries = std::fs::read_dir(out.join("checkpoints")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
}

/// Waits for `done`, or until the child has ended.
fn wait_for(child: &mut Child, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing happens");
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn no_kill_loses_anything() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 24);
    let begun = Instant::now();
    let adapter = place.finetune(&fixture("gqa"), &data, "adapter", OPTIONS);
    let time = begun.elapsed();
    let full = place.finetune(&fixture("gqa"), &data, "full", &[OPTIONS, &["--full"]].concat());
    assert_eq!((adapter.code, full.code), (0, 0), "{} {}", adapter.stderr, full.stderr);
    let whole = [results(&place.path("adapter")), results(&place.path("full"))];

    let (mut kills, mut saving, mut random) = (0, 0, 1u64);
    for round in 0.. {
        let out = format!("killed-{round}");
        let extra: &[&str] = if round % 2 == 0 { &["--resume"] } else { &["--resume", "--full"] };
        loop {
            let mut child = spawn(&place, &data, &out, &[OPTIONS, &["--quiet"], extra].concat());
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let share = (random >> 40) as f64 / f64::from(1 << 24);
            let until = Instant::now() + time.mul_f64(0.4 * share);
            wait_for(&mut child, || Instant::now() >= until);
            if random >> 33 & 1 == 0 {
                wait_for(&mut child, || is_saving(&place.path(&out)));
            }
            if let Some(status) = child.try_wait().unwrap() {
                let output = child.wait_with_output().unwrap();
                assert!(status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                break;
            }
            saving += usize::from(is_saving(&place.path(&out)));
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        assert!(results(&place.path(&out)) == whole[round % 2], "after {kills} kills the result differs");
        if kills >= KILLS {
            println!(
                "{kills} kills in {} runs, {saving} while a checkpoint was being written: no bit differs",
                round + 1
            );
            return;
        }
    }
}

/// A run of so many small steps that there is time to disturb it.
const LONG: &[&str] = &[
    "--max-steps",
    "3000",
    "--batch-size",
    "1",
    "--max-input-length",
    "24",
    "--save-every",
    "100000",
    "--eval-every",
    "100000",
];

#[cfg(unix)]
#[test]
fn a_signal_saves_and_a_second_run_is_refused() {
    for signal in ["TERM", "INT"] {
        stop_and_go_on(signal);
    }
}

/// Twice, as `timeout` sends it.
fn stop_and_go_on(signal: &str) {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 24);
    let mut child = spawn(&place, &data, "out", LONG);
    wait_for(&mut child, || place.path("out/config.toml").exists());
    assert!(place.path("out/checkpoints").exists(), "config.toml came first");
    let lines = || std::fs::read_to_string(place.path("out/metrics.jsonl")).unwrap_or_default().lines().count();
    wait_for(&mut child, || lines() > 20);

    let second = place.finetune(&fixture("gqa"), &data, "out", &[LONG, &["--resume"]].concat());
    second.refused(&format!("{}: another run is writing here (process {})", place.text("out"), child.id()));

    let kill = format!("kill -{signal} {0} && kill -{signal} {0}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let stopped = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(stopped.stderr).unwrap();
    assert_eq!(stopped.status.code(), Some(1), "{stderr}");
    let line = stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    let step = line.strip_prefix(&format!("error: {}: stopped after step ", place.text("out"))).unwrap();
    let step = step.strip_suffix(" of 3000; all of it is saved").unwrap();
    assert!(place.path("out/checkpoints").join(format!("step-{step}")).join("manifest.json").exists());
    assert_eq!(lines(), step.parse::<usize>().unwrap());

    let hint = stderr.lines().find_map(|line| line.strip_prefix("hint: go on with: vicugna ")).unwrap();
    let again = vicugna(&[hint.split(' ').collect::<Vec<_>>(), vec!["--json"]].concat());
    assert!(again.stderr.contains(&format!("step-{step}")), "{}", again.stderr);
    assert_eq!(again.json()["steps"], 3000);
    place.finetune(&fixture("gqa"), &data, "whole", LONG).json();
    assert!(results(&place.path("out")) == results(&place.path("whole")));
}

/// A tmpfs of some size, unmounted in the end; `None` with the reason printed where it cannot be mounted.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(path: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        match Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&path).output() {
            Ok(output) if output.status.success() => Some(Self(path)),
            Ok(output) => skip(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => skip(&error.to_string()),
        }
    }

    pub fn resize(&self, size: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{size}")]).arg(&self.0).status();
        assert!(status.unwrap().success());
    }
}

fn skip(reason: &str) -> Option<SmallDisk> {
    println!("SKIPPED: no small disk can be mounted ({})", reason.trim());
    None
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_no_checkpoint() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 24);
    let Some(disk) = SmallDisk::mount(place.path("disk"), "size=900k") else { return };
    let options = [OPTIONS, &["--full"]].concat();
    place.finetune(&fixture("gqa"), &data, "whole", &options).json();

    let full = place.finetune(&fixture("gqa"), &data, "disk/out", &options);
    assert_eq!(full.code, 1, "{}", full.stderr);
    let error = full.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(
        error.contains(place.path("disk").to_str().unwrap()) && error.contains("No space left on device"),
        "{error}"
    );
    assert!(!place.path("disk/out/model.safetensors").exists());

    disk.resize("size=16m");
    let resumed = place.finetune(&fixture("gqa"), &data, "disk/out", &[&options[..], &["--resume"]].concat());
    resumed.json();
    assert!(resumed.stderr.contains("going on from"), "{}", resumed.stderr);
    assert!(!resumed.stderr.contains("refused"), "{}", resumed.stderr);
    assert!(results(&place.path("disk/out")) == results(&place.path("whole")));
}

#[test]
fn a_disk_that_cannot_be_written_is_left_as_it_is() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 24);
    let Some(disk) = SmallDisk::mount(place.path("disk"), "size=4k") else { return };
    let ran = place.finetune(&fixture("gqa"), &data, "disk/out", &[OPTIONS, &["--quiet"]].concat());
    ran.refused(&format!("{}: No space left on device (os error 28)", place.text("disk/out/config.toml")));
    assert_eq!(std::fs::read_dir(&disk.0).unwrap().count(), 0);
    disk.resize("ro");
    let ran = place.finetune(&fixture("gqa"), &data, "disk/out", OPTIONS);
    ran.refused(&format!("{}: Read-only file system (os error 30)", place.text("disk/out")));
}
