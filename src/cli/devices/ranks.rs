//! `vicugna devices --ranks`: what a run that is started the same way would be made of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cli::processes::{Processes, processes};
use crate::cli::report::Report;
use crate::device::{Buffer, Device, gpus};
use crate::error::Result;
use crate::ops::Instructions;
use crate::parallel::{Communicator, launch, threads};

/// How long a rank waits for another.
const LIMIT: Duration = Duration::from_secs(60);

/// What each rank gives in the exchange that is timed.
const BYTES: usize = 16 << 20;

/// One rank.
#[derive(Serialize, Deserialize)]
struct Row {
    rank: usize,
    host: String,
    device: String,
    instructions: String,
    threads: usize,
}

pub(super) fn run(report: &Report) -> Result<()> {
    let (communicator, local, launcher) = match processes(None, LIMIT)? {
        Processes::One => (threads(1, LIMIT).swap_remove(0), (0, 1), "none: one process".to_string()),
        #[cfg(feature = "mpi")]
        Processes::Of(job) => {
            let local = job.local();
            let launcher = launch::launched().map_or("mpi".into(), |(size, name)| format!("{name}={size}"));
            (job as Arc<dyn Communicator>, local, launcher)
        }
    };
    let told = tell(&communicator, local, &launcher, report);
    if let Err(error) = &told {
        communicator.abort(&error.to_string(), 1);
    }
    communicator.leave();
    told
}

fn tell(
    communicator: &Arc<dyn Communicator>,
    (local, on_host): (usize, usize),
    launcher: &str,
    report: &Report,
) -> Result<()> {
    let gpu = gpus()?.into_iter().nth(local);
    let row = Row {
        rank: communicator.rank(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or("this host".into(), |name| name.trim().into()),
        device: gpu.map_or("cpu".into(), |gpu| format!("cuda:{} {}", gpu.ordinal, gpu.name)),
        instructions: Instructions::of_this_cpu().to_string(),
        threads: (launch::cores() / on_host.max(1)).max(1),
    };
    let rows = communicator.gather("what each rank is", &row)?;
    let (seconds, checksum) = exchange(communicator)?;
    let checksums = communicator.gather("checksums", &checksum)?;
    if communicator.rank() > 0 {
        return Ok(());
    }
    let ranks = rows.len();
    let bytes_per_second = (ranks > 1).then(|| (BYTES * (ranks - 1)) as f64 / seconds);
    let are_alike = checksums.iter().all(|other| *other == checksum);
    let found = serde_json::json!({
        "launcher": launcher, "ranks": rows, "all_gather_bytes_per_second": bytes_per_second, "checksums_alike": are_alike,
    });
    report.result(&found, || {
        let line = |row: &Row| {
            let Row { rank, host, device, instructions, threads } = row;
            format!("rank {rank} on {host}: {device}, {threads} threads, {instructions}")
        };
        let speed = bytes_per_second.map_or("nothing to gather".into(), |speed| {
            format!("all-gather: {:.2} GB/s received by each rank", speed / 1e9)
        });
        let alike = if are_alike { "the same bytes on all ranks" } else { "OTHER BYTES ON SOME RANKS" };
        let rows: Vec<String> = rows.iter().map(line).collect();
        format!("launcher: {launcher}\n{}\n{speed}, {alike}", rows.join("\n"))
    })
}

/// Gathers some bytes from all ranks: the time that the second time takes, and the checksum of what came.
fn exchange(communicator: &Arc<dyn Communicator>) -> Result<(f64, u32)> {
    let bytes: Vec<u8> = (0..BYTES).map(|i| (i * 31 + communicator.rank() * 7) as u8).collect();
    let mine = Arc::new(Buffer::from_bytes(&Device::Cpu, &bytes)?);
    let lengths = vec![vec![BYTES]; communicator.world_size()];
    let mut found = (0.0, 0);
    for _ in 0..2 {
        communicator.gather("the start", &())?;
        let begun = Instant::now();
        let parts = communicator.all_gather("bytes", vec![mine.clone()], &lengths)?.wait()?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut checksum = crc32fast::Hasher::new();
        for part in parts.iter().flatten() {
            checksum.update(part.host()?);
        }
        found = (seconds, checksum.finalize());
    }
    Ok(found)
}
