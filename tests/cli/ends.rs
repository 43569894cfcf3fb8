//! Where generation stops, what a prompt gets before and after it, and whose tokenizer is used.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

use crate::chain::{self, id};
use crate::command::{Ran, vicugna};

const SPECIALS: [&str; 5] = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|x|>"];
const EOS: u32 = 257;
const X: u32 = 260;

/// Writes an adapter that changes nothing to `folder`, with other files as given.
fn write_adapter(folder: &Path, files: &[(&str, &Value)]) {
    std::fs::create_dir_all(folder).unwrap();
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]});
    for (name, content) in [("adapter_config.json", &config)].iter().chain(files) {
        std::fs::write(folder.join(name), content.to_string()).unwrap();
    }
    let zeros = [0; 4 * chain::HIDDEN];
    let [a, b] = [vec![1, chain::HIDDEN], vec![chain::HIDDEN, 1]]
        .map(|shape| TensorView::new(Dtype::F32, shape, &zeros).unwrap());
    let name = |which| format!("base_model.model.model.layers.0.self_attn.q_proj.{which}.weight");
    serialize_to_file([(name("lora_A"), a), (name("lora_B"), b)], None, &folder.join("adapter_model.safetensors"))
        .unwrap();
}

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

const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";

#[test]
fn an_adapters_own_tokenizer_and_end_are_used_and_said() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path(), &json!({"eos_token_id": EOS}), &json!({"eos_token": "</s>"}));
    let (tokenizer, own) = (chain::tokenizer(&SPECIALS), json!({"eos_token": "<|x|>"}));
    for (files, said) in [
        (
            vec![("tokenizer.json", &tokenizer), ("tokenizer_config.json", &own)],
            "tokenizer.json, tokenizer_config.json",
        ),
        (vec![("tokenizer_config.json", &own)], "tokenizer_config.json"),
        (vec![("special_tokens_map.json", &own)], "special_tokens_map.json"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let (adapter, merged) = (place.path().join("adapter"), place.path().join("merged"));
        write_adapter(&adapter, &files);
        let ran = generate(folder.path(), "a", &["--adapter", adapter.to_str().unwrap()]);
        assert_eq!((of(&ran, "token_ids"), of(&ran, "finish_reason")), (json!([X]), json!("eos")), "{said}");
        let note = format!("{}: its own {said} are used, not the model's", adapter.display());
        assert!(ran.stderr.lines().any(|line| line == note), "{}", ran.stderr);
        let paths = [folder.path(), &adapter, &merged].map(|path| path.to_str().unwrap());
        vicugna(&["merge", "--model", paths[0], "--adapter", paths[1], "--out", paths[2], "--json"]).json();
        assert_eq!(of(&generate(&merged, "a", &[]), "token_ids"), json!([X]), "{said}");
    }
}

#[test]
fn a_chat_template_is_the_files_or_the_adapters_or_the_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    model(folder.path(), &json!({"eos_token_id": EOS}), &json!({}));
    write_adapter(&path("adapter"), &[]);
    std::fs::write(path("adapter/chat_template.jinja"), TEMPLATE).unwrap();
    std::fs::write(path("bom.jinja"), format!("\u{feff}abc{TEMPLATE}")).unwrap();
    std::fs::write(path("empty.jinja"), "\n").unwrap();
    std::fs::write(path("chat.json"), r#"[{"role": "user", "content": "a"}]"#).unwrap();
    let [model, adapter, merged, template, empty, chat] =
        ["", "adapter", "merged", "bom.jinja", "empty.jinja", "chat.json"]
            .map(|name| path(name).to_str().unwrap().to_owned());
    let tokens = |extra: &[&str]| {
        let args = ["generate", "--chat", &chat, "--max-new-tokens", "1", "--json"];
        vicugna(&[&args, extra].concat())
    };
    tokens(&["--model", &model]).refused(&format!("{model}: has no chat template"));
    assert_eq!(of(&tokens(&["--model", &model, "--adapter", &adapter]), "prompt_tokens"), 2);
    assert_eq!(of(&tokens(&["--model", &model, "--chat-template", &template]), "prompt_tokens"), 5);
    let both = ["--model", &model, "--adapter", &adapter, "--chat-template", &template];
    assert_eq!(of(&tokens(&both), "prompt_tokens"), 5);
    tokens(&["--model", &model, "--chat-template", &empty]).refused(&format!("{empty}: is empty"));
    vicugna(&["merge", "--model", &model, "--adapter", &adapter, "--out", &merged, "--json"]).json();
    assert_eq!(of(&tokens(&["--model", &merged]), "prompt_tokens"), 2);
}

#[test]
fn an_adapters_tokenizer_that_is_larger_than_the_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    model(folder.path(), &json!({"eos_token_id": EOS}), &json!({}));
    let more = [&SPECIALS[..], &["<a>", "<b>", "<c>", "<d>", "<e>"]].concat();
    let (tokenizer, pad) = (chain::tokenizer(&more), json!({"pad_token": "<e>"}));
    let chain = chain::tokenizer(&more[..8]);
    let ran = |files: &[(&str, &Value)]| {
        let _ = std::fs::remove_dir_all(&adapter);
        write_adapter(&adapter, files);
        generate(folder.path(), "a", &["--adapter", adapter.to_str().unwrap()])
    };
    let larger = ran(&[("tokenizer.json", &tokenizer)]);
    let token = r#"token "<d>" has id 264, but the model's embedding 264 rows"#;
    assert_eq!(larger.code, 1);
    assert!(
        larger.stderr.contains(&format!("error: {}: {token}", adapter.join("tokenizer.json").display())),
        "{}",
        larger.stderr
    );
    // What only pads needs no row.
    ran(&[("tokenizer.json", &chain), ("tokenizer_config.json", &pad)]).json();
}
