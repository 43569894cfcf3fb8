//! Teaches a Llama to answer like Dolly's authors, and shows what it says before and after.
//!
//!     cargo run --release --example finetune_dolly
//!     cargo run --release --example finetune_dolly -- --device emulated
//!     cargo run --release --example finetune_dolly -- --model smollm2-135m --data dolly.jsonl --out dolly-adapter
//!
//! Without a model it takes the tiny one of `assets/`, which `pretrain_tiny` made, and the sample of records beside it.
//! `--data` is JSON lines of `instruction`, `context` and `response`, such as databricks-dolly-15k; `--eval` is what is
//! held out, else a part of `--data`. Options of training are those of `vicugna finetune`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use vicugna::data::records::Example;
use vicugna::data::template::jumpstart;
use vicugna::device::Device;
use vicugna::error::Result;
use vicugna::generate::{GenerateOptions, Sampling, generate};
use vicugna::io::hub::{Hub, Kind};
use vicugna::io::model::ModelFiles;
use vicugna::io::tokenizer::Tokenizer;
use vicugna::models::llama::Llama;
use vicugna::nn::Sequence;
use vicugna::ops::cross_entropy::IGNORE_INDEX;
use vicugna::train::{Evaluation, Examples, Options, Progress, Run, evaluate};

/// What is run where no model and no data are named. Options that are given come after these, and win.
#[rustfmt::skip]
const TINY: &[&str] = &[
    "--model", concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny"),
    "--data", concat!(env!("CARGO_MANIFEST_DIR"), "/assets/dolly_sample/train.jsonl"),
    "--eval", concat!(env!("CARGO_MANIFEST_DIR"), "/assets/dolly_sample/eval.jsonl"),
    "--questions", "38", "--target-modules", "all-linear", "--lora-r", "16", "--lora-dropout", "0.15",
    "--learning-rate", "1e-3", "--lr-schedule", "cosine", "--warmup-steps", "10", "--epochs", "6",
    "--batch-size", "2", "--max-input-length", "256",
];

/// Questions that are printed; all that are asked are counted.
const PRINTED: usize = 6;

/// What to teach, and to whom.
#[derive(Parser)]
#[command(args_override_self = true)]
pub struct Args {
    /// A folder, a .gguf file, or a name on the hub
    #[arg(long)]
    model: String,
    /// JSON lines of instruction, context and response
    #[arg(long)]
    data: PathBuf,
    /// Held-out records, instead of a part of --data
    #[arg(long)]
    eval: Option<PathBuf>,
    /// The folder of the adapter [default: dolly-adapter, or dolly-adapter-2 and so on if it is there already]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where to compute: cpu, cuda[:N] or emulated [default: cuda where there is a GPU, else cpu]
    #[arg(long)]
    device: Option<String>,
    /// How many held-out questions are asked
    #[arg(long, default_value_t = 4)]
    questions: usize,
    #[command(flatten)]
    options: Options,
}

impl Args {
    /// Reads the command line `given`, without the program's name.
    pub fn read(given: &[String]) -> Self {
        let is_named = given.iter().any(|argument| argument.starts_with("--model") || argument.starts_with("--data"));
        let defaults = if is_named { &[] } else { TINY };
        let defaults = ["finetune_dolly"].iter().chain(defaults).map(|argument| argument.to_string());
        Self::parse_from(defaults.chain(given.iter().cloned()))
    }
}

/// The first folder of its kind that is not there yet.
fn free_folder() -> PathBuf {
    let mut folder = PathBuf::from("dolly-adapter");
    for number in 2.. {
        if !folder.exists() {
            break;
        }
        folder = format!("dolly-adapter-{number}").into();
    }
    folder
}

/// A held-out record.
pub struct Question {
    prompt: Vec<u32>,
    instruction: String,
    /// The text that it asks about, if any.
    context: String,
    /// What Dolly's authors answered.
    truth: String,
}

impl Question {
    /// All before a sequence's first supervised token is the prompt.
    fn new(sequence: &Sequence, tokenizer: &Tokenizer) -> Result<Self> {
        let asked = sequence.labels.iter().take_while(|&&label| label == IGNORE_INDEX).count();
        let (prompt, truth) = sequence.input_ids.split_at(asked);
        Self::from_prompt(prompt.to_vec(), tokenizer.decode(truth, true)?.trim().into(), tokenizer)
    }

    /// The example of the text that this project follows. It is a record of Dolly, so it may have been trained on.
    fn felix_luna(tokenizer: &Tokenizer) -> Result<Self> {
        let context =
            "Félix César Luna (30 September 1925 – 5 November 2009) was an Argentine writer, lyricist and historian.";
        let truth = "Felix Luna died on November 5th, 2009";
        let prompt = match jumpstart("When did Felix Luna die?", context, truth, true) {
            Example::Completion { prompt, .. } => tokenizer.encode(&prompt, true)?,
            _ => Vec::new(),
        };
        Self::from_prompt(prompt, truth.into(), tokenizer)
    }

    fn from_prompt(prompt: Vec<u32>, truth: String, tokenizer: &Tokenizer) -> Result<Self> {
        let text = tokenizer.decode(&prompt, true)?;
        let section = |name: &str| text.split(name).nth(1).and_then(|rest| rest.split("\n\n").next()).map(String::from);
        let instruction = section("### Instruction:\n").unwrap_or_else(|| text.clone());
        let context = section("### Input:\n").unwrap_or_default();
        Ok(Self { prompt, instruction, context, truth })
    }

    /// Whether the answer stands in the text, word for word.
    pub fn is_extractive(&self) -> bool {
        contains(&self.context, &self.truth)
    }
}

fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

/// How well a model does on what is held out.
pub struct Exam {
    /// Over all held-out records.
    pub evaluation: Evaluation,
    /// What it says, question by question.
    pub answers: Vec<String>,
}

impl Exam {
    fn sit(model: &Llama, tokenizer: &Tokenizer, examples: &Examples, questions: &[Question]) -> Result<Self> {
        let options = GenerateOptions { max_new_tokens: 48, sampling: Sampling::GREEDY, stop: Vec::new() };
        let answer = |question: &Question| {
            let said = generate(model, tokenizer, &question.prompt, &options, &mut |_| {})?.text;
            Ok(said.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let answers = questions.iter().map(answer).collect::<Result<_>>()?;
        Ok(Self { evaluation: evaluate(model, &examples.evaluation, |_| {})?, answers })
    }

    /// How many answers contain the truth that stands in the text.
    pub fn right(&self, questions: &[Question]) -> usize {
        let pairs = questions.iter().zip(&self.answers);
        pairs.filter(|(question, answer)| question.is_extractive() && contains(answer, &question.truth)).count()
    }
}

/// What a run came to.
pub struct Taught {
    /// The folder of the adapter.
    pub out: PathBuf,
    /// What was asked.
    pub questions: Vec<Question>,
    /// The base model's answers.
    pub before: Exam,
    /// The exam of the model with the adapter.
    pub after: Exam,
}

/// Fine-tunes, with an exam before and one after.
pub fn teach(args: Args) -> Result<Taught> {
    let Args { model, data, eval, out, device, questions, options } = args;
    let device = device.map_or_else(Device::best, |name| name.parse())?;
    let (hub, full) = (Hub::from_env(), options.full);
    let out = out.unwrap_or_else(free_folder);
    let path = hub.resolve(&model, Kind::Model)?;
    let mut files = ModelFiles::open(&path)?;
    if let Some(name) = &options.init_adapter {
        files = files.with_adapter(&hub.resolve(name, Kind::Adapter)?)?;
    }
    let tokenizer = files.tokenizer()?;
    let examples = Examples::read(&data, eval.as_deref(), &options, &files, &|_| {})?;
    let has_prompt = |sequence: &&Sequence| sequence.labels.first() == Some(&IGNORE_INDEX);
    let held_out = examples.evaluation.iter().filter(has_prompt).take(questions);
    let mut questions = held_out.map(|sequence| Question::new(sequence, &tokenizer)).collect::<Result<Vec<_>>>()?;
    if eval.is_none() {
        questions.insert(0, Question::felix_luna(&tokenizer)?);
    }
    let sit = |model: Llama| Exam::sit(&model, &tokenizer, &examples, &questions);
    let before = sit(files.load_frozen(device.default_dtype(), &device)?)?;
    let run = Run {
        model,
        files: &files,
        device: device.clone(),
        dtype: device.default_dtype(),
        seed: 42,
        train: data,
        eval,
        out: out.clone(),
        resume: false,
        communicator: None,
        options,
    };
    run.finetune(&AtomicBool::new(false), Progress::new(false))?;
    let files = if full { ModelFiles::open(&out)? } else { ModelFiles::open(&path)?.with_adapter(&out)? };
    let after = sit(files.load_frozen(device.default_dtype(), &device)?)?;
    Ok(Taught { out, questions, before, after })
}

fn report(Taught { out, questions, before, after }: &Taught) {
    for ((question, before), after) in questions.iter().zip(&before.answers).zip(&after.answers).take(PRINTED) {
        println!("\n{}\n{}", question.instruction, question.context);
        println!("  truth:  {}\n  before: {before}\n  after:  {after}", question.truth);
    }
    let extractive = questions.iter().filter(|question| question.is_extractive()).count();
    println!("\n                                  before      after");
    let row = |what: &str, before: f64, after: f64| println!("{what:28} {before:11.3} {after:10.3}");
    row("held-out loss", before.evaluation.loss, after.evaluation.loss);
    row("held-out perplexity", before.evaluation.perplexity(), after.evaluation.perplexity());
    let (right_before, right) = (before.right(questions), after.right(questions));
    if extractive > 0 {
        println!("answers found in the text    {right_before:5} of {extractive:2} {right:4} of {extractive:2}");
    }
    println!("\n{} holds the adapter, metrics.jsonl and loss.svg", out.display());
}

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    match teach(Args::read(&given)) {
        Ok(taught) => {
            report(&taught);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
