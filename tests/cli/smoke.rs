use crate::command::{fixture, vicugna};

#[test]
fn devices_lists_the_cpu_and_what_it_imitates() {
    let json = vicugna(&["devices", "--json"]).json();
    let devices = json["devices"].as_array().unwrap();
    assert_eq!(devices[0]["device"], "cpu");
    assert_eq!(devices[devices.len() - 1]["device"], "emulated");
}

#[test]
fn generate_continues_a_prompt_the_same_way_each_time() {
    let model = fixture("gguf_llama_spm/tiny.gguf");
    let run = |extra: &[&str]| {
        let args = ["generate", "--model", &model, "--prompt", "hello", "--max-new-tokens", "8", "--json"];
        vicugna(&[&args, extra].concat()).json()
    };
    let greedy = run(&[]);
    assert_eq!(greedy["token_ids"], run(&["--threads", "1"])["token_ids"]);
    assert_eq!(greedy["finish_reason"], "length");
    assert_eq!(greedy["token_ids"].as_array().unwrap().len(), 8);
    let sampled = |seed| run(&["--temperature", "1.5", "--top-k", "50", "--seed", seed])["token_ids"].clone();
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
}

/// With `VICUGNA_DEVICE=cuda` all tokens but the first two are one launch each.
#[test]
fn cuda_graphs_change_no_token() {
    let (model, gpu) =
        (fixture("gguf_llama_spm/tiny.gguf"), std::env::var("VICUGNA_DEVICE").unwrap_or("emulated".into()));
    let run = |extra: &[&str]| {
        let args =
            ["generate", "--model", &model, "--prompt", "hello", "--max-new-tokens", "8", "--device", &gpu, "--json"];
        vicugna(&[&args, extra].concat())
    };
    let (plain, graphs) = (run(&[]).json(), run(&["--cuda-graphs"]));
    assert_eq!(graphs.json()["token_ids"], plain["token_ids"]);
    match gpu.as_str() {
        "emulated" => assert_eq!(
            graphs.stderr.lines().next(),
            Some("note: emulated has no CUDA graphs and runs kernels one by one")
        ),
        _ => assert_eq!(graphs.json()["graph_launches"], 6),
    }
    assert!(plain["graph_launches"].is_null());
}

#[test]
fn merge_gives_the_adapters_logits_without_it() {
    let (model, adapter) = (fixture("lora"), fixture("lora/adapter"));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged");
    let out = out.to_str().unwrap();
    vicugna(&["merge", "--model", &model, "--adapter", &adapter, "--out", out, "--json"]).json();
    let loss = |args: &[&str]| {
        let json = vicugna(&[&["inspect", "--input-ids", "1,2,3,4,5", "--json"], args].concat()).json();
        json["loss"].as_f64().unwrap()
    };
    let (adapted, merged) = (loss(&["--model", &model, "--adapter", &adapter]), loss(&["--model", out]));
    assert!((adapted - merged).abs() < 1e-5, "{adapted} {merged}");
    let again = vicugna(&["merge", "--model", &model, "--adapter", &adapter, "--out", out]);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("is there already"), "{}", again.stderr);
}
