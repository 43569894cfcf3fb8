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
    let tokenizer = chain::tokenizer(&["<s>"]);
    chain::write(&place.path("model"), &[(id('a'), id('b'))], &json!({}), &[("tokenizer.json", &tokenizer)]);
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

#[test]
fn a_run_keeps_the_chat_template_and_the_tokenizer_that_it_was_trained_with() {
    let place = Place::new();
    let model = model(&place, 257, &json!({"eos_token_id": 257}), &[]);
    let lines =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}\n";
    let train = place.write("train.jsonl", &lines.repeat(2));
    let turn = "{% for m in messages %}{{ m.role }}:{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let template = place.write("mine.jinja", turn);
    let options = ["--max-steps", "1", "--learning-rate", "1e-9", "--validation-split-ratio", "0"];
    let ran = place.finetune(&model, &train, "out", &[&options[..], &["--chat-template", &template]].concat());
    ran.json();
    std::fs::remove_file(&template).unwrap();
    let out = place.text("out");
    assert_eq!(std::fs::read_to_string(place.path("out/chat_template.jinja")).unwrap(), turn);
    let config = std::fs::read_to_string(place.path("out/config.toml")).unwrap();
    assert!(config.contains(&format!("chat_template = \"{out}/chat_template.jinja\"")), "{config}");

    let eval =
        |adapter: &str| vicugna(&["eval", "--model", &model, "--adapter", adapter, "--data", &train, "--json"]).json();
    let judged = eval(&out);
    assert_eq!(judged["tokens"], 4, "an a and an end in each record");
    let checkpoint = std::fs::read_dir(place.path("out/checkpoints")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(eval(checkpoint.to_str().unwrap()), judged);

    place.finetune(&model, &train, "more", &[&options[..], &["--init-adapter", &out]].concat()).json();
    assert_eq!(eval(&place.text("more")), judged);
    place
        .finetune(
            &model,
            &train,
            "out",
            &[&options[..], &["--chat-template", &format!("{out}/chat_template.jinja"), "--resume"]].concat(),
        )
        .json();
}
