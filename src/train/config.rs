//! `config.toml`: what a run was told, with every choice made. It is all that repeating the run, or going on with it, needs.

use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};

use super::examples::folder_template;
use super::folder::{CONFIG, RunFolder, TEMPLATE, run_folder};
use super::options::Options;
use super::run::Run;
use crate::error::{Error, Result};
use crate::io::atomic::write_file;
use crate::io::companions::CHAT_TEMPLATE;
use crate::io::quantized::{Quantization, Scheme};
use crate::io::text;
use crate::ops::int8_matmul::Backward;

#[derive(Serialize)]
struct Config {
    model: PathBuf,
    train: PathBuf,
    eval: Option<PathBuf>,
    out: PathBuf,
    device: String,
    dtype: String,
    #[serde(flatten)]
    quantization: Quantized,
    seed: u64,
    #[serde(flatten)]
    options: Options,
}

/// How the frozen linear layers of a run were held, in the names of the options.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Quantized {
    quantize: Scheme,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    int8_threshold: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    int8_backward: Option<Backward>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    double_quant: bool,
}

impl Quantized {
    pub(super) fn of(quantization: &Quantization) -> Self {
        let method = Some(quantization.method).filter(|_| quantization.scheme == Scheme::Int8);
        Self {
            quantize: quantization.scheme,
            int8_threshold: method.map(|method| method.threshold),
            int8_backward: method.map(|method| method.backward),
            double_quant: quantization.double,
        }
    }
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
        quantization: Quantized::of(run.files.quantization()),
        seed: run.seed,
        options,
    };
    let path = folder.join(CONFIG);
    let text = toml::to_string(&config).map_err(|e| Error::file(&path, e.to_string()))?;
    write_bytes(&path, text.as_bytes())
}

/// The scheme by which the run that left `folder` held its frozen linear layers, if there is a run that says so.
pub fn scheme(folder: &Path) -> Option<Scheme> {
    #[derive(Deserialize)]
    struct Quantized {
        quantize: Scheme,
    }
    let text = text::read_if_there(&run_folder(folder)?.join(CONFIG)).ok()??;
    toml::from_str(&text).ok().map(|Quantized { quantize }| quantize)
}

/// What was fixed when a run began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Begun {
    /// What chat templates take for now.
    pub date: Option<DateTime>,
    /// The batches of a step.
    pub batches_per_step: Option<usize>,
    /// What those are in runs of one rank, which do not tell.
    pub gradient_accumulation_steps: Option<usize>,
}

/// Reads what was fixed when the run that is in `folder` began, if there is one.
pub(super) fn begun(folder: &RunFolder) -> Result<Begun> {
    let path = folder.join(CONFIG);
    let Some(text) = text::read_if_there(&path)? else { return Ok(Begun::default()) };
    let mut begun: Begun = toml::from_str(&text).map_err(|e| Error::file(&path, e.message()))?;
    begun.batches_per_step = begun.batches_per_step.or(begun.gradient_accumulation_steps);
    Ok(begun)
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |file| file.write_all(bytes).map_err(|e| Error::io(path, e)))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(path, e))
}
