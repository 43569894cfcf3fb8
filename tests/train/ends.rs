//! What training puts at the end of an answer is where generation stops, from whatever it leaves.

use serde_json::{Value, json};
use vicugna::io::model::ModelFiles;
use vicugna::train::{DataOptions, read};

use crate::chain::{self, id};
use crate::command::vicugna;
use crate::run::Place;

const RECORD: &str = "{\"instruction\": \"Say\", \"context\": \"\", \"response\": \"a\"}\n";

/// A model that says `end` after an a, and after that a's for ever.
fn model(place: &Place, end: u32, config: &Value, files: &[(&str, &Value)]) -> String {
    let tokenizer = chain::tokenizer(&["<s>", "<end>", "<other>", "<|im_end|>"]);
    let files = [&[("tokenizer.json", &tokenizer)], files].concat();
    chain::write(&place.path("model"), &[(id('a'), end), (end, id('a'))], config, &files);
    place.text("model")
}

#[test]
fn the_learned_end_stops_generation_from_adapter_full_and_merged() {
    let [end, other, named] = [257, 258, 259];
    let (as_end, as_other) = (json!({"eos_token": "<end>"}), json!({"eos_token": "<other>"}));
    let old = json!({"eos_token_id": other, "temperature": 0.5});
    for (learned, config, files, written) in [
        (end, json!({"eos_token_id": other}), vec![("tokenizer_config.json", &as_end)], json!([other, end, named])),
        (end, json!({"eos_token_id": end}), vec![], json!([end, named])),
        (
            end,
            json!({"eos_token_id": end}),
            vec![("tokenizer_config.json", &as_end), ("generation_config.json", &old)],
            json!([other, end, named]),
        ),
        (named, json!({"eos_token_id": null}), vec![], json!(named)),
        (
            other,
            json!({"eos_token_id": end}),
            vec![("tokenizer_config.json", &as_end), ("special_tokens_map.json", &as_other)],
            json!([end, other, named]),
        ),
    ] {
        let place = Place::new();
        let model = model(&place, learned, &config, &files);
        let train = place.write("train.jsonl", RECORD);
        let opened = ModelFiles::open(model.as_ref()).unwrap();
        let (sequences, _) = read(train.as_ref(), &DataOptions::default(), &opened).unwrap();
        assert_eq!(sequences[0].labels.last(), Some(&(learned as i32)), "{config}");

        let options = ["--max-steps", "1", "--learning-rate", "1e-9", "--validation-split-ratio", "0"];
        place.finetune(&model, &train, "adapter", &options).json();
        place.finetune(&model, &train, "full", &[&options[..], &["--full"]].concat()).json();
        let (adapter, full, merged) = (place.text("adapter"), place.text("full"), place.text("merged"));
        vicugna(&["merge", "--model", &model, "--adapter", &adapter, "--out", &merged, "--json"]).json();
        let from = [vec!["--model", &model, "--adapter", &adapter], vec!["--model", &full], vec!["--model", &merged]];
        for from in from {
            let args = ["generate", "--prompt", "a", "--max-new-tokens", "4", "--json"];
            let ran = vicugna(&[&args[..], &from].concat()).json();
            assert_eq!((&ran["token_ids"], &ran["finish_reason"]), (&json!([learned]), &json!("eos")), "{from:?}");
        }
        for folder in [full, merged] {
            let json = |name: &str| {
                std::fs::read(format!("{folder}/{name}")).map(|b| serde_json::from_slice::<Value>(&b).unwrap())
            };
            assert_eq!(json("config.json").unwrap()["eos_token_id"], written);
            if let Ok(generation) = json("generation_config.json") {
                assert_eq!(generation, json!({"eos_token_id": written, "temperature": 0.5}));
            }
        }
    }
}

#[test]
fn a_model_without_an_end_is_told_before_training() {
    let place = Place::new();
    chain::write(&place.path("model"), &[], &json!({}), &[("tokenizer.json", &chain::tokenizer(&["<s>"]))]);
    let train = place.write("train.jsonl", RECORD);
    let ran = place.finetune(&place.text("model"), &train, "out", &["--max-steps", "1"]);
    ran.json();
    let note = "the model has no end-of-text token: no answer is taught to end, and generation goes on to its limit";
    assert_eq!(ran.stderr.lines().next(), Some(note), "{}", ran.stderr);
}

#[test]
fn an_end_beyond_the_models_rows_is_refused_by_token_and_file() {
    let place = Place::new();
    let tokens: serde_json::Map<String, Value> =
        (260..265).map(|id| (id.to_string(), json!({"content": format!("<{id}>"), "special": true}))).collect();
    let config = json!({"added_tokens_decoder": tokens, "eos_token": "<264>"});
    let model = model(&place, 257, &json!({}), &[("tokenizer_config.json", &config)]);
    let train = place.write("train.jsonl", RECORD);
    let file = place.text("model/tokenizer_config.json");
    let line = format!("{file}: token \"<264>\" has id 264, but the model's embedding 264 rows");
    place.finetune(&model, &train, "out", &[]).refused(&line);
    assert!(!place.path("out").exists());
}
