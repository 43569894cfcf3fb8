//! Teaches a Llama to answer like Dolly's authors, and shows what it says before and after.
//!
//!     cargo run --release --example finetune_dolly -- --model smollm2-135m --data dolly.jsonl --out dolly-adapter
//!
//! `--data` is JSON lines of `instruction`, `context` and `response`, such as databricks-dolly-15k. A part of it is held
//! out: loss and perplexity there, and the answers to its first questions, are printed before and after. Options of
//! training are those of `vicugna finetune`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use vicugna::data::records::Example;
use vicugna::data::template::jumpstart;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::generate::{GenerateOptions, Sampling, generate};
use vicugna::io::hub::{Hub, Kind};
use vicugna::io::model::{ModelFiles, attach_adapter};
use vicugna::io::tokenizer::Tokenizer;
use vicugna::models::llama::Llama;
use vicugna::nn::Sequence;
use vicugna::ops::cross_entropy::IGNORE;
use vicugna::train::{Examples, Options, Progress, Run, evaluate};

#[derive(Parser)]
struct Args {
    /// A folder, a .gguf file, or a name on the hub
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// JSON lines of instruction, context and response
    #[arg(long)]
    data: PathBuf,
    /// The folder of the adapter
    #[arg(long, default_value = "dolly-adapter")]
    out: PathBuf,
    /// How many held-out questions are asked
    #[arg(long, default_value_t = 3)]
    questions: usize,
    #[command(flatten)]
    options: Options,
}

/// A question, and what Dolly's authors answered.
struct Question {
    prompt: Vec<u32>,
    answer: String,
}

/// The example of the text that this project follows. It is a record of Dolly, so it may have been trained on.
fn felix_luna(tokenizer: &Tokenizer) -> Result<Question> {
    let context =
        "Félix César Luna (30 September 1925 – 5 November 2009) was an Argentine writer, lyricist and historian.";
    let answer = "Felix Luna died on November 5th, 2009";
    let prompt = match jumpstart("When did Felix Luna die?", context, answer, true) {
        Example::Completion { prompt, .. } => tokenizer.encode(&prompt, true)?,
        _ => Vec::new(),
    };
    Ok(Question { prompt, answer: answer.into() })
}

/// A held-out record: all before its first supervised token is the question.
fn held_out(sequence: &Sequence, tokenizer: &Tokenizer) -> Result<Question> {
    let asked = sequence.labels.iter().take_while(|&&label| label == IGNORE).count();
    let (prompt, answer) = sequence.input_ids.split_at(asked);
    Ok(Question { prompt: prompt.to_vec(), answer: tokenizer.decode(answer, true)?.trim().into() })
}

/// Prints how well `model` knows the held-out records, and its answers.
fn show(model: &Llama, tokenizer: &Tokenizer, examples: &Examples, questions: &[Question]) -> Result<()> {
    let found = evaluate(model, &examples.evaluation, |_| {})?;
    let records = examples.evaluation.len();
    println!("loss on {records} held-out records: {:.4}, perplexity {:.3}", found.loss, found.perplexity());
    let options = GenerateOptions { max_new_tokens: 100, sampling: Sampling::GREEDY, stop: Vec::new() };
    for Question { prompt, answer } in questions {
        let question = tokenizer.decode(prompt, true)?;
        let asked =
            question.split("### Instruction:\n").nth(1).and_then(|rest| rest.lines().next()).unwrap_or(&question);
        let said = generate(model, tokenizer, prompt, &options, &mut |_| {})?.text;
        println!("\n  {asked}\n    model: {}\n    Dolly: {answer}", said.trim());
    }
    Ok(())
}

fn main() -> ExitCode {
    let Err(error) = teach(Args::parse()) else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
    ExitCode::FAILURE
}

/// The model, with an adapter where there is one.
fn load(files: &ModelFiles, adapter: Option<&Path>) -> Result<Llama> {
    let model = files.load(DType::F32, &Device::Cpu)?;
    adapter.map(|adapter| attach_adapter(&model, adapter)).transpose()?;
    Ok(model)
}

fn teach(args: Args) -> Result<()> {
    let Args { model: name, data, out, questions, options } = args;
    let (hub, full) = (Hub::from_env(), options.full);
    let files = ModelFiles::open(&hub.resolve(&name, Kind::Model)?)?;
    let init_adapter = options.init_adapter.as_deref().map(|name| hub.resolve(name, Kind::Adapter)).transpose()?;
    let tokenizer = files.tokenizer()?;
    let examples = Examples::read(&data, None, &options, &files, &|_| {})?;
    let mut asked = vec![felix_luna(&tokenizer)?];
    let has_prompt = |sequence: &&Sequence| sequence.labels.first() == Some(&IGNORE);
    let held = examples.evaluation.iter().filter(has_prompt).take(questions);
    asked.extend(held.map(|sequence| held_out(sequence, &tokenizer)).collect::<Result<Vec<_>>>()?);

    println!("== before\n");
    show(&load(&files, init_adapter.as_deref())?, &tokenizer, &examples, &asked)?;

    println!("\n== training\n");
    let run = Run {
        model: name,
        files: &files,
        device: Device::Cpu,
        dtype: DType::F32,
        seed: 42,
        train: data,
        eval: None,
        out: out.clone(),
        init_adapter,
        resume: false,
        options,
    };
    run.finetune(&AtomicBool::new(false), Progress::new(false))?;

    println!("\n== after\n");
    let model = if full { load(&ModelFiles::open(&out)?, None) } else { load(&files, Some(&out)) };
    show(&model?, &tokenizer, &examples, &asked)
}
