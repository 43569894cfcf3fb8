//! Ids and masks of 100 records with real vocabularies, as Hugging Face's tokenizers have them
//! (`tests/fixtures/make_whole_text.py` makes the vocabularies and what is expected).

use std::collections::BTreeMap;
use std::path::Path;

use vicugna::data::records::{Prompting, Record, read};
use vicugna::data::tokenize::{Tokenizing, tokenize};
use vicugna::io::gguf::Gguf;
use vicugna::io::hub::{Hub, Kind};
use vicugna::io::tokenizer::Tokenizer;
use vicugna::nn::Sequence;
use vicugna::ops::cross_entropy::IGNORE_INDEX;

use super::file;

/// Tokens, supervised tokens, and the CRC-32 of ids and labels, for each record.
type Rows = Vec<(usize, usize, String)>;

/// The tokenizers by form; what is not there is named.
fn tokenizers() -> Result<BTreeMap<&'static str, Tokenizer>, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/vocabularies");
    let hub = Hub { offline: true, quiet: true, ..Hub::from_env() };
    let gguf = |path: &Path| Gguf::open(path).and_then(|gguf| gguf.tokenizer());
    let read = |form: &str| match form {
        "mistral_gguf" => gguf(&folder.join("mistral.gguf")),
        "smollm2" => hub.resolve("smollm2-135m", Kind::Model).and_then(|path| gguf(&path)),
        _ => Tokenizer::from_folder(folder.join(form)),
    };
    let forms = ["llama3", "mistral_prepend", "mistral_metaspace", "mistral_gguf", "smollm2"];
    forms.into_iter().map(|form| Ok((form, read(form).map_err(|e| format!("{form}: {e}"))?))).collect()
}

fn row(Sequence { input_ids, labels }: &Sequence) -> (usize, usize, String) {
    let list = |numbers: Vec<String>| numbers.join(",");
    let ids = list(input_ids.iter().map(u32::to_string).collect());
    let text = format!("{ids};{}", list(labels.iter().map(i32::to_string).collect()));
    let supervised = labels.iter().filter(|&&label| label >= 0).count();
    (input_ids.len(), supervised, format!("{:08x}", crc32fast::hash(text.as_bytes())))
}

/// The tokenizers, or `None` with the reason printed.
fn given() -> Option<BTreeMap<&'static str, Tokenizer>> {
    tokenizers()
        .inspect_err(|missing| {
            assert!(std::env::var_os("VICUGNA_NO_SKIP").is_none(), "{missing}");
            println!("SKIPPED: {missing}; tests/fixtures/README.md says how the vocabularies are fetched");
        })
        .ok()
}

fn sequence(tokenizer: &Tokenizer, record: &Record) -> Sequence {
    let eos = tokenizer.eos().unwrap();
    let how = Tokenizing {
        encode: &|text, literal, add_special| tokenizer.encode_spans(text, literal, add_special),
        render: &|messages, opened| tokenizer.apply_chat_template(messages, opened),
        eos_token_id: Some(eos),
        end_token_ids: &[eos],
        vocab_size: usize::MAX,
        max_input_length: usize::MAX,
        train_on_prompt: false,
    };
    tokenize(std::slice::from_ref(record), &how).unwrap().0.remove(0)
}

#[test]
fn ids_and_masks_are_hugging_faces() {
    let Some(tokenizers) = given() else { return };
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/whole_text");
    let expected = std::fs::read_to_string(fixtures.join("expected.json")).unwrap();
    let expected: BTreeMap<String, Rows> = serde_json::from_str(&expected).unwrap();
    let records = read(&fixtures.join("records.jsonl"), &Prompting::default()).unwrap().0;
    assert_eq!((expected.len(), records.len()), (5, 100));
    for (form, rows) in expected {
        assert_eq!(rows.len(), 100);
        for (record, wanted) in records.iter().zip(rows) {
            let found = row(&sequence(&tokenizers[&*form], record));
            assert_eq!(found, wanted, "{form}, {}: {:?}", record.place, record.example);
        }
    }
}

/// Alpaca's prompt ends in a colon, its output often begins with "The": one token of Llama 3's vocabulary, which
/// llama-recipes, too, neither cuts in two nor learns.
#[test]
fn alpacas_colon_and_the_belong_to_the_prompt() {
    let Some(tokenizers) = given() else { return };
    let tokenizer = &tokenizers["llama3"];
    let (_folder, path) = file("a.jsonl", r#"{"instruction": "Who?", "input": "", "output": "The llama"}"#);
    let Sequence { input_ids, labels } = sequence(tokenizer, &read(&path, &Prompting::default()).unwrap().0[0]);
    let crossing = tokenizer.token_to_id(":The").unwrap();
    let at = input_ids.iter().position(|&id| id == crossing).unwrap();
    let [llama, end] = labels[at + 1..] else { panic!("{labels:?}") };
    assert_eq!((labels[at], tokenizer.decode(&[llama as u32], false).unwrap().as_str()), (IGNORE_INDEX, " llama"));
    assert_eq!(tokenizer.eos(), Some(end as u32));
}
