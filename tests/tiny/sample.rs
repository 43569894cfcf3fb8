//! The sample of records.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

/// A record of Dolly.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub instruction: String,
    pub context: String,
    pub response: String,
    category: String,
}

fn read(name: &str) -> Vec<Record> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/dolly_sample").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The held-out records.
pub fn held_out() -> Vec<Record> {
    read("eval.jsonl")
}

fn is_extractive(record: &Record) -> bool {
    ["closed_qa", "information_extraction"].contains(&record.category.as_str())
}

/// Those whose answer stands in their text.
pub fn extractive() -> impl Iterator<Item = Record> {
    held_out().into_iter().filter(is_extractive)
}

#[test]
fn it_has_dollys_eight_categories() {
    let (training, held_out) = (read("train.jsonl"), held_out());
    assert!(training.len() >= 300 && held_out.len() >= 30);
    assert!(2 * extractive().count() >= held_out.len());
    for records in [&training, &held_out] {
        let categories: BTreeSet<&str> = records.iter().map(|record| record.category.as_str()).collect();
        let expected = [
            "brainstorming",
            "classification",
            "closed_qa",
            "creative_writing",
            "general_qa",
            "information_extraction",
            "open_qa",
            "summarization",
        ];
        assert!(categories.into_iter().eq(expected));
    }
}

#[test]
fn extracted_answers_stand_in_their_texts() {
    for record in read("train.jsonl").iter().chain(&held_out()).filter(|record| is_extractive(record)) {
        let Record { instruction, context, response, .. } = record;
        assert!(context.to_lowercase().contains(&response.to_lowercase()), "{instruction} {response}");
    }
}

#[test]
fn no_held_out_question_or_text_is_trained_on() {
    let training = read("train.jsonl");
    let texts: BTreeSet<&str> = training.iter().map(|record| record.context.as_str()).collect();
    let questions: BTreeSet<&str> = training.iter().map(|record| record.instruction.as_str()).collect();
    for Record { instruction, context, .. } in &held_out() {
        match context.as_str() {
            "" => assert!(!questions.contains(instruction.as_str()), "{instruction}"),
            text => assert!(!texts.contains(text), "{text}"),
        }
    }
}
