//! Runs of several processes, started by mpirun: the bits of one, and nothing lost where a rank is.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::command::Ran;
use crate::hub_server::{Revision, Server};
use crate::kill::SmallDisk;
use crate::ranks::{OPTIONS, assert_equal, finetune, left, wide_model};
use crate::run::{Place, results};

/// All ranks must be gone by then.
const GONE: Duration = Duration::from_secs(10);

/// mpirun with `groups` of processes, each so many with such options of finetune.
fn mpirun(groups: &[(usize, Vec<String>)]) -> Child {
    started("finetune", groups)
}

fn started(subcommand: &str, groups: &[(usize, Vec<String>)]) -> Child {
    start(subcommand, groups, &[("HF_HUB_OFFLINE", "1")])
}

fn start(subcommand: &str, groups: &[(usize, Vec<String>)], variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
    for (i, (count, arguments)) in groups.iter().enumerate() {
        command.args((i > 0).then_some(":")).args([
            "-n",
            &count.to_string(),
            env!("CARGO_BIN_EXE_vicugna"),
            subcommand,
        ]);
        command.args(arguments);
    }
    command.envs(variables.iter().copied()).env("CUDA_VISIBLE_DEVICES", "");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun, see docs/sharding.md")
}

/// What a job came to, which must not take longer than `limit`.
fn ended(mut job: Child, limit: Duration) -> Ran {
    let begun = Instant::now();
    let status = loop {
        match job.try_wait().unwrap() {
            Some(status) => break status,
            None if begun.elapsed() > limit => {
                job.kill().unwrap();
                panic!("the job is still there after {limit:?}");
            }
            None => sleep(Duration::from_millis(10)),
        }
    };
    let (mut stdout, mut stderr) = (String::new(), String::new());
    job.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    job.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    Ran { code: status.code().unwrap_or(-1), stdout, stderr }
}

fn arguments(place: &Place, [model, data, out]: [&str; 3], extra: &str) -> Vec<String> {
    let out = place.text(out);
    let fixed = ["--model", model, "--train", data, "--out", &out, "--json", "--threads", "1"];
    let options: Vec<&str> = OPTIONS.split_whitespace().collect();
    let is_kept = |option: &&[&str]| !extra.contains(option[0]);
    let options = options.chunks(2).filter(is_kept).flatten().copied();
    fixed.into_iter().chain(options).chain(extra.split_whitespace()).map(String::from).collect()
}

fn on_processes(place: &Place, files: [&str; 3], ranks: usize, extra: &str) {
    let ran = ended(mpirun(&[(ranks, arguments(place, files, extra))]), Duration::from_secs(120));
    ran.json();
}

#[test]
fn processes_give_the_bits_of_one() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 30);
    let model = wide_model(&place, true);
    for (method, strategy, ranks) in [
        ("--full", "full", 3),
        ("--quantize int8", "grad-op", 2),
        ("--dtype bf16", "none", 2),
        ("--quantize nf4", "full", 4),
    ] {
        finetune(&place, &model, &data, "alone", 20, &format!("{method} --gradient-accumulation-steps {ranks}"));
        on_processes(&place, [&model, &data, "ranks"], ranks, &format!("{method} --shard {strategy} --max-steps 20"));
        assert_equal(&left(&place, "ranks"), &left(&place, "alone"), &format!("{method} {strategy}"));
        ["ranks", "alone"].iter().for_each(|out| std::fs::remove_dir_all(place.path(out)).unwrap());
    }
}

/// The ranks of a job, by their process numbers.
fn ranks_of(job: &Child) -> Vec<u32> {
    let is_rank = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains("OMPI_COMM_WORLD_RANK=")
    };
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", job.id())).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_rank).collect()
}

fn signal(pid: u32, signal: &str) {
    Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
}

#[test]
fn a_killed_rank_takes_all_with_it_and_nothing_is_lost() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 30);
    let model = wide_model(&place, true);
    let extra = "--shard full --max-steps 20 --save-every 1";
    let begun = Instant::now();
    on_processes(&place, [&model, &data, "whole"], 3, extra);
    let whole = begun.elapsed();
    let mut killed = 0;
    let kills: u32 = std::env::var("VICUGNA_KILLS").map_or(8, |kills| kills.parse().unwrap());
    for i in 0..kills {
        let out = format!("killed-{i}");
        let job = mpirun(&[(3, arguments(&place, [&model, &data, &out], extra))]);
        // From before the ranks know each other to the last steps, in an order of no pattern.
        sleep(whole * (i * 5 % kills + 1) / (kills + 1));
        if let Some(&rank) = ranks_of(&job).get(i as usize % 3) {
            signal(rank, "KILL");
        }
        let ran = ended(job, GONE);
        if ran.code != 0 {
            killed += 1;
            assert!(ran.stderr.contains("rank"), "{}", ran.stderr);
        }
        // A run that had not begun has no batches of its own yet.
        let has_begun = place.path(&out).join("config.toml").exists();
        let others = if has_begun { 1 + i as usize % 4 } else { 3 };
        on_processes(&place, [&model, &data, &out], others, &format!("{extra} --resume"));
        let [mut found, mut wanted] = [&out, "whole"].map(|out| left(&place, out));
        let is_last = |name: &str| !name.starts_with("checkpoints/") || name.starts_with("checkpoints/step-20/");
        [&mut found, &mut wanted].into_iter().for_each(|left| left.retain(|name, _| is_last(name)));
        assert_equal(&found, &wanted, &format!("kill {i}"));
    }
    assert!(killed >= kills / 2, "only {killed} jobs were there to be killed");
}

#[test]
fn ranks_of_another_run_are_refused_by_name() {
    let place = Place::new();
    let [data, other] = [place.random_records("data.jsonl", 12), place.random_records("other.jsonl", 13)];
    let [model, untied] = [wide_model(&place, true), wide_model(&place, false)];
    let extra = "--max-steps 2";
    let first = arguments(&place, [&model, &data, "out"], extra);
    for (second, said) in [
        (arguments(&place, [&model, &data, "out"], "--max-steps 2 --seed 7"), "--seed is 42 on rank 0, 7 on rank 1"),
        (arguments(&place, [&model, &data, "out"], "--max-steps 3"), "--max-steps is 2 on rank 0, 3 on rank 1"),
        (arguments(&place, [&model, &other, "out"], extra), "evaluation data is \"3 sequences"),
        (arguments(&place, [&untied, &data, "out"], extra), "--model is "),
        (
            arguments(&place, [&model, &data, "out"], "--max-steps 2 --shard full"),
            "--shard is \"none\" on rank 0, \"full\" on rank 1",
        ),
        (arguments(&place, [&model, &data, "elsewhere"], extra), "the process that holds --out is "),
        (
            arguments(&place, [&model, &data, "out"], "--max-steps 2 --ranks 3"),
            "--ranks: 3 ranks, but the launcher started 2 processes",
        ),
    ] {
        let ran = ended(mpirun(&[(1, first.clone()), (1, second)]), GONE);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(said), "{said:?} is not in {}", ran.stderr);
        assert!(!place.path("out").exists(), "{said}: a folder is left");
    }
}

#[test]
fn a_rank_that_hangs_is_named_and_ends_the_job() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 30);
    let model = wide_model(&place, true);
    let extra = "--max-steps 100000 --timeout 2 --shard full";
    let job = mpirun(&[(3, arguments(&place, [&model, &data, "out"], extra))]);
    let begun = Instant::now();
    while !place.path("out").join("metrics.jsonl").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing happens");
        sleep(Duration::from_millis(20));
    }
    let ranks = ranks_of(&job);
    assert_eq!(ranks.len(), 3);
    signal(ranks[1], "STOP");
    let ran = ended(job, GONE);
    assert_eq!(ran.code, 75, "{}", ran.stderr);
    let line = ran.stderr.lines().find(|line| line.ends_with("rank 1 did not come in 2 s"));
    assert!(line.is_some_and(|line| line.starts_with("error: after step ")), "{}", ran.stderr);
    let is_there = |rank: &u32| std::fs::read_link(format!("/proc/{rank}/exe")).is_ok();
    let begun = Instant::now();
    while ranks.iter().any(is_there) {
        assert!(begun.elapsed() < GONE, "a rank is still there");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_signal_that_mpirun_hands_on_saves_and_ends() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 30);
    let model = wide_model(&place, true);
    let files = [&model[..], &data, "out"];
    finetune(&place, &model, &data, "alone", 400, "--gradient-accumulation-steps 2");
    let job = mpirun(&[(2, arguments(&place, files, "--max-steps 400 --shard grad-op"))]);
    let begun = Instant::now();
    while !place.path("out").join("metrics.jsonl").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing happens");
        sleep(Duration::from_millis(20));
    }
    signal(job.id(), "USR1");
    let ran = ended(job, GONE);
    assert!(ran.stderr.contains("stopped after step ") && ran.stderr.contains("all of it is saved"), "{}", ran.stderr);
    on_processes(&place, files, 3, "--max-steps 400 --resume");
    let [found, wanted] = ["out", "alone"].map(|out| left(&place, out));
    assert_eq!(found["adapter_model.safetensors"], wanted["adapter_model.safetensors"]);
    assert_eq!(found["metrics"], wanted["metrics"]);
}

#[test]
fn a_full_disk_costs_ranks_no_checkpoint() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 30);
    let model = wide_model(&place, true);
    // A checkpoint takes 3.2 MB.
    let Some(disk) = SmallDisk::mount(place.path("disk"), "size=5m") else { return };
    let extra = "--full --max-steps 12 --save-every 4";
    finetune(&place, &model, &data, "alone", 12, "--full --gradient-accumulation-steps 3");
    let full = ended(
        mpirun(&[(3, arguments(&place, [&model, &data, "disk/out"], &format!("{extra} --shard full")))]),
        Duration::from_secs(60),
    );
    assert_eq!(full.code, 1, "{}", full.stderr);
    assert!(full.stderr.contains("No space left on device"), "{}", full.stderr);
    let checkpoints: Vec<String> = std::fs::read_dir(place.path("disk/out/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(checkpoints, ["step-4"], "{}", full.stderr);
    disk.resize("size=32m");
    // By threads now.
    finetune(&place, &model, &data, "disk/out", 12, "--full --ranks 2 --shard grad-op --resume");
    assert!(results(&place.path("disk/out")) == results(&place.path("alone")));
}

#[test]
fn a_host_fetches_a_model_once() {
    let place = Place::new();
    let data = place.random_records("data.jsonl", 12);
    let model = wide_model(&place, true);
    let [config, weights] =
        ["config.json", "model.safetensors"].map(|name| std::fs::read(Path::new(&model).join(name)).unwrap());
    let files = [("config.json", &config[..]), ("model.safetensors", &weights[..])];
    let server = Server::start([("main", Revision::new('a', files))]);
    let (endpoint, cache) = (server.endpoint(), place.text("cache"));
    let variables = [("HF_ENDPOINT", &endpoint[..]), ("HF_HUB_CACHE", &cache), ("HF_HUB_OFFLINE", "0")];
    let arguments = arguments(&place, ["org/name", &data, "out"], "--max-steps 2 --shard full");
    ended(start("finetune", &[(3, arguments)], &variables), Duration::from_secs(60)).json();
    // The file is asked for its length first, then for its bytes.
    let asked = server.requests("model.safetensors");
    assert!(!asked.is_empty() && asked.len() <= 2, "{asked:?}");
}

#[test]
fn ranks_are_told_with_their_speed() {
    let found = ended(started("devices", &[(3, vec!["--ranks".into(), "--json".into()])]), GONE).json();
    let ranks: Vec<u64> = found["ranks"].as_array().unwrap().iter().map(|row| row["rank"].as_u64().unwrap()).collect();
    assert_eq!(ranks, [0, 1, 2]);
    assert_eq!(found["launcher"], "OMPI_COMM_WORLD_SIZE=3");
    assert_eq!(found["checksums_alike"], true);
    assert!(found["all_gather_bytes_per_second"].as_f64().unwrap() > 0.0);
}
