//! `vicugna devices`: where a model can run.

mod ranks;

use serde::Serialize;

use super::report::Report;
use crate::device::gpus;
use crate::error::Result;
use crate::ops::Instructions;

/// List the devices that --device takes
#[derive(clap::Args)]
pub(super) struct Args {
    /// Tell of the ranks that this was started as, by mpirun or srun: where each is, and how fast they reach each other
    #[arg(long)]
    ranks: bool,
}

#[derive(Serialize)]
struct Row {
    device: String,
    name: String,
    threads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<Instructions>,
    memory_bytes: Option<usize>,
}

pub(super) fn run(args: &Args, report: &Report) -> Result<()> {
    if args.ranks {
        return ranks::run(report);
    }
    let cpu = Row {
        device: "cpu".into(),
        name: std::env::consts::ARCH.into(),
        threads: Some(rayon::current_num_threads()),
        instructions: Some(Instructions::of_this_cpu()),
        memory_bytes: None,
    };
    let gpu = |gpu: crate::device::Gpu| Row {
        device: format!("cuda:{}", gpu.ordinal),
        name: gpu.name,
        threads: None,
        instructions: None,
        memory_bytes: Some(gpu.total_memory),
    };
    let emulated = Row {
        device: "emulated".into(),
        name: "a GPU imitated by the CPU: checks and counts what kernels do".into(),
        threads: None,
        instructions: None,
        memory_bytes: None,
    };
    let rows: Vec<Row> = std::iter::once(cpu).chain(gpus()?.into_iter().map(gpu)).chain([emulated]).collect();
    report.result(&serde_json::json!({ "devices": rows }), || rows.iter().map(describe).collect::<Vec<_>>().join("\n"))
}

fn describe(row: &Row) -> String {
    let threads = row.threads.map(|n| format!(", {n} threads")).unwrap_or_default();
    let memory = row.memory_bytes.map(|n| format!(", {:.1} GiB", n as f64 / f64::from(1 << 30))).unwrap_or_default();
    let instructions = row.instructions.map(|of_cpu| format!(", {of_cpu}")).unwrap_or_default();
    format!("{}: {}{threads}{instructions}{memory}", row.device, row.name)
}
