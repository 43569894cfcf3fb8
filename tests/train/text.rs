//! Records of text, on a tiny model with a tokenizer.

use crate::command::{fixture, vicugna};
use crate::run::Place;

const DOLLY: &str = "{\"instruction\": \"Say it\", \"context\": \"it is late\", \"response\": \"late\"}\n\
    {\"instruction\": \"Say more\", \"context\": \"\", \"response\": \"more and more\"}\n\
    {\"instruction\": \"Say it again\", \"context\": \"again\", \"response\": \"again and again and again\"}\n\
    {\"instruction\": \"One\", \"context\": \"two\", \"response\": \"three\"}\n";

fn finetune(place: &Place, train: &str, out: &str, extra: &[&str]) -> crate::command::Ran {
    place.finetune(&fixture("gguf_llama_spm/tiny.gguf"), train, out, &[&["--batch-size", "1"], extra].concat())
}

#[test]
fn a_jumpstart_folder_brings_its_template_and_eval_finds_it_again() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    place.write("folder/train.jsonl", DOLLY);
    place.write("folder/template.json", r#"{"prompt": "{instruction}: {context}", "completion": " {response}"}"#);
    std::fs::create_dir(place.path("folder/validation")).unwrap();
    let run = finetune(&place, &place.text("folder"), "out", &[]);
    assert!(run.stderr.contains("folder/validation is not read: name it with --eval\n"), "{}", run.stderr);
    assert!(
        run.stderr.contains("4 records: 4 sequences, ") && run.stderr.contains("training on 3 sequences of "),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("trainable params: "), "{}", run.stderr);
    run.json();
    let held = place.write("held.jsonl", DOLLY);
    let eval = |extra: &[&str]| {
        let model = fixture("gguf_llama_spm/tiny.gguf");
        vicugna(&[&["eval", "--model", &model, "--data", &held, "--json"], extra].concat()).json()
    };
    std::fs::remove_dir_all(place.path("folder")).unwrap();
    let (out, template) = (place.text("out"), place.text("out/template.json"));
    assert_eq!(eval(&["--adapter", &out]), eval(&["--adapter", &out, "--template", &template]));
    let prompts = eval(&["--adapter", &out, "--train-on-prompt"]);
    assert!(prompts["tokens"].as_u64() > eval(&["--adapter", &out])["tokens"].as_u64());
}

#[test]
fn a_plain_text_is_learned_whole() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    place.write("folder/filing.txt", &"the quick brown fox jumps over the lazy dog\n".repeat(40));
    let run = finetune(&place, &place.text("folder"), "out", &["--max-input-length", "32", "--epochs", "1"]);
    assert!(run.stderr.contains("1 records: "), "{}", run.stderr);
    assert!(run.json()["eval_loss"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_is_cut_or_skipped_is_said() {
    let place = Place::new();
    let train = place.write("train.jsonl", DOLLY);
    let template = place.write("template.json", r#"{"prompt": "{context}", "completion": " {response}"}"#);
    let options = ["--template", &template, "--no-demarcation", "--max-input-length", "6"];
    let run =
        finetune(&place, &train, "out", &[&options[..], &["--epochs", "1", "--validation-split-ratio", "0"]].concat());
    run.json();
    for said in [
        "2 skipped, no supervised token left: line 1 (12 tokens), line 3",
        "1 cut to 6 tokens, 5 tokens lost",
        "training on 2 sequences of ",
    ] {
        assert!(run.stderr.contains(said), "{}", run.stderr);
    }
}

/// A model with a tokenizer and this chat template.
fn model_with_template(place: &Place, template: &str) -> String {
    let data = place.write("any.jsonl", DOLLY);
    finetune(place, &data, "model", &["--full", "--max-steps", "1", "--validation-split-ratio", "0"]).json();
    let model = place.text("model");
    let path = place.path("model/tokenizer_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["chat_template"] = template.into();
    std::fs::write(path, config.to_string()).unwrap();
    model
}

#[test]
fn a_run_has_one_date() {
    let place = Place::new();
    let template = "{{ strftime_now('%H:%M:%S') }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
        {% if add_generation_prompt %}assistant: {% endif %}";
    let model = model_with_template(&place, template);
    let line = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "late"}]}"#;
    let data = place.write("chat.jsonl", &format!("{line}\n{line}\n"));
    let options = ["--epochs", "1", "--validation-split-ratio", "0", "--train-on-prompt"];
    place.finetune(&model, &data, "out", &options).json();
    let config = std::fs::read_to_string(place.path("out/config.toml")).unwrap();
    assert!(config.contains("\ndate = \"2"), "{config}");
    let out = place.text("out");
    let eval = |extra: &[&str]| {
        vicugna(&[&["eval", "--model", &model, "--data", &data, "--adapter", &out, "--json"], extra].concat()).json()
    };
    let first = eval(&[]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(eval(&[]), first);
    assert_ne!(eval(&["--date", "2000-01-01T00:00:00"])["loss"], first["loss"]);
    let again = place.finetune(&model, &data, "out", &[&options[..], &["--resume"]].concat());
    assert!(again.stderr.contains("finished already, nothing to do"), "{}", again.stderr);
}

#[test]
fn a_chat_is_generated_from_as_it_is_learned() {
    let place = Place::new();
    let template = "{% for m in messages %}{{ m.role }}{{ m.name }}: {{ m.content }}{{ eos_token }}{% endfor %}\
        {{ tools|length if tools }}{% if add_generation_prompt %}assistant: {% endif %}";
    let model = model_with_template(&place, template);
    let tokens = |name: &str, chat: &str| {
        let file = place.write(name, chat);
        let run = vicugna(&["generate", "--model", &model, "--chat", &file, "--max-new-tokens", "1", "--json"]);
        (run.stderr.clone(), run.json()["prompt_tokens"].as_u64().unwrap())
    };
    let messages = r#"[{"role": "user", "content": "late", "name": " bo"}]"#;
    let (_, plain) = tokens("plain.json", messages);
    assert_eq!(tokens("bom.json", &format!("\u{feff}{messages}")).1, plain);
    let with_tools = format!(r#"{{"messages": {messages}, "tools": [{{"name": "f"}}]}}"#);
    let (stderr, count) = tokens("tools.json", &with_tools);
    assert!(count > plain && stderr.contains("tools: the chat template leaves out f"), "{count}: {stderr}");
    let (_, spelled) = tokens("spelled.json", &messages.replace("late", "</s>"));
    assert!(spelled > plain, "an end of text in a message is text");
    let parts = place.write("parts.json", r#"[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]"#);
    vicugna(&["generate", "--model", &model, "--chat", &parts])
        .refused("messages[0].content: is a list, and the chat template wants text");
}
