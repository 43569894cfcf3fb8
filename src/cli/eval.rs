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
    let files = args.model.find(report)?;
    let adapter = args.model.find_adapter(report)?;
    let options = args.options.clone().or(adapter.as_deref().map_or_else(|| Ok(DataOptions::default()), of_run)?);
    let (sequences, data) = train::read(&args.data, &options, &files)?;
    progress.note(format_args!("{}: {data}", args.data.display()));
    let model = args.model.load(&files)?;
    let found = train::evaluate(&model, &sequences, |_| {})?;
    let (perplexity, records) = (found.perplexity(), data.records - data.skipped.len());
    let result = serde_json::json!({
        "loss": found.loss, "perplexity": perplexity, "tokens": found.tokens, "records": records,
    });
    report.result(&result, || {
        format!("loss {:.4}, perplexity {perplexity:.3} ({} tokens of {records} records)", found.loss, found.tokens)
    })
}

/// Template, masking and lengths that an adapter was trained with, where a run left it.
fn of_run(adapter: &Path) -> Result<DataOptions> {
    let (config, template) = (adapter.join(train::CONFIG), adapter.join(train::TEMPLATE));
    if !config.exists() {
        return Ok(DataOptions::default());
    }
    let text = text::read(&config)?;
    let options: DataOptions = toml::from_str(&text).map_err(|e| Error::file(&config, e.message()))?;
    Ok(DataOptions { template: Some(template).filter(|template| template.exists()), ..options })
}
