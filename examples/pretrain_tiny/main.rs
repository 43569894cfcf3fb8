//! Makes the tiny Llama of `assets/tiny`: its texts, its tokenizer and its weights, all from one seed.
//!
//!     cargo run --release --example pretrain_tiny -- --out assets/tiny
//!
//! It reads what `corpus.rs` writes by the rules of `grammar.txt` and `facts.txt`, and never sees an instruction format.

mod corpus;
mod grammar;
mod train;
mod vocabulary;

use std::path::PathBuf;

use clap::Parser;
use corpus::Corpus;
use vicugna::error::Result;

#[derive(Parser)]
struct Args {
    /// The folder of the model
    #[arg(long, default_value = "tiny")]
    out: PathBuf,
    /// Steps of the optimizer
    #[arg(long, default_value_t = 3000)]
    steps: u64,
    /// What every random choice depends on
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Print so many of the texts, and do nothing else
    #[arg(long, value_name = "N")]
    show: Option<usize>,
}

fn main() -> Result<()> {
    let Args { out, steps, seed, show } = Args::parse();
    let mut corpus = Corpus::new(seed);
    if let Some(count) = show {
        (0..count).for_each(|_| println!("{}\n", corpus.text()));
        return Ok(());
    }
    let tokenizer = vocabulary::learn(&mut corpus, &out)?;
    train::pretrain(&mut corpus, &tokenizer, steps, seed, &out)
}
