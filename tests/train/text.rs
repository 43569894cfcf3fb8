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
