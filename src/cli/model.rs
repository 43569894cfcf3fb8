//! The options that every command with a model takes.

use std::path::PathBuf;

use clap::ValueEnum;

use super::limit_threads;
use super::report::Report;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::hub::{Hub, Kind};
use crate::io::model::{ModelFiles, attach_adapter};
use crate::models::llama::Llama;

#[derive(clap::Args)]
pub(super) struct BaseArgs {
    /// A folder, a .gguf file, or a name on the hub with an optional @revision
    #[arg(long, value_name = "DIR|FILE.gguf|NAME")]
    pub(super) model: String,
    /// Where to compute: cpu, cuda[:N] or emulated
    #[arg(long, default_value = "cpu")]
    device: String,
    /// How weights and activations are stored
    #[arg(long, default_value = "f32")]
    dtype: DTypeArg,
    /// How frozen weights are compressed
    #[arg(long, default_value = "none")]
    quantize: Quantize,
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
enum DTypeArg {
    F32,
    Bf16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Quantize {
    None,
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
        let Quantize::None = self.quantize;
        limit_threads(self.threads)?;
        ModelFiles::open(&hub(report).resolve(&self.model, Kind::Model)?)
    }

    /// How weights and activations are stored.
    pub(super) fn dtype(&self) -> DType {
        self.dtype.into()
    }

    /// Where to compute. A whole model needs kernels that only the CPU has so far.
    pub(super) fn device(&self) -> Result<Device> {
        match parse_device(&self.device)? {
            Device::Cpu => Ok(Device::Cpu),
            device @ Device::Cuda(_) => {
                let detail = format!("{device} has no kernels for matmul and attention in this version");
                Err(Error::input("--device", detail).with_hint("use --device cpu"))
            }
        }
    }
}

impl ModelArgs {
    /// Finds the model's files, on the hub if need be.
    pub(super) fn find(&self, report: &Report) -> Result<ModelFiles> {
        self.base.find(report)
    }

    /// Loads the weights, with the adapter where one was given.
    pub(super) fn load(&self, files: &ModelFiles, report: &Report) -> Result<Llama> {
        let model = files.load(self.base.dtype(), &self.base.device()?)?;
        if let Some(adapter) = self.find_adapter(report)? {
            attach_adapter(&model, &adapter)?;
        }
        Ok(model)
    }

    /// Finds the adapter's folder, on the hub if need be.
    pub(super) fn find_adapter(&self, report: &Report) -> Result<Option<PathBuf>> {
        self.adapter.as_ref().map(|adapter| find_adapter(adapter, report)).transpose()
    }
}

/// The device of that name: cpu, emulated, cuda or cuda:N.
pub(super) fn parse_device(name: &str) -> Result<Device> {
    let ordinal = match name.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|ordinal| ordinal.parse().ok()),
        None => None,
    };
    match (name, ordinal) {
        ("cpu", _) => Ok(Device::Cpu),
        ("emulated", _) => Ok(Device::emulated()),
        (_, Some(ordinal)) => Device::cuda(ordinal),
        _ => {
            Err(Error::input("--device", format!("{name:?} is no device"))
                .with_hint("use cpu, cuda, cuda:N or emulated"))
        }
    }
}

/// Finds an adapter's folder, on the hub if need be.
pub(super) fn find_adapter(name: &str, report: &Report) -> Result<PathBuf> {
    hub(report).resolve(name, Kind::Adapter)
}

fn hub(report: &Report) -> Hub {
    Hub { quiet: report.quiet, ..Hub::from_env() }
}
