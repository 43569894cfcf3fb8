//! `tokenizer.model` without a tokenizer.json beside it.

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use vicugna::error::Result;
use vicugna::io::tokenizer::Tokenizer;

use super::files::{assert_refused, fixture};

/// A folder with nothing but these.
fn folder(model: &[u8], config: &Value) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("tokenizer.model"), model).unwrap();
    if !config.is_null() {
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    }
    folder
}

fn open(model: &[u8], config: &Value) -> Result<Tokenizer> {
    Tokenizer::from_folder(folder(model, config).path())
}

fn model(name: &str) -> Vec<u8> {
    std::fs::read(fixture("sentencepiece").join(format!("{name}.model"))).unwrap()
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("sentencepiece/expected.json")).unwrap()).unwrap()
}

fn token(tokenizer: &Tokenizer, token: &str) -> u32 {
    tokenizer.token_to_id(token).unwrap()
}

/// A field of a protocol buffer that holds bytes or a message. Appended to a message it overrides what is there.
fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    [&[field << 3 | 2, content.len() as u8][..], content].concat()
}

/// `model` with a field of its trainer_spec (2) or normalizer_spec (3) set to a number.
fn with(model: &str, spec: u8, field: u16, number: u16) -> Vec<u8> {
    let varint = |n: u16| [(n as u8) | 128, (n >> 7) as u8];
    [self::model(model), bytes(spec, &[varint(field << 3), varint(number)].concat())].concat()
}

#[test]
fn ids_are_those_of_sentencepiece() {
    let expected = expected();
    let texts: Vec<&str> = expected["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(texts.len(), 1000);
    for (name, ids) in expected["ids"].as_object().unwrap() {
        // A text has no stretches here, so `legacy` does not matter.
        for config in [json!(null), json!({"legacy": true}), json!({"legacy": false, "add_prefix_space": true})] {
            let tokenizer = open(&model(name), &config).unwrap();
            // Of a `▁` that was no space, transformers makes one too.
            let is_like_a_space = |text: &str| name == "symbols" && config["legacy"] == false && text.starts_with('▁');
            for (text, ids) in texts.iter().zip(ids.as_array().unwrap()).filter(|(text, _)| !is_like_a_space(text)) {
                let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
                assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{name} {config}: {text:?}");
                if name != "symbols" {
                    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text.replace('▁', " "), "{name}: {ids:?}");
                }
            }
        }
    }
}

#[test]
fn the_ends_are_the_models_unless_the_config_names_others() {
    let llama = open(&model("llama"), &json!(null)).unwrap();
    assert_eq!((llama.vocab_size(), llama.bos(), llama.eos()), (400, Some(1), Some(2)));
    let ids = llama.encode("The llama", false).unwrap();
    assert_eq!(llama.encode("The llama", true).unwrap(), [&[1], &ids[..]].concat());
    let without = open(&model("llama"), &json!({"add_bos_token": false})).unwrap();
    assert_eq!(without.encode("The llama", true).unwrap(), ids);
    let other = open(&model("llama"), &json!({"bos_token": "</s>", "eos_token": {"content": "<s>"}})).unwrap();
    assert_eq!((other.bos(), other.eos()), (Some(2), Some(1)));
    assert_eq!(other.encode("The llama", true).unwrap()[0], 2);
    let plain = open(&model("plain"), &json!(null)).unwrap();
    assert_eq!((plain.bos(), plain.eos()), (None, Some(2)));
    assert_eq!(plain.encode("The llama", true).unwrap(), plain.encode("The llama", false).unwrap());
}

/// As in transformers: control pieces are special tokens, and `legacy` decides what is done after one.
#[test]
fn text_after_a_special_token_gets_a_space_in_legacy() {
    let encode = |config: Value, text: &str| open(&model("llama"), &config).unwrap().encode(text, false).unwrap();
    let llama = open(&model("llama"), &json!(null)).unwrap();
    let (the, plain) = (llama.encode("the", false).unwrap(), encode(json!({"add_prefix_space": false}), "the"));
    assert_ne!(the, plain);
    let joined = |a: &[u32], b: &[u32]| [a, &[2], b].concat();
    assert_eq!(encode(json!({"legacy": true}), "the</s>the"), joined(&the, &the));
    assert_eq!(encode(json!({"legacy": false}), "the</s>the"), joined(&the, &plain));
    assert_eq!(encode(json!({"legacy": false}), "</s>the"), joined(&[], &plain));
    assert_eq!(encode(json!({"add_prefix_space": false}), "the</s>the"), joined(&plain, &plain));
    let symbols = open(&model("symbols"), &json!(null)).unwrap();
    let ids = symbols.encode("[INST]<sep>llama", false).unwrap();
    assert_eq!(ids, ["[INST]", "▁", "<sep>", "llama"].map(|piece| token(&symbols, piece)));
    assert_eq!(symbols.decode(&ids, true).unwrap(), "<sep>llama");
}

#[test]
fn a_tokenizer_json_comes_before_the_model() {
    let both = folder(&model("llama"), &json!({"legacy": false}));
    open(&model("plain"), &json!(null)).unwrap().write(both.path()).unwrap();
    let read = Tokenizer::from_folder(both.path()).unwrap();
    let plain = open(&model("plain"), &json!(null)).unwrap();
    assert_eq!(read.encode("The llama", true).unwrap(), plain.encode("The llama", true).unwrap());
}

#[test]
fn a_written_tokenizer_gives_the_same_ids() {
    let expected = expected();
    for config in [json!(null), json!({"legacy": false})] {
        for name in ["llama", "symbols", "plain"] {
            let (original, written) = (open(&model(name), &config).unwrap(), TempDir::new().unwrap());
            original.write(written.path()).unwrap();
            let read = Tokenizer::from_folder(written.path()).unwrap();
            for text in expected["texts"].as_array().unwrap().iter().take(100).map(|text| text.as_str().unwrap()) {
                let ids = original.encode(text, true).unwrap();
                assert_eq!(read.encode(text, true).unwrap(), ids, "{name} {config}: {text:?}");
                assert_eq!(read.decode(&ids, true).unwrap(), original.decode(&ids, true).unwrap());
            }
        }
    }
}

#[test]
fn other_models_are_refused_with_their_cure() {
    const CURE: &str =
        "let transformers write a tokenizer.json: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
    let refused = |model: &[u8], message: &str, hint: Option<&str>| {
        let folder = folder(model, &json!(null));
        let message = format!("tokenizer.model: {message}");
        assert_refused(Tokenizer::from_folder(folder.path()), folder.path(), &message, hint);
    };
    for (model, message) in [
        (with("llama", 2, 3, 1), "is a SentencePiece model unigram: only bpe, as Llama 2's, is supported"),
        (with("llama", 2, 3, 3), "is a SentencePiece model word: only bpe, as Llama 2's, is supported"),
        (with("llama", 2, 24, 1), "treat_whitespace_as_suffix is true, which is not supported"),
        (with("llama", 3, 5, 0), "escape_whitespaces is false, which is not supported"),
        (
            [model("llama"), bytes(3, &[bytes(1, b"nmt_nfkc"), bytes(2, b"map")].concat())].concat(),
            "its normalizer \"nmt_nfkc\" rewrites characters, which is not supported",
        ),
        (
            [model("llama"), bytes(5, &bytes(2, b"map"))].concat(),
            "its denormalizer rewrites characters, which is not supported",
        ),
    ] {
        refused(&model, message, Some(CURE));
    }
    let piece = bytes(1, &bytes(1, b"</s>"));
    refused(&[model("llama"), piece].concat(), "tokens 2 and 400 are both \"</s>\"", None);
    refused(&with("symbols", 2, 42, 999), "eos_id 999 is not one of its 160 pieces", None);
    for broken in [&b""[..], b"\n\x09", b"a text", &model("llama")[..4000]] {
        refused(broken, "is not a SentencePiece model, or cut off", None);
    }
    refused(b"PK\x03\x04 and more", "is a zip archive", Some("unpack it"));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    let pointed = Tokenizer::from_folder(folder(pointer, &json!(null)).path()).unwrap_err();
    assert!(pointed.to_string().ends_with("tokenizer.model: is a Git LFS pointer, not the file itself"), "{pointed}");
    let tiktoken = "is a vocabulary of tiktoken, as Meta publishes Llama 3's, not of SentencePiece";
    let cure = format!("get the tokenizer.json of the model's Hugging Face folder, or {CURE}");
    refused(b"IQ== 0\nIg== 1\n", tiktoken, Some(&cure));
    // An id of no piece that nobody needs.
    let odd = open(&with("llama", 2, 43, 999), &json!(null)).unwrap();
    assert_eq!(
        odd.encode("llama", true).unwrap(),
        open(&model("llama"), &json!(null)).unwrap().encode("llama", true).unwrap()
    );
}

proptest! {
    /// Damaged files are errors that name the file, or tokenizers.
    #[test]
    fn damaged_models_do_not_panic(
        name in prop::sample::select(vec!["llama", "symbols"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        kept in prop_oneof![Just(None), any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let mut bytes = model(name);
        for (at, byte) in &changes {
            *at.get_mut(&mut bytes) = *byte;
        }
        bytes.truncate(kept.map_or(bytes.len(), |kept| kept.index(bytes.len())));
        let folder = folder(&bytes, &json!(null));
        let refusal = |error: vicugna::error::Error| {
            let named = error.to_string().starts_with(&folder.path().display().to_string());
            prop_assert!(named, "{}", error);
            Ok(())
        };
        match Tokenizer::from_folder(folder.path()) {
            Ok(tokenizer) => tokenizer.encode("The  llama é x<sep>", true).map(drop).or_else(refusal)?,
            Err(error) => refusal(error)?,
        }
    }
}
