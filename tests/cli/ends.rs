//! Where generation stops, what a prompt gets before and after it, and whose tokenizer is used.

use std::path::Path;

use serde_json::{Value, json};

use crate::chain::{self, id};
use crate::command::{Ran, vicugna};

const SPECIALS: [&str; 5] = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|x|>"];
const EOS: u32 = 257;
const X: u32 = 260;

fn generate(model: &Path, prompt: &str, extra: &[&str]) -> Ran {
    let args = ["generate", "--model", model.to_str().unwrap(), "--prompt", prompt, "--max-new-tokens", "4", "--json"];
    vicugna(&[&args, extra].concat())
}

/// A model that says a, <|x|>, b, </s>, c, c, …
fn model(folder: &Path, config: &Value, tokenizer_config: &Value) {
    let [a, b, c] = ['a', 'b', 'c'].map(id);
    let next = [(a, X), (X, b), (b, EOS), (EOS, c), (c, c)];
    let files = [("tokenizer.json", &chain::tokenizer(&SPECIALS)), ("tokenizer_config.json", tokenizer_config)];
    chain::write(folder, &next, config, &files);
}

fn of(ran: &Ran, key: &str) -> Value {
    ran.json()[key].clone()
}

#[test]
fn every_file_that_names_an_end_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let none = json!({"eos_token_id": null});
    for (config, tokenizer, generation, ids) in [
        (none.clone(), json!({}), None, json!([X, id('b'), EOS])), // </s> is known by name
        (json!({"eos_token_id": id('b')}), json!({"eos_token": "</s>"}), None, json!([X, id('b')])),
        (json!({"eos_token_id": EOS}), json!({"eos_token": "<|x|>"}), None, json!([X])),
        (json!({"eos_token_id": EOS}), json!({"eos_token": "</s>"}), Some(X), json!([X])),
        (json!({"eos_token_id": X}), json!({"eos_token": "</s>"}), Some(EOS), json!([X])),
    ] {
        model(folder.path(), &config, &tokenizer);
        let path = folder.path().join("generation_config.json");
        let _ = std::fs::remove_file(&path);
        if let Some(id) = generation {
            std::fs::write(path, json!({"eos_token_id": id}).to_string()).unwrap();
        }
        let ran = generate(folder.path(), "a", &[]).json();
        assert_eq!((&ran["token_ids"], &ran["finish_reason"]), (&ids, &json!("eos")), "{config} {tokenizer}");
    }
}

#[test]
fn a_stop_string_finds_special_tokens_though_the_text_has_none() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path(), &json!({"eos_token_id": 9}), &json!({}));
    for (stop, text, reason) in [
        ("<|x|>", "", "stop"),
        ("<|x|>b", "", "stop"),
        ("b</s>", "b", "eos"),
        ("b", "", "stop"),
        ("x", "b", "eos"),
        ("<|im_end|>", "b", "eos"),
    ] {
        let ran = generate(folder.path(), "a", &["--stop", stop]).json();
        assert_eq!((&ran["text"], &ran["finish_reason"]), (&json!(text), &json!(reason)), "{stop}");
    }
}

#[test]
fn a_prompt_has_its_beginning_once_and_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let flags = json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true, "add_eos_token": true});
    model(folder.path(), &json!({"eos_token_id": EOS}), &flags);
    let bare = folder.path().join("bare");
    model(&bare, &json!({"eos_token_id": EOS}), &json!({"bos_token": "<s>"}));
    for (folder, prompt, tokens) in
        [(folder.path(), "ab", 3), (folder.path(), "<s>ab", 3), (&bare, "<s>ab", 3), (&bare, "ab", 2)]
    {
        let ran = generate(folder, prompt, &[]);
        assert_eq!((of(&ran, "prompt_tokens"), of(&ran, "token_ids")), (json!(tokens), json!([EOS])), "{prompt}");
    }
}

#[test]
fn a_token_beyond_the_rows_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let more: Vec<Value> = (0..10).map(|i| json!(format!("<|{i}|>"))).collect();
    model(folder.path(), &json!({}), &json!({"additional_special_tokens": more}));
    assert_eq!(of(&generate(folder.path(), "a<|0|>", &[]), "prompt_tokens"), 2);
    let file = folder.path().join("tokenizer_config.json");
    let line = format!("{}: token \"<|9|>\" has id 270, but the model's embedding 264 rows", file.display());
    generate(folder.path(), "a<|9|>", &[]).refused(&line);
}
