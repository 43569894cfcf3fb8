//! `vicugna merge`: an adapter folded into its model.

use std::path::PathBuf;

use super::model::{BaseArgs, find_adapter, with_adapter};
use super::report::Report;
use crate::device::Device;
use crate::error::Result;
use crate::io::atomic::write_folder;
use crate::io::folder::merge;
use crate::train::Progress;

/// Fold an adapter into its model and write a plain Hugging Face folder
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    base: BaseArgs,
    /// The PEFT adapter: a folder or a name on the hub
    #[arg(long, value_name = "DIR|NAME")]
    adapter: String,
    /// The folder to write; it must not exist yet, or be empty
    #[arg(long)]
    out: PathBuf,
}

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    let adapter = find_adapter(&args.adapter, report)?;
    let files = with_adapter(args.base.find(report)?, &adapter, report)?;
    let dtype = args.base.dtype_on(&Device::Cpu);
    let Some(adapter) = files.adapter() else { return Ok(()) };
    Progress::new(report.quiet).during("merging", || {
        write_folder(&args.out, |folder| {
            let config = merge(&files.weights(), adapter, files.base(), dtype, &folder.join("model.safetensors"))?;
            files.write_beside_weights(folder, &config, dtype)
        })
    })?;
    let merged = adapter.tensors.len();
    report.result(&serde_json::json!({ "out": args.out, "merged": merged }), || {
        format!("{}: {merged} linear layers merged", args.out.display())
    })
}
