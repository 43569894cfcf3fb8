//! `vicugna kernels`: the CUDA kernels of this build, held against their specification, and what they do, counted.

mod check;
mod model;
mod profile;
mod synthetic;
mod time;

use std::sync::Arc;

use clap::Subcommand;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::report::Report;
use crate::device::{Cuda, Device, Kernels};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;

/// List, check, profile or time the CUDA kernels, or model a training step on a GPU
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List every kernel and what it takes
    List,
    /// Run ops on their kernels and compare with the f64 specification
    Check {
        /// An op; all by default
        name: Option<String>,
        /// Random cases for each op and dtype
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
        cases: u64,
        /// Where to run: emulated or cuda[:N]
        #[arg(long, default_value = "emulated")]
        device: String,
    },
    /// Run ops at the widths of Llama-3-8B on the emulated device and count what each kernel does
    Profile {
        /// An op; all by default
        name: Option<String>,
    },
    /// Model how long a training step would take on a GPU: a few blocks of each launch are run on the emulated device
    Model(model::Args),
    Time(time::Args),
}

/// An op with kernels.
struct Op {
    name: &'static str,
    /// Its own, and those of the op that it is made of.
    kernels: &'static [Kernels],
    check: check::Case,
    profile: profile::Work,
}

const OPS: &[Op] = &[
    Op { name: "rmsnorm", kernels: &[ops::rmsnorm::KERNELS], check: check::rmsnorm, profile: profile::rmsnorm },
    Op { name: "rope", kernels: &[ops::rope::KERNELS], check: check::rope, profile: profile::rope },
    Op { name: "swiglu", kernels: &[ops::swiglu::KERNELS], check: check::swiglu, profile: profile::swiglu },
    Op { name: "matmul", kernels: &[ops::matmul::KERNELS], check: check::matmul, profile: profile::matmul },
    Op {
        name: "lora",
        kernels: &[ops::lora::KERNELS, ops::matmul::KERNELS],
        check: check::lora,
        profile: profile::lora,
    },
    Op {
        name: "int8_matmul",
        kernels: &[ops::int8_matmul::KERNELS, ops::int8_matmul::QUANTIZE_KERNELS],
        check: check::int8_matmul,
        profile: profile::int8_matmul,
    },
    Op { name: "nf4", kernels: &[ops::nf4::KERNELS], check: check::nf4, profile: profile::nf4 },
    Op { name: "attention", kernels: &[ops::attention::KERNELS], check: check::attention, profile: profile::attention },
    Op { name: "embedding", kernels: &[ops::embedding::KERNELS], check: check::embedding, profile: profile::embedding },
    Op {
        name: "elementwise",
        kernels: &[ops::elementwise::KERNELS],
        check: check::elementwise,
        profile: profile::elementwise,
    },
    Op { name: "dropout", kernels: &[ops::dropout::KERNELS], check: check::dropout, profile: profile::dropout },
    Op {
        name: "cross_entropy",
        kernels: &[ops::cross_entropy::KERNELS],
        check: check::cross_entropy,
        profile: profile::cross_entropy,
    },
    Op { name: "adamw", kernels: &[ops::adamw::KERNELS], check: check::adamw, profile: profile::adamw },
    Op { name: "grad_norm", kernels: &[ops::grad_norm::KERNELS], check: check::grad_norm, profile: profile::grad_norm },
];

const DTYPES: [DType; 2] = [DType::F32, DType::Bf16];

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    match &args.action {
        Action::List => list(report),
        Action::Check { name, cases, device } => check_all(&chosen(name.as_deref())?, *cases, device, report),
        Action::Profile { name } => profile::run(&chosen(name.as_deref())?, report),
        Action::Model(args) => model::run(args, report),
        Action::Time(args) => time::run(args, report),
    }
}

/// The op of that name, or all.
fn chosen(name: Option<&str>) -> Result<Vec<&'static Op>> {
    let found: Vec<&Op> = OPS.iter().filter(|op| name.is_none_or(|name| op.name == name)).collect();
    if found.is_empty() {
        let names: Vec<&str> = OPS.iter().map(|op| op.name).collect();
        let detail = format!("{} is no op with kernels", name.unwrap_or_default());
        return Err(Error::input("NAME", detail).with_hint(format!("there are {}", names.join(", "))));
    }
    Ok(found)
}

#[derive(Serialize)]
struct Listed {
    op: &'static str,
    kernel: String,
    params: Vec<&'static str>,
}

fn list(report: &Report) -> Result<()> {
    let mut rows = Vec::new();
    let mut files: Vec<&Kernels> = Vec::new();
    for kernels in OPS.iter().flat_map(|op| op.kernels) {
        if files.iter().any(|listed| listed.name == kernels.name) {
            continue;
        }
        files.push(kernels);
        let listed = |(kernel, params)| Listed { op: kernels.name, kernel, params };
        rows.extend(kernels.signatures()?.into_iter().map(listed));
    }
    report.result(&serde_json::json!({ "kernels": rows }), || {
        let line = |row: &Listed| format!("{:<14}{:<30}{}", row.op, row.kernel, row.params.join(" "));
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

/// What the cases of an op in one dtype gave.
#[derive(Serialize)]
struct Checked {
    op: &'static str,
    dtype: String,
    cases: u64,
    /// The largest share of its bound that an error took.
    worst: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

impl std::fmt::Display for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { op, dtype, cases, worst, failure } = self;
        match failure {
            None => write!(f, "{op:<14}{dtype:<6}right in {cases} cases; at most {worst:.2} of the bound"),
            Some(failure) => write!(f, "{op:<14}{dtype:<6}WRONG: {failure}"),
        }
    }
}

/// The device of that name, which has kernels.
fn parse_gpu(device: &str) -> Result<Arc<Cuda>> {
    match device.parse()? {
        Device::Cuda(cuda) => Ok(cuda),
        Device::Cpu => Err(Error::input("--device", "the cpu has no kernels").with_hint("use emulated or cuda")),
    }
}

/// Checks every op; fails after the last if one was wrong.
fn check_all(ops: &[&Op], cases: u64, device: &str, report: &Report) -> Result<()> {
    let device = Device::Cuda(parse_gpu(device)?);
    let mut rows = Vec::new();
    for (op, dtype) in ops.iter().flat_map(|op| DTYPES.map(|dtype| (op, dtype))) {
        let row = check_op(op, dtype, cases, &device);
        if !report.json {
            report.print(&format!("{row}\n"))?;
        }
        rows.push(row);
    }
    if report.json {
        report.result(&serde_json::json!({ "device": device.to_string(), "checks": rows }), String::new)?;
    }
    match rows.iter().filter(|row| row.failure.is_some()).count() {
        0 => Ok(()),
        failed => Err(Error::device(device, format!("{failed} of {} checks failed", rows.len()))),
    }
}

fn check_op(op: &Op, dtype: DType, cases: u64, device: &Device) -> Checked {
    let mut checked = Checked { op: op.name, dtype: dtype.to_string(), cases, worst: 0.0, failure: None };
    for case in 0..cases {
        let mut draw = check::Draw { device, dtype, random: ChaCha8Rng::seed_from_u64(case) };
        let judged = (op.check)(&mut draw).map_err(|e| e.to_string()).and_then(|found| check::judge(&found));
        match judged {
            Ok(share) => checked.worst = checked.worst.max(share),
            Err(failure) => {
                checked.failure = Some(format!("case {case}: {failure}"));
                break;
            }
        }
    }
    checked
}
