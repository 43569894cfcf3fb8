//! Options that are taken whole or not at all.

use crate::command::{fixture, vicugna};
use crate::settings::Setting;

#[test]
fn blanks_around_the_names_of_a_list_do_not_matter() {
    let setting = Setting::new();
    let ours = ["--target-modules", "q_proj,v_proj,o_proj"];
    setting.same(&["--target_modules", "q_proj, v_proj ,o_proj"], &ours);
    setting.same(&["--target_modules", "q_proj,", "v_proj", "o_proj"].map(|name| name.trim_end_matches(',')), &ours);
    for (name, list) in [("text", "\" q_proj , v_proj,o_proj \""), ("list", "[\"q_proj \", \" v_proj\", \"o_proj\"]")] {
        let file = setting.place.write(&format!("{name}.toml"), &format!("target_modules = {list}\n"));
        setting.same(&["--config", &file], &ours);
    }
    setting.run(&["--target-modules", "q_proj,,v_proj"]).0.refused("--target-modules: has an empty name");
    setting.run(&["--target-modules", "q_proj, "]).0.refused("--target-modules: has an empty name");
}

#[test]
fn a_target_module_that_matches_nothing_is_named() {
    let setting = Setting::new();
    for (list, name) in [("q_proj,vproj", "vproj"), ("vproj,q_proj", "vproj"), ("q_proj,all-linear", "all-linear")] {
        let ran = setting.run(&["--target-modules", list]).0;
        assert_eq!(ran.code, 1);
        let line = ran.stderr.lines().next().unwrap();
        assert!(line.starts_with(&format!("error: target_modules: [\"{name}\"] matches no")), "{line}");
    }
}

#[test]
fn an_option_with_two_values_is_refused() {
    let setting = Setting::new();
    let data = setting.data.clone();
    let file = setting.place.write("two.toml", "learning_rate = 0.5\nlr = 0.25\n");
    let config = setting.place.write("one.toml", "lr = 0.25\n");
    for (options, message) in [
        (vec!["--train", &data], "--train: is given twice".to_string()),
        (vec!["--lr", "1", "--learning-rate", "2"], "--learning-rate: is given twice, as --lr too".into()),
        (vec!["--lora-r=2", "--lora_r=4"], "--lora_r: is given twice".into()),
        (
            vec!["--num_train_epochs", "1", "--epochs", "1"],
            "--epochs: is given twice, as --num_train_epochs too".into(),
        ),
        (vec!["--seed", "1", "--seed", "None"], "--seed: is given twice".into()),
        (vec!["--packing", "True", "--no-packing"], "--no-packing: is given twice, as --packing too".into()),
        (vec!["--eval_steps", "5", "--eval-every", "5"], "--eval_steps: is given twice, as --eval-every too".into()),
        (vec!["--resume", "--resume"], "--resume: is given twice".into()),
        (vec!["--enable_fsdp", "False", "--enable_fsdp", "False"], "--enable_fsdp: is given twice".into()),
        (vec!["--config", &config, "--config", &file], "--config: is given twice".into()),
        (vec!["--config", &file], format!("{file}: --lr: is given twice, as --learning_rate too")),
    ] {
        setting.run(&options).0.refused(&message);
    }
    setting.same(&["--config", &config, "--learning-rate", "0.5"], &["--learning-rate", "0.5"]);
    setting.same(&["--target-modules", "q_proj", "--target-modules", "k_proj"], &["--target-modules", "q_proj,k_proj"]);
}

/// The other commands have no other names; the parser itself refuses there.
#[test]
fn the_other_commands_refuse_it_too() {
    let setting = Setting::new();
    let (model, data, out) = (fixture("gqa"), &setting.data, setting.place.text("merged"));
    let model = ["--model", &model, "--model", &model];
    for command in [
        &["eval", "--data", data][..],
        &["inspect", "--input-ids", "1,2"],
        &["generate", "--prompt", "a"],
        &["merge", "--adapter", "a", "--out", &out],
    ] {
        let ran = vicugna(&[command, &model].concat());
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("--model") && ran.stderr.contains("multiple times"), "{}", ran.stderr);
    }
}

/// 10 records of a row each: 5 steps an epoch.
const ROWS: [&str; 3] = ["--no-packing", "--batch-size", "2"];

#[test]
fn max_steps_decide_how_long_a_run_is() {
    let setting = Setting::new();
    let run = |options: &[&str]| {
        let (ran, config) = setting.run(&[&ROWS, options].concat());
        (ran.json()["steps"].as_u64().unwrap(), ran.stderr, config)
    };
    let (steps, stderr, config) = run(&["--max-steps", "18"]);
    assert_eq!((steps, config.get("epochs")), (18, None));
    assert!(!stderr.contains("max-steps"), "{stderr}");
    let (steps, stderr, config) = run(&["--max_steps", "12", "--num_train_epochs", "2"]);
    assert_eq!((steps, config.get("epochs")), (12, None));
    assert!(stderr.starts_with("--max-steps 12 decides, not --epochs 2\n"), "{stderr}");
    let (steps, _, config) = run(&[]);
    assert_eq!((steps, config["epochs"].as_integer()), (15, Some(3)));
    let epochs = setting.place.column("out-1", "epoch");
    assert_eq!((epochs[0], epochs[4], epochs[17]), (0.2, 1.0, 3.6));
    // The data come again, in another order each time.
    let tokens = setting.place.column("out-1", "tokens");
    let epoch = |e: usize| tokens[5 * e..5 * e + 5].to_vec();
    assert_eq!(epoch(0).iter().sum::<f64>(), epoch(1).iter().sum::<f64>());
    assert_ne!(epoch(0), epoch(1));
}

#[test]
fn a_part_of_an_epoch_is_rounded_up_to_steps() {
    let setting = Setting::new();
    for (epochs, steps) in [("0.1", 1), ("0.5", 3), ("2.2", 11), ("1.0", 5)] {
        let ran = setting.run(&[&ROWS[..], &["--epochs", epochs]].concat()).0;
        assert_eq!(ran.json()["steps"], steps, "{epochs}");
    }
}

/// More steps than anybody waits for are no reason to count them all first.
#[test]
fn a_run_without_an_end_begins_at_once() {
    let setting = Setting::new();
    let (model, out, steps) = (fixture("gqa"), setting.place.text("out"), u64::MAX.to_string());
    let args = ["finetune", "--model", &model, "--train", &setting.data, "--out", &out, "--max-steps", &steps];
    let mut child = crate::command::command(&args).stderr(std::process::Stdio::null()).spawn().unwrap();
    let begun = std::time::Instant::now();
    let metrics = setting.place.path("out/metrics.jsonl");
    while std::fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 3 {
        assert!(begun.elapsed().as_secs() < 60 && child.try_wait().unwrap().is_none(), "it does not begin");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
