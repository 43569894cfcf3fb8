//! From a record of instruction data to tokens, and which of them are learned.
//!
//!     cargo run --example 06_records

use std::path::Path;

use vicugna::data::records::{Example, Prompting, read};
use vicugna::error::Result;
use vicugna::io::model::ModelFiles;
use vicugna::ops::cross_entropy::IGNORE_INDEX;
use vicugna::train::{DataOptions, read as read_sequences};

fn main() -> Result<()> {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let data = assets.join("dolly_sample/train.jsonl");

    // Dolly's fields become JumpStart's prompt.
    let (records, reading) = read(&data, &Prompting::default())?;
    println!("{reading}");
    let Example::Completion { prompt, completion } = &records[0].example else { panic!("a record has an answer") };
    println!("{prompt}{completion}\n");
    assert!(prompt.ends_with("### Response:\n"));
    assert_eq!(completion, " Paris");

    // The prompt is masked: only the answer and the end of text count in the loss.
    let files = ModelFiles::open(&assets.join("tiny"))?;
    let (sequences, report) = read_sequences(&data, &DataOptions::default(), &files)?;
    println!("{report}");
    assert_eq!(report.sequences, records.len());
    let (tokenizer, first) = (files.tokenizer()?, &sequences[0]);
    let learned: Vec<u32> =
        first.labels.iter().filter(|&&label| label != IGNORE_INDEX).map(|&label| label as u32).collect();
    let (found, end) = (tokenizer.decode(&learned, true)?, tokenizer.eos());
    println!("learned: found {found:?} and {:?}, expected {completion:?} and {end:?}", learned.last());
    assert_eq!(&found, completion);
    assert_eq!(learned.last().copied(), end);
    Ok(())
}
