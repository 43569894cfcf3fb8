//! What the tiny Llama has read.

use std::path::Path;

use crate::corpus::Corpus;
use crate::sample::{Record, held_out};
use crate::vocabulary;

/// The seed of `pretrain_tiny`.
const SEED: u64 = 42;

/// As many as its pre-training takes.
const TEXTS: usize = 150_000;

#[test]
fn its_tokenizer_comes_from_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    vocabulary::learn(&mut Corpus::new(SEED), folder.path()).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let found = std::fs::read(folder.path().join(name)).unwrap();
        let expected = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny").join(name)).unwrap();
        assert!(found == expected, "{name} is not what examples/pretrain_tiny makes");
    }
}

#[test]
fn it_has_read_no_sentence_of_a_held_out_record() {
    let sentences: Vec<String> = held_out().iter().flat_map(sentences).collect();
    assert!(sentences.len() > 100);
    let mut corpus = Corpus::new(SEED);
    for _ in 0..TEXTS {
        let text = corpus.text();
        for sentence in &sentences {
            assert!(!text.contains(sentence), "{sentence:?} is in {text:?}");
        }
    }
}

/// The question, the text's sentences, and answers that are sentences or proper names.
fn sentences(record: &Record) -> Vec<String> {
    let Record { instruction, context, response, .. } = record;
    let sentences = context.split_inclusive(". ").chain([instruction.as_str()]).map(str::trim);
    let is_name = response.chars().next().is_some_and(char::is_uppercase) && context.contains(response.as_str());
    let answer = (is_name || response.ends_with('.')).then_some(response.as_str());
    sentences.chain(answer).filter(|sentence| !sentence.is_empty()).map(String::from).collect()
}

#[test]
fn it_has_never_seen_the_format_of_instructions() {
    let mut corpus = Corpus::new(SEED);
    assert!((0..10_000).all(|_| !corpus.text().contains('#')));
}
