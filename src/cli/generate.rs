//! `vicugna generate`: text from a prompt or a chat.

use std::path::PathBuf;

use super::model::ModelArgs;
use super::report::Report;
use crate::data::chat::refuse_lost;
use crate::error::{Error, Result};
use crate::generate::{GenerateOptions, Sampling, generate};
use crate::io::text;
use crate::io::tokenizer::{Conversation, Tokenizer};

/// Continue a prompt or answer a chat
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    source: Source,
    /// A chat template, a file of Jinja, in place of the model's or the adapter's
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// New tokens at most
    #[arg(long, default_value_t = 128, allow_negative_numbers = true)]
    max_new_tokens: usize,
    /// 0 always takes the most likely token
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Keep the most likely tokens that together reach this probability
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// Keep this many of the most likely tokens; 0 is all
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    top_k: usize,
    /// End at this string; may be given several times
    #[arg(long, allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Launch each token from the third on as one CUDA graph: less work between kernels, the same tokens
    #[arg(long)]
    cuda_graphs: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The text to continue, verbatim
    #[arg(long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// A file that holds the text to continue, verbatim
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// A JSON list of {"role":, "content":}, or {"messages":, "tools":, "documents":}, put through the model's chat template
    #[arg(long, value_name = "FILE.json")]
    chat: Option<PathBuf>,
}

impl Source {
    fn tokens(&self, tokenizer: &Tokenizer, report: &Report) -> Result<Vec<u32>> {
        match self {
            Self { prompt: Some(text), .. } => tokenizer.encode(text, true),
            Self { prompt_file: Some(path), .. } => tokenizer.encode(&text::read(path)?, true),
            Self { chat: Some(path), .. } => {
                let json = text::json(path, &text::read(path)?, 0)?;
                let conversation = Conversation::from_json(json)?;
                let rendered = tokenizer.apply_chat_template(&conversation, true)?;
                refuse_lost(&conversation, &rendered.text)?.iter().for_each(|note| report.note(note));
                let tokens = tokenizer.encode_spans(&rendered.text, &rendered.literal, false)?;
                Ok(tokens.into_iter().map(|token| token.id).collect())
            }
            _ => Err(Error::input("--prompt", "give --prompt, --prompt-file or --chat")),
        }
    }
}

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    let mut files = args.model.find(report)?;
    if let Some(template) = &args.chat_template {
        files = files.with_chat_template(template)?;
    }
    let tokenizer = files.tokenizer()?;
    let prompt = args.source.tokens(&tokenizer, report)?;
    tokenizer.refuse_beyond(&prompt, files.config().vocab_size)?;
    let model = args.model.load_frozen(&files, report)?;
    model.freeze()?;
    let Args { max_new_tokens, temperature, top_p, top_k, cuda_graphs, .. } = *args;
    if cuda_graphs && let Some(text) = model.device().use_graphs() {
        report.note(text);
    }
    let sampling = Sampling { temperature, top_p, top_k, seed: args.model.base.seed };
    let options = GenerateOptions { max_new_tokens, sampling, stop: args.stop.clone() };
    let mut failed = None;
    let generation = generate(&model, &tokenizer, &prompt, &options, &mut |piece| {
        if !report.json && failed.is_none() {
            failed = report.print(piece).err();
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    report.note(format_args!(
        "\n[{} tokens, {:.1} tokens/s]",
        generation.token_ids.len(),
        generation.tokens_per_second
    ));
    if report.json { report.result(&generation, String::new) } else { report.print("\n") }
}
