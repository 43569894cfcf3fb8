//! `vicugna merge`: an adapter folded into its model, or a model stored in fewer bits.

use std::path::PathBuf;

use super::model::{BaseArgs, find_adapter, with_adapter};
use super::quantize::usage;
use super::report::Report;
use crate::device::Device;
use crate::error::Result;
use crate::io::atomic::write_folder;
use crate::io::folder::{Change, Output, merge};
use crate::io::quantized::Quantization;
use crate::train::Progress;

/// Fold an adapter into its model, or store the model in fewer bits, and write a plain Hugging Face folder
#[derive(clap::Args)]
#[command(mut_arg("quantize", |arg| arg.help("How linear layers are stored, as bitsandbytes does [default: as floats]")))]
#[command(mut_arg("int8_backward", |arg| arg.hide(true)))]
pub(super) struct Args {
    #[command(flatten)]
    base: BaseArgs,
    /// The PEFT adapter: a folder or a name on the hub
    #[arg(long, value_name = "DIR|NAME")]
    adapter: Option<String>,
    /// The folder to write; it must not exist yet, or be empty
    #[arg(long)]
    out: PathBuf,
}

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    let scheme = args.base.quantize.scheme();
    if args.adapter.is_none() && scheme.is_none() {
        usage("merge needs --adapter, --quantize, or both".into());
    }
    let adapter = args.adapter.as_ref().map(|adapter| find_adapter(adapter, report)).transpose()?;
    let mut files = args.base.find(report)?;
    if let Some(adapter) = &adapter {
        files = with_adapter(files, adapter, report)?;
    }
    // Whatever the files hold, the result is of floats where nothing else is asked for.
    let quantization = scheme.map(|_| *files.quantization()).filter(Quantization::is_some);
    let output = Output { dtype: args.base.dtype_on(&Device::Cpu), quantization: quantization.as_ref() };
    let mut changes = Vec::new();
    let doing = if adapter.is_some() { "merging" } else { "writing the model" };
    Progress::new(report.quiet).during(doing, || {
        write_folder(&args.out, |folder| {
            let path = folder.join("model.safetensors");
            let (config, lost) = merge(&files.weights(), files.adapter(), files.base(), output, &path)?;
            changes = lost;
            files.write_beside_weights(folder, &config, output.dtype, output.quantization)
        })
    })?;
    for Change { name, largest, mean } in &changes {
        report.note(format_args!(
            "{name}: rounding changed it by {:.2}% at most, {:.2}% on average",
            100.0 * largest,
            100.0 * mean
        ));
    }
    let merged = files.adapter().map_or(0, |adapter| adapter.tensors.len());
    let scheme = quantization.unwrap_or_default().scheme;
    let result = serde_json::json!({ "out": args.out, "merged": merged, "quantize": scheme, "changes": changes });
    report.result(&result, || {
        let stored =
            quantization.map(|quantization| format!(", {} weights in {}", changes.len(), quantization.in_words()));
        format!("{}: {merged} linear layers merged{}", args.out.display(), stored.unwrap_or_default())
    })
}
