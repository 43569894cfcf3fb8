//! `config.toml`: what a run was told, with every choice made. It is all that repeating the run, or going on with it, needs.

use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};

use super::examples::folder_template;
use super::folder::{CONFIG, RunFolder, TEMPLATE};
use super::options::Options;
use super::run::Run;
use crate::error::{Error, Result};
use crate::io::atomic::write_file;
use crate::io::companions::CHAT_TEMPLATE;
use crate::io::text;

#[derive(Serialize)]
struct Config {
    model: PathBuf,
    train: PathBuf,
    eval: Option<PathBuf>,
    out: PathBuf,
    device: String,
    dtype: String,
    seed: u64,
    #[serde(flatten)]
    options: Options,
}

/// Writes it, and beside it copies of the templates and of the tokenizer that an adapter brought, so that they outlive the
/// originals.
pub(super) fn write(run: &Run<'_>, folder: &RunFolder) -> Result<()> {
    let mut options = run.options.clone();
    if let Some(template) = options.data.template.take().or_else(|| folder_template(&run.train)) {
        let copy = folder.join(TEMPLATE);
        let bytes = std::fs::read(&template).map_err(|e| Error::io(&template, e))?;
        write_bytes(&copy, &bytes)?;
        options.data.template = Some(absolute(&copy)?);
    }
    if let Some(adapter) = options.init_adapter.as_mut().filter(|adapter| Path::new(adapter).exists()) {
        *adapter = absolute(Path::new(adapter))?.to_string_lossy().into_owned();
    }
    run.files.write_own_text(folder.path())?;
    if let Some(template) = &mut options.data.chat_template {
        *template = absolute(&folder.join(CHAT_TEMPLATE))?;
    }
    let model = PathBuf::from(&run.model);
    let config = Config {
        model: if model.exists() { absolute(&model)? } else { model },
        train: absolute(&run.train)?,
        eval: run.eval.as_deref().map(absolute).transpose()?,
        out: absolute(&run.out)?,
        device: run.device.to_string(),
        dtype: run.dtype.to_string(),
        seed: run.seed,
        options,
    };
    let path = folder.join(CONFIG);
    let text = toml::to_string(&config).map_err(|e| Error::file(&path, e.to_string()))?;
    write_bytes(&path, text.as_bytes())
}

/// Reads the date of the run that is in `folder`, if there is a run and it had one.
pub(super) fn date(folder: &RunFolder) -> Result<Option<DateTime>> {
    #[derive(Deserialize)]
    struct Dated {
        date: Option<DateTime>,
    }
    let path = folder.join(CONFIG);
    let Some(text) = text::read_if_there(&path)? else { return Ok(None) };
    let dated: Dated = toml::from_str(&text).map_err(|e| Error::file(&path, e.message()))?;
    Ok(dated.date)
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |file| file.write_all(bytes).map_err(|e| Error::io(path, e)))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(path, e))
}
