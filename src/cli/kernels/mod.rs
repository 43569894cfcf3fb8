//! `vicugna kernels`: the CUDA kernels of this build, held against their specification, and what they do, counted.

mod check;
mod profile;

use clap::Subcommand;
use rand::SeedableRng;

use super::model::parse_device;
use super::report::Report;
use crate::device::{Device, Kernels};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops;

/// List, check or profile the CUDA kernels
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
        #[arg(long, default_value_t = 20)]
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
}

/// An op with kernels.
struct Op {
    kernels: &'static Kernels,
    check: check::Case,
    profile: profile::Work,
}

const OPS: &[Op] = &[
    Op { kernels: &ops::rmsnorm::KERNELS, check: check::rmsnorm, profile: profile::rmsnorm },
    Op { kernels: &ops::rope::KERNELS, check: check::rope, profile: profile::rope },
    Op { kernels: &ops::swiglu::KERNELS, check: check::swiglu, profile: profile::swiglu },
    Op { kernels: &ops::embedding::KERNELS, check: check::embedding, profile: profile::embedding },
    Op { kernels: &ops::elementwise::KERNELS, check: check::elementwise, profile: profile::elementwise },
    Op { kernels: &ops::dropout::KERNELS, check: check::dropout, profile: profile::dropout },
    Op { kernels: &ops::adamw::KERNELS, check: check::adamw, profile: profile::adamw },
    Op { kernels: &ops::grad_norm::KERNELS, check: check::grad_norm, profile: profile::grad_norm },
];

const DTYPES: [DType; 2] = [DType::F32, DType::Bf16];

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    match &args.action {
        Action::List => list(report),
        Action::Check { name, cases, device } => check_all(&chosen(name.as_deref())?, *cases, device, report),
        Action::Profile { name } => profile::run(&chosen(name.as_deref())?, report),
    }
}

/// The op of that name, or all.
fn chosen(name: Option<&str>) -> Result<Vec<&'static Op>> {
    let found: Vec<&Op> = OPS.iter().filter(|op| name.is_none_or(|name| op.kernels.name == name)).collect();
    if found.is_empty() {
        let names: Vec<&str> = OPS.iter().map(|op| op.kernels.name).collect();
        let detail = format!("{} is no op with kernels", name.unwrap_or_default());
        return Err(Error::input("NAME", detail).with_hint(format!("there are {}", names.join(", "))));
    }
    Ok(found)
}

fn list(report: &Report) -> Result<()> {
    let mut rows = Vec::new();
    for op in OPS {
        for (kernel, params) in op.kernels.signatures()? {
            rows.push(serde_json::json!({ "op": op.kernels.name, "kernel": kernel, "params": params }));
        }
    }
    report.result(&serde_json::json!({ "kernels": rows }), || {
        let params = |row: &serde_json::Value| row["params"].as_array().map_or(0, Vec::len);
        let line = |row| format!("{:<14}{:<30}{:>3} arguments", text(row, "op"), text(row, "kernel"), params(row));
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn text<'a>(row: &'a serde_json::Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

/// Checks every op; fails after the last if one was wrong.
fn check_all(ops: &[&Op], cases: u64, device: &str, report: &Report) -> Result<()> {
    let device = parse_device(device)?;
    if matches!(device, Device::Cpu) {
        return Err(Error::input("--device", "the cpu has no kernels").with_hint("use emulated or cuda"));
    }
    let mut rows = Vec::new();
    for op in ops {
        for dtype in DTYPES {
            rows.push(check_op(op, dtype, cases, &device)?);
            if let (Some(row), false) = (rows.last(), report.json) {
                report.print(&format!("{}\n", in_words(row)))?;
            }
        }
    }
    let failed = rows.iter().filter(|row| row["failure"].is_string()).count();
    if report.json {
        report.result(&serde_json::json!({ "device": device.to_string(), "checks": rows }), String::new)?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::device(device, format!("{failed} of {} checks failed", rows.len()))),
    }
}

fn check_op(op: &Op, dtype: DType, cases: u64, device: &Device) -> Result<serde_json::Value> {
    let name = op.kernels.name;
    let mut closest = 0f64;
    for case in 0..cases {
        let mut draw = check::Draw { device, dtype, random: rand_chacha::ChaCha8Rng::seed_from_u64(case) };
        let failure = match (op.check)(&mut draw) {
            Ok(found) => check::judge(&found, dtype, &mut closest)?,
            Err(error) => Some(error.to_string()),
        };
        if let Some(failure) = failure {
            let failure = format!("case {case}: {failure}");
            return Ok(serde_json::json!({ "op": name, "dtype": dtype.to_string(), "failure": failure }));
        }
    }
    let row = serde_json::json!({ "op": name, "dtype": dtype.to_string(), "cases": cases, "worst": closest });
    Ok(row)
}

fn in_words(row: &serde_json::Value) -> String {
    let (op, dtype) = (text(row, "op"), text(row, "dtype"));
    match (row["failure"].as_str(), row["worst"].as_f64()) {
        (None, Some(worst)) => {
            format!("{op:<14}{dtype:<6}right in {} cases; at most {worst:.2} of the bound", row["cases"])
        }
        (failure, _) => format!("{op:<14}{dtype:<6}WRONG: {}", failure.unwrap_or_default()),
    }
}
