//! `vicugna eval`: loss and perplexity on a file of records.

use std::path::{Path, PathBuf};

use super::model::ModelArgs;
use super::report::Report;
use crate::error::{Error, Result};
use crate::io::text;
use crate::train::{self, DataOptions, Progress};

/// Loss and perplexity on a file of records
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The records
    #[arg(long, value_name = "FILE|DIR")]
    data: PathBuf,
    #[command(flatten)]
    options: DataOptions,
}

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    let progress = Progress::new(report.quiet);
    let mut files = args.model.find(report)?;
    let adapter = args.model.find_adapter(report)?;
    let mut options = args.options.clone();
    if let Some(run) = train::run_folder(adapter.as_deref().unwrap_or(files.path())) {
        options = options.or(of_run(&run)?);
        progress.note(format_args!("template, masking and lengths as in {}", run.join(train::CONFIG).display()));
    }
    if let Some(template) = &options.chat_template {
        files = files.with_chat_template(template)?;
    }
    let (sequences, data) = progress.during("reading the records", || train::read(&args.data, &options, &files))?;
    progress.note(format_args!("{}: {data}", args.data.display()));
    let model = args.model.load_frozen(&files, report)?;
    let found = progress.counting("evaluating", sequences.len(), |done| train::evaluate(&model, &sequences, done))?;
    let (perplexity, records) = (found.perplexity(), data.records - data.skipped.len());
    let result = serde_json::json!({
        "loss": found.loss, "perplexity": perplexity, "tokens": found.tokens, "records": records,
    });
    report.result(&result, || {
        format!("loss {:.4}, perplexity {perplexity:.3} ({} tokens of {records} records)", found.loss, found.tokens)
    })
}

/// Template, masking and lengths of the run in the folder `run`.
fn of_run(run: &Path) -> Result<DataOptions> {
    let (config, template) = (run.join(train::CONFIG), run.join(train::TEMPLATE));
    let text = text::read(&config)?;
    let options: DataOptions = toml::from_str(&text).map_err(|e| Error::file(&config, e.message()))?;
    // The chat template is among the adapter's own files.
    let template = Some(template).filter(|template| template.exists());
    Ok(DataOptions { template, chat_template: None, ..options })
}
