use crate::command::vicugna;

#[test]
fn list_names_every_kernel_and_what_it_takes() {
    let json = vicugna(&["kernels", "list", "--json"]).json();
    let kernels = json["kernels"].as_array().unwrap();
    let add = kernels.iter().find(|kernel| kernel["kernel"] == "add_bf16").unwrap();
    assert_eq!(add["op"], "elementwise");
    assert_eq!(add["params"], serde_json::json!(["u64", "u64", "u64", "u64"]));
    assert!(vicugna(&["kernels", "list"]).stdout.contains("rmsnorm_bwd_weight_f32"));
}

#[test]
fn check_holds_kernels_against_the_specification() {
    let json = vicugna(&["kernels", "check", "--cases", "2", "--json"]).json();
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.len() >= 16);
    for check in checks {
        assert_eq!(check["cases"], 2, "{check}");
        assert!(check["worst"].as_f64().unwrap() <= 1.0, "{check}");
    }
    let text = vicugna(&["kernels", "check", "rope", "--cases", "1"]).stdout;
    assert!(text.lines().count() == 2 && text.starts_with("rope          f32   right in 1 cases"), "{text}");
}

/// What attention's backward over 2048 tokens may ask for, of what it must.
const LONG_BACKWARD: f64 = 2.5;

/// How many times what it must a kernel may ask for, and at the least and at the most how many times that it may move.
fn bounds(kernel: &str) -> [f64; 3] {
    match kernel {
        // In f32 codes are taken one by one: nobody multiplies so for speed.
        "nf4_matmul_nt_f32_any" | "nf4_matmul_nn_f32_any" | "int8_matmul_floats_nn_f32_any" => [5.0, 1.0, 3.5],
        // A run of 32 codes is half a sector; its other half is the next run's. Of few rows each 8 codes have a scale.
        _ if kernel.starts_with("nf4_matmul") => [1.3, 1.0, 1.5],
        // Lanes share the scales of rows and columns, which move once, and eight codes in a row have one.
        _ if kernel.starts_with("int8_matmul") => [1.15, 0.9, 1.06],
        // The scales of the eight columns of a thread are two accesses.
        "quantize_gradient_bf16" => [1.05, 1.0, 1.6],
        _ => [1.05, 1.0, 1.06],
    }
}

/// All that a memory-bound kernel costs, at the widths of Llama-3-8B: nothing is asked for twice, and what is asked for
/// comes in whole sectors.
#[test]
fn no_kernel_asks_for_more_than_it_must() {
    let json = vicugna(&["kernels", "profile", "--json"]).json();
    for launch in json["launches"].as_array().unwrap() {
        let count = |name: &str| launch["counters"][name].as_f64().unwrap();
        let (kernel, compulsory) = (&launch["kernel"], launch["compulsory_bytes"].as_f64().unwrap());
        // All ids are compared with all; keys and values are read again for each block of queries, and the other way round.
        let computes =
            ["embedding_sort", "attention_fwd", "attention_bwd_q_f32", "attention_bwd_kv", "attention_decode_sum"];
        if computes.iter().any(|name| kernel.as_str().is_some_and(|kernel| kernel.starts_with(name))) {
            continue;
        }
        let bytes = count("global_load_bytes") + count("global_store_bytes");
        // Each block of keys reads the queries that see it again, and what its slice of dq holds.
        if kernel.as_str().is_some_and(|kernel| kernel.starts_with("attention_bwd_d")) && launch["grid"][1] != 1 {
            assert!(bytes <= LONG_BACKWARD * compulsory, "{kernel}: {bytes} bytes of {compulsory}");
            continue;
        }
        let [asked, least, most] = bounds(kernel.as_str().unwrap());
        assert!(bytes >= compulsory && bytes <= asked * compulsory, "{kernel}: {bytes} bytes of {compulsory}");
        let moved = 32.0 * (count("global_load_sectors") + count("global_store_sectors"));
        // Of a few hundred bytes the ends of sectors are much.
        assert!(
            moved >= least * bytes && (moved <= most * bytes || bytes < 1024.0),
            "{kernel}: {moved} bytes moved for {bytes}"
        );
    }
}

/// The times of an emulated GPU say nothing; that each launch of an op has one does.
#[test]
fn time_measures_every_launch_of_an_op() {
    let json = vicugna(&["kernels", "time", "rmsnorm", "--device", "emulated", "--rows", "64", "--json"]).json();
    assert!(json["copy_gb_per_s"].as_f64().unwrap() > 0.0);
    let steps = json["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2 * 3, "forward, backward and residual in bf16 and f32");
    let backward = &steps[4];
    assert_eq!(backward["bytes"], 5 * 64 * 4096 * 4);
    let kernels = backward["kernels"].as_array().unwrap();
    let names = ["rmsnorm_bwd_x_f32", "rmsnorm_bwd_weight_f32", "rmsnorm_bwd_weight_sum_f32"];
    assert!(kernels.iter().map(|kernel| &kernel["kernel"]).eq(&names), "{kernels:?}");
    let times = kernels.iter().map(|kernel| kernel["milliseconds"].as_f64().unwrap());
    assert!(times.clone().all(|time| time > 0.0));
    assert!((times.sum::<f64>() - backward["milliseconds"].as_f64().unwrap()).abs() < 1e-9);
    let text = vicugna(&["kernels", "time", "grad_norm", "--device", "emulated", "--rows", "64"]).stdout;
    assert!(text.contains("grad_norm                     bf16"), "{text}");
}

/// What a step of Llama-3-8B may take on an H100 by the model, in milliseconds.
const STEP: f64 = 600.0;

#[test]
fn model_adds_a_step_up() {
    let json = vicugna(&["kernels", "model", "--json"]).json();
    let (gpu, work) = (&json["gpus"][0], json["work"].as_array().unwrap());
    assert_eq!((gpu["gpu"]["name"].as_str(), &json["tokens"]), (Some("h100"), &serde_json::json!(8192)));
    let step = gpu["milliseconds"].as_f64().unwrap();
    assert!(step > 300.0 && step <= STEP, "{step} ms");
    let sum = |rows: &[serde_json::Value], key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).sum::<f64>();
    let (kernels, launches) = (gpu["kernels"].as_array().unwrap(), gpu["launches"].as_f64().unwrap());
    let gaps = launches * gpu["gap_seconds"].as_f64().unwrap();
    assert!((1e3 * (sum(kernels, "seconds") + gaps) / step - 1.0).abs() < 1e-9);
    assert_eq!((sum(kernels, "launches"), sum(work, "launches")), (launches, launches));
    // 6 operations for each parameter that multiplies and each token, but those of the first layer's input and of weights'
    // gradients: two thirds. Attention and adapters are on top.
    let operations: f64 =
        work.iter().map(|row| row["launches"].as_f64().unwrap() * row["mma_operations"].as_f64().unwrap()).sum();
    assert!((245e12..290e12).contains(&operations), "{operations:e}");
    assert!((30 << 30..60 << 30).contains(&json["peak_bytes"].as_u64().unwrap()));
}

#[test]
fn model_says_that_it_is_one() {
    let text = vicugna(&["kernels", "model", "--gpu", "a100,4090", "--tokens", "512"]).stdout;
    assert!(text.starts_with("a100: a step of 512 tokens takes "), "{text}");
    assert_eq!(text.matches("a model, nothing was timed").count(), 2, "{text}");
    assert_eq!(text.matches("assumed: ").count(), 2, "{text}");
}

#[test]
fn time_of_a_step_is_that_of_a_training_step() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("step.lines");
    let step = ["kernels", "time", "step", "--shape", "tiny", "--tokens", "64", "--device", "emulated", "--json"];
    let json = vicugna(&[&step[..], &["--lines", file.to_str().unwrap()]].concat()).json();
    assert_eq!((&json["shape"], &json["dtype"], &json["tokens"]), (&"tiny".into(), &"bf16".into(), &64.into()));
    let steps = json["steps"].as_array().unwrap();
    let modes = steps.iter().map(|step| (step["targets"].as_str().unwrap(), step["mode"].as_str().unwrap()));
    // An emulated device has no graphs.
    let expected = ["q_proj,v_proj", "all-linear"].map(|targets| [(targets, "launches"), (targets, "singly")]);
    assert!(modes.eq(expected.concat()), "{steps:?}");
    for (whole, singly) in [(&steps[0], &steps[1]), (&steps[2], &steps[3])] {
        // Random weights know nothing: ln 1536 is 7.3, and logits of variance one add a half.
        let loss = whole["loss"].as_f64().unwrap();
        assert!((6.0..9.0).contains(&loss), "{loss}");
        let kernels = singly["kernels"].as_array().unwrap();
        let sum: f64 = kernels.iter().map(|kernel| kernel["milliseconds"].as_f64().unwrap()).sum();
        assert!((sum / singly["milliseconds"].as_f64().unwrap() - 1.0).abs() < 1e-9);
        let launches = |name: &str| kernels.iter().find(|kernel| kernel["kernel"] == name).unwrap()["launches"].clone();
        assert_eq!((launches("attention_bwd_d64_bf16"), launches("adamw")), (2.into(), 1.into()));
    }
    let lines = std::fs::read_to_string(file).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(&lines[1..], steps, "a line of the head, and one for each step");
    assert_eq!(lines[0]["tokens"], 64);
}

#[test]
fn bad_input_gets_one_line() {
    assert_eq!(vicugna(&["kernels", "time", "step", "--shape", "huge"]).code, 2);
    vicugna(&["kernels", "time", "rope", "--lines", "/no/such/folder/x"])
        .refused("/no/such/folder/x: No such file or directory (os error 2)");
    vicugna(&["kernels", "model", "--gpu", "h1000"]).refused("--gpu: \"h1000\" is not known");
    vicugna(&["kernels", "time", "rsmnorm"]).refused("NAME: rsmnorm is no op that is timed");
    vicugna(&["kernels", "time", "rope", "--device", "cpu"]).refused("--device: the cpu has no kernels");
    vicugna(&["kernels", "check", "rsmnorm"]).refused("NAME: rsmnorm is no op with kernels");
    vicugna(&["kernels", "check", "--device", "cpu"]).refused("--device: the cpu has no kernels");
    vicugna(&["kernels", "check", "--device", "gpu"]).refused("--device: \"gpu\" is no device");
    assert_eq!(vicugna(&["kernels"]).code, 2);
    assert_eq!(vicugna(&["kernels", "check", "--cases", "0"]).code, 2);
}
