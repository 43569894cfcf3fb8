//! How long the kernels take at the widths of Llama-3-8B, beside what the same GPU takes to copy memory.

use std::sync::Arc;

use serde::Serialize;

use super::profile::Cost;
use super::{DTYPES, Op, parse_gpu};
use crate::cli::report::Report;
use crate::device::{Device, Timed, TimedLaunch};
use crate::error::Result;

/// One launch.
#[derive(Serialize)]
struct Row {
    op: &'static str,
    dtype: String,
    kernel: String,
    milliseconds: f64,
    /// Those that must cross the memory's bus.
    bytes: usize,
    /// Of what a copy reaches on this device.
    share_of_copy: f64,
}

/// Times `ops` on `rows` tokens.
pub(super) fn run(ops: &[&Op], device: &str, rows: usize, report: &Report) -> Result<()> {
    let timed = Arc::new(Timed::new(&*parse_gpu(device)?));
    let device = Device::new(timed.clone());
    let copied = rows << 16;
    let copy = 2.0 * copied as f64 / timed.time_copy(&device, copied)?;
    let mut table = Vec::new();
    for (op, dtype) in ops.iter().flat_map(|op| DTYPES.map(|dtype| (op, dtype))) {
        let costs = (op.profile)(&device, dtype, rows)?;
        let row = |(launch, cost): (TimedLaunch, Cost)| Row {
            op: op.kernels.name,
            dtype: dtype.to_string(),
            kernel: launch.kernel,
            milliseconds: 1e3 * launch.seconds,
            bytes: cost.moved,
            share_of_copy: cost.moved as f64 / launch.seconds / copy,
        };
        table.extend(timed.take_times().into_iter().zip(costs).map(row));
    }
    let json = serde_json::json!({
        "device": device.to_string(), "rows": rows, "copy_gb_per_s": copy / 1e9, "launches": table,
    });
    report.result(&json, || {
        let head = format!("{rows} tokens; a copy moves {:.1} GB/s\n{HEAD}", copy / 1e9);
        std::iter::once(head).chain(table.iter().map(line)).collect::<Vec<_>>().join("\n")
    })
}

const HEAD: &str = "kernel                                 ms      GB/s   of a copy";

fn line(row: &Row) -> String {
    let rate = row.bytes as f64 / row.milliseconds / 1e6;
    format!("{:<30}{:>11.4} {rate:>9.1} {:>10.0}%", row.kernel, row.milliseconds, 100.0 * row.share_of_copy)
}
