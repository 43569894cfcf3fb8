//! The options that every command with a model takes.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::limit_threads;
use super::quantize::QuantizeArgs;
use super::report::{Report, say};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::io::hub::{Hub, Kind};
use crate::io::model::ModelFiles;
use crate::models::llama::Llama;
use crate::train::{self, Progress};

#[derive(clap::Args)]
pub(super) struct BaseArgs {
    /// A folder, a .gguf file, or a name on the hub with an optional @revision
    #[arg(long, value_name = "DIR|FILE.gguf|NAME")]
    pub(super) model: String,
    /// Where to compute: cpu, cuda[:N] or emulated [default: cuda where there is a GPU, else cpu]
    #[arg(long)]
    device: Option<String>,
    /// How weights and activations are stored [default: f32 on the cpu, else bf16]
    #[arg(long)]
    dtype: Option<DTypeArg>,
    #[command(flatten)]
    pub(super) quantize: QuantizeArgs,
    /// Threads of the CPU; all by default
    #[arg(long, allow_negative_numbers = true)]
    threads: Option<usize>,
    /// What all random choices depend on
    #[arg(long, default_value_t = 42, allow_negative_numbers = true)]
    pub(super) seed: u64,
}

#[derive(clap::Args)]
pub(super) struct ModelArgs {
    #[command(flatten)]
    pub(super) base: BaseArgs,
    /// A PEFT adapter: a folder or a name on the hub
    #[arg(long, value_name = "DIR|NAME")]
    pub(super) adapter: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum DTypeArg {
    #[value(alias = "float32")]
    F32,
    #[value(alias = "bfloat16")]
    Bf16,
}

impl From<DTypeArg> for DType {
    fn from(dtype: DTypeArg) -> Self {
        match dtype {
            DTypeArg::F32 => Self::F32,
            DTypeArg::Bf16 => Self::Bf16,
        }
    }
}

impl BaseArgs {
    /// Finds the model's files, on the hub if need be.
    pub(super) fn find(&self, report: &Report) -> Result<ModelFiles> {
        limit_threads(self.threads)?;
        let files = ModelFiles::open(&hub(report).resolve(&self.model, Kind::Model)?)?;
        let files = self.quantize.apply(files)?;
        files.notes()?.iter().for_each(|note| report.note(note));
        Ok(files)
    }

    /// Fetches the model from the hub, if that is where it is.
    #[cfg(feature = "mpi")]
    pub(super) fn fetch(&self, report: &Report) -> Result<()> {
        hub(report).resolve(&self.model, Kind::Model).map(drop)
    }

    /// The threads of the CPU, if they were limited.
    pub(super) fn threads(&self) -> Option<usize> {
        self.threads
    }

    /// Where to compute, and how weights and activations are stored there.
    pub(super) fn place(&self) -> Result<(Device, DType)> {
        let device = match &self.device {
            Some(name) => name.parse()?,
            None => Device::best().unwrap_or_else(|error| {
                say(format_args!("the GPU is not used: {error}"));
                Device::Cpu
            }),
        };
        let dtype = self.dtype_on(&device);
        Ok((device, dtype))
    }

    /// How weights and activations are stored on `device`.
    pub(super) fn dtype_on(&self, device: &Device) -> DType {
        self.dtype.map_or(device.default_dtype(), DType::from)
    }
}

impl ModelArgs {
    /// Finds the model's files, with the adapter where one was given, on the hub if need be.
    pub(super) fn find(&self, report: &Report) -> Result<ModelFiles> {
        let files = self.base.find(report)?;
        match self.find_adapter(report)? {
            Some(adapter) => with_adapter(files, &adapter, report),
            None => Ok(files),
        }
    }

    /// Loads the weights, of which none of the model's own is trained.
    pub(super) fn load_frozen(&self, files: &ModelFiles, report: &Report) -> Result<Llama> {
        let (device, dtype) = self.base.place()?;
        Progress::new(report.quiet).during("loading the model", || files.load_frozen(dtype, &device))
    }

    /// Loads the weights.
    pub(super) fn load(&self, files: &ModelFiles, report: &Report) -> Result<Llama> {
        let (device, dtype) = self.base.place()?;
        Progress::new(report.quiet).during("loading the model", || files.load(dtype, &device))
    }

    /// Finds the adapter's folder, on the hub if need be.
    pub(super) fn find_adapter(&self, report: &Report) -> Result<Option<PathBuf>> {
        self.adapter.as_ref().map(|adapter| find_adapter(adapter, report)).transpose()
    }
}

/// Finds an adapter's folder, on the hub if need be.
pub(super) fn find_adapter(name: &str, report: &Report) -> Result<PathBuf> {
    hub(report).resolve(name, Kind::Adapter)
}

/// The model with the adapter in `folder` on it; says what of that counts for nothing.
pub(super) fn with_adapter(files: ModelFiles, folder: &Path, report: &Report) -> Result<ModelFiles> {
    let files = files.with_adapter(folder)?;
    for note in files.adapter().iter().flat_map(|adapter| &adapter.notes) {
        report.note(format_args!("{}: {note}", folder.display()));
    }
    files.own_text().iter().for_each(|note| report.note(note));
    let scheme = files.quantization().scheme;
    if let Some(trained) = train::scheme(folder).filter(|trained| *trained != scheme) {
        let folder = folder.display();
        report.note(format_args!("{folder}: trained on weights held as --quantize {trained} says, used on {scheme}"));
    }
    Ok(files)
}

fn hub(report: &Report) -> Hub {
    Hub { quiet: report.quiet, ..Hub::from_env() }
}
