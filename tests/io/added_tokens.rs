//! Tokens that stand beside tokenizer.json: transformers' ids, and refusals of files that contradict each other.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;
use vicugna::error::Result;
use vicugna::io::gguf::Gguf;
use vicugna::io::tokenizer::Tokenizer;

use super::files::fixture;
use super::gguf_file::GgufFile;

fn fixtures() -> Value {
    serde_json::from_slice(&fs::read(fixture("added_tokens.json")).unwrap()).unwrap()
}

/// A tokenizer of bytes with `added` in its tokenizer.json, and other files.
fn folder(mut tokenizer: Value, added: &Value, files: &Value) -> TempDir {
    let folder = TempDir::new().unwrap();
    tokenizer["added_tokens"] = added.clone();
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, content) in files.as_object().unwrap() {
        fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    folder
}

fn read(added: &Value, files: &Value) -> (TempDir, Result<Tokenizer>) {
    let folder = folder(fixtures()["bases"]["plain"].take(), added, files);
    let tokenizer = Tokenizer::from_folder(folder.path());
    (folder, tokenizer)
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    let fixtures = fixtures();
    let cases = fixtures["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 60);
    for (i, case) in cases.iter().enumerate() {
        let base = fixtures["bases"][case["base"].as_str().unwrap()].clone();
        let folder = folder(base, &case["added_tokens"], &case["files"]);
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap_or_else(|e| panic!("case {i}: {e}"));
        assert_eq!(json!(tokenizer.vocab_size()), case["size"], "case {i}");
        assert_eq!(json!(tokenizer.eos()), case["eos"], "case {i}");
        for (j, text) in case["texts"].as_array().unwrap().iter().enumerate() {
            let ids = tokenizer.encode(text.as_str().unwrap(), false).unwrap();
            assert_eq!(json!(ids), case["ids"][j], "case {i}, {text}");
            assert_eq!(json!(tokenizer.decode(&ids, true).unwrap()), case["decoded"][j], "case {i}, {text}");
        }
    }
}

fn token(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false})
}

#[test]
fn contradictions_are_refused_by_file_and_token() {
    let (none, two) = (json!([]), json!([token(256, "<s>"), token(257, "</s>")]));
    let decoder = |tokens: Value| json!({"added_tokens_decoder": tokens});
    let config = |tokens| json!({"tokenizer_config.json": decoder(tokens)});
    for (added, files, message) in [
        (
            &two,
            config(json!({"257": {"content": "<|end|>"}})),
            r#"tokenizer_config.json: token "<|end|>" has id 257, but in tokenizer.json that is "</s>""#,
        ),
        (
            &two,
            config(json!({"258": {"content": "</s>"}})),
            r#"tokenizer_config.json: token "</s>" has id 258, but in tokenizer.json it has 257"#,
        ),
        (
            &two,
            config(json!({"64": {"content": "<|end|>"}})),
            r#"tokenizer_config.json: token "<|end|>" has id 64, but in tokenizer.json that is "a""#,
        ),
        (
            &two,
            config(json!({"300": {"content": "<|end|>"}})),
            r#"tokenizer_config.json: token "<|end|>" has id 300, but the next id is 258: tokens are missing before it"#,
        ),
        (
            &two,
            json!({"added_tokens.json": {"<|end|>": 300}}),
            r#"added_tokens.json: token "<|end|>" has id 300, but the next id is 258: tokens are missing before it"#,
        ),
        (
            &two,
            json!({"added_tokens.json": {"<|end|>": 256}}),
            r#"added_tokens.json: token "<|end|>" has id 256, but in tokenizer.json that is "<s>""#,
        ),
        (
            &two,
            json!({"added_tokens.json": {"<pad>": 258}, "tokenizer_config.json": decoder(json!({"258": {"content": "[PAD]"}}))}),
            r#"added_tokens.json: token "<pad>" has id 258, but in tokenizer_config.json that is "[PAD]""#,
        ),
        (
            &none,
            json!({"added_tokens.json": {"<pad>": 257}, "tokenizer_config.json": decoder(json!({"256": {"content": "<pad>"}}))}),
            r#"added_tokens.json: token "<pad>" has id 257, but in tokenizer_config.json it has 256"#,
        ),
        (
            &json!([token(300, "<s>")]),
            json!({}),
            r#"tokenizer.json: token "<s>" has id 300, but the next id is 256: tokens are missing before it"#,
        ),
        (&json!([token(64, "b")]), json!({}), r#"tokenizer.json: token "b" has id 64, but 65 in its vocabulary"#),
        (
            &none,
            config(json!({"<pad>": 256})),
            r#"tokenizer_config.json: added_tokens_decoder must be ids and tokens, has "<pad>": 256"#,
        ),
        (&none, config(json!([])), "tokenizer_config.json: added_tokens_decoder must be an object of ids and tokens"),
        (&none, json!({"added_tokens.json": {"<pad>": -1}}), r#"added_tokens.json: "<pad>" must have an id, has -1"#),
    ] {
        let (folder, tokenizer) = read(added, &files);
        let error = tokenizer.unwrap_err().to_string();
        assert_eq!(error.replace(&format!("{}/", folder.path().display()), ""), message);
    }
}

#[test]
fn a_token_beyond_the_models_rows_is_told_with_its_file_if_it_is_used() {
    let files = json!({"tokenizer_config.json": {"pad_token": "<pad>", "eos_token": "</s>"}, "added_tokens.json": {"</s>": 256}});
    let (folder, tokenizer) = read(&json!([]), &files);
    let tokenizer = tokenizer.unwrap();
    assert!(tokenizer.refuse_beyond(&tokenizer.encode("a</s>", true).unwrap(), 257).is_ok());
    for (text, rows, message) in [
        ("a<pad>", 257, r#"tokenizer_config.json: token "<pad>" has id 257, but the model's embedding 257 rows"#),
        ("a</s>", 256, r#"added_tokens.json: token "</s>" has id 256, but the model's embedding 256 rows"#),
        ("ba", 64, r#"tokenizer.json: token "b" has id 65, but the model's embedding 64 rows"#),
    ] {
        let error = tokenizer.refuse_beyond(&tokenizer.encode(text, true).unwrap(), rows).unwrap_err().to_string();
        assert_eq!(error.replace(&format!("{}/", folder.path().display()), ""), message);
    }
}

#[test]
fn generation_ends_at_every_end_that_a_file_names_or_that_is_known_by_name() {
    let tokens =
        |contents: &[&str]| contents.iter().zip(256..).map(|(content, id)| token(id, content)).collect::<Value>();
    let three = tokens(&["<x>", "<y>", "<z>"]);
    let listed = json!({"eos_token": "<x>", "added_tokens_decoder": {"256": {"content": "<x>", "special": true}}});
    for (added, files, of_model, ends) in [
        (three.clone(), json!({}), vec![], vec![]),
        (three.clone(), json!({"tokenizer_config.json": {"eos_token": "<y>"}}), vec![256], vec![256, 257]),
        (three.clone(), json!({"tokenizer_config.json": {"eos_token": {"content": "<y>"}}}), vec![257], vec![257]),
        (
            three.clone(),
            json!({"tokenizer_config.json": {"eos_token": "<x>"}, "special_tokens_map.json": {"eos_token": "<y>"}}),
            vec![],
            vec![256, 257],
        ),
        (
            three,
            json!({"tokenizer_config.json": listed, "special_tokens_map.json": {"eos_token": "<z>"}}),
            vec![5],
            vec![5, 256, 258],
        ),
        (json!([]), json!({"tokenizer_config.json": {"eos_token": "<end>"}}), vec![], vec![256]),
        (tokens(&["<|im_end|>", "<|eot_id|>", "<|x|>"]), json!({}), vec![3], vec![3, 257, 256]),
        (tokens(&["<|end|>", "<|call|>"]), json!({}), vec![], vec![256, 257]),
        (tokens(&["<|end|>", "<|call|>", "<|return|>"]), json!({}), vec![], vec![258, 257]),
    ] {
        let (_folder, tokenizer) = read(&added, &files);
        assert_eq!(tokenizer.unwrap().ends(&of_model), ends, "{added} {files}");
    }
}

#[test]
fn a_gguf_ends_at_control_tokens_known_by_name() {
    let file = GgufFile::new("llama").string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-2");
    let file = file.strings("tokenizer.ggml.tokens", &["a", "b", "<|eot_id|>", "<|end|>", "</s>"]);
    let file = file.i32s("tokenizer.ggml.token_type", &[1, 1, 3, 4, 1]).strings::<&str>("tokenizer.ggml.merges", &[]);
    for (file, ends) in [(file.clone(), vec![2, 3]), (file.u32("tokenizer.ggml.eos_token_id", 1), vec![1, 2, 3])] {
        let tokenizer = Gguf::open(file.write().path).unwrap().tokenizer().unwrap();
        assert_eq!(tokenizer.ends(&[]), ends);
    }
}

#[test]
fn nothing_is_put_after_a_text_and_nothing_twice_before_it() {
    let added = json!([token(256, "<s>"), token(257, "</s>")]);
    let special = |content: &str, id: u32| json!({content: {"id": content, "ids": [id], "tokens": [content]}});
    let template = |single: Value| {
        let mut tokens = special("<s>", 256);
        tokens.as_object_mut().unwrap().extend(special("</s>", 257).as_object().unwrap().clone());
        let pair = json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]);
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
    };
    let [bos, text, eos] = [
        json!({"SpecialToken": {"id": "<s>", "type_id": 0}}),
        json!({"Sequence": {"id": "A", "type_id": 0}}),
        json!({"SpecialToken": {"id": "</s>", "type_id": 0}}),
    ];
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let both = template(json!([bos, text, eos]));
    for (processor, config, before) in [
        (Value::Null, json!({}), ""),
        (template(json!([text, eos])), json!({}), ""),
        (both.clone(), json!({}), "<s>"),
        (json!({"type": "Sequence", "processors": [bytes, both]}), json!({}), "<s>"),
        (
            json!({"type": "RobertaProcessing", "sep": ["</s>", 257], "cls": ["<s>", 256], "trim_offsets": true, "add_prefix_space": false}),
            json!({}),
            "<s>",
        ),
        (both.clone(), json!({"add_bos_token": false, "bos_token": "<s>"}), ""),
        (
            Value::Null,
            json!({"add_bos_token": true, "add_eos_token": true, "bos_token": "<s>", "eos_token": "</s>"}),
            "<s>",
        ),
        (Value::Null, json!({"add_eos_token": true, "eos_token": "</s>"}), ""),
    ] {
        let mut tokenizer = fixtures()["bases"]["plain"].take();
        tokenizer["post_processor"] = processor;
        let folder = folder(tokenizer, &added, &json!({"tokenizer_config.json": config}));
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        for (text, beginning) in
            [("ab", before), ("", before), ("<s>ab", ""), ("<s>", ""), ("<s><s>", ""), ("</s>", before)]
        {
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), format!("{beginning}{text}"), "{config}");
        }
    }
}
