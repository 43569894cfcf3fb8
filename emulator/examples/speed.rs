//! Times the micro-kernels and products of `tests/fixtures`: millions of warp instructions and of `mma.sync` a second,
//! surrounding code included, best of several launches. One thread is timed by its own processor time, with and without
//! checks; two by wall time, with checks. `speed NAME` runs one kernel alone.

use ptx_emulator::{Arch, Checks, Counters, Device, Kernel, Launch, Module};
use std::time::Instant;

/// Seconds that this thread has run, where the system tells.
fn processor_time() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

struct Job {
    name: &'static str,
    kernel: Kernel,
    device: Device,
    args: Vec<u8>,
    grid: [u32; 3],
    block: u32,
}

/// A loop of `micro.ptx` over `n` rounds, or a copy of `n` times 16 bytes.
fn micro(name: &'static str, n: u32) -> Result<Job, Box<dyn std::error::Error>> {
    let module = Module::parse(include_str!("../tests/fixtures/micro.ptx"))?;
    let kernel = module.kernel(name).ok_or("no such kernel")?.clone();
    let mut device = Device::new(Arch::Sm80);
    let out = device.alloc(16 << 20)?.to_le_bytes();
    let input = device.alloc(16 << 20)?;
    device.fill(input, &[0], 16 << 20)?;
    let (input, n) = (input.to_le_bytes(), n.to_le_bytes());
    let args = if name == "copy4" { kernel.pack(&[&out, &input, &n])? } else { kernel.pack(&[&out, &n])? };
    Ok(Job { name, kernel, device, args, grid: [8, 1, 1], block: 256 })
}

/// A product of two square matrices of 512.
fn product(name: &'static str, bytes: u64) -> Result<Job, Box<dyn std::error::Error>> {
    let module = Module::parse(include_str!("../tests/fixtures/matrix.ptx"))?;
    let kernel = module.kernel(name).ok_or("no such kernel")?.clone();
    let mut device = Device::new(Arch::Sm80);
    let (c, a) = (device.alloc(512 * 512 * 4)?, device.alloc(512 * 512 * bytes)?);
    device.fill(a, &[1], 512 * 512 * bytes)?;
    let (c, a, n) = (c.to_le_bytes(), a.to_le_bytes(), 512u32.to_le_bytes());
    let args = kernel.pack(&[&c, &a, &a, &n, &n, &n])?;
    Ok(Job { name, kernel, device, args, grid: [8, 8, 1], block: 128 })
}

/// Launches of one sample: a thread's time is told in ticks of the scheduler, so a sample must be long.
const SAMPLE: u32 = 8;

/// The seconds of a launch, in the shortest of several samples, and what one counts.
fn time(job: &mut Job, checks: Checks, threads: usize) -> Result<(f64, Counters), Box<dyn std::error::Error>> {
    let (mut best, mut counters) = (f64::MAX, Counters::default());
    for _ in 0..6 {
        let launch =
            Launch { grid: job.grid, block: [job.block, 1, 1], args: &job.args, threads, checks, ..Launch::default() };
        let (start, wall) = (processor_time(), Instant::now());
        for _ in 0..SAMPLE {
            counters = job.device.launch(&job.kernel, &launch)?;
        }
        let wall = wall.elapsed().as_secs_f64();
        let own = start.and_then(|start| Some(processor_time()? - start));
        best = best.min(if threads == 1 { own.unwrap_or(wall) } else { wall });
    }
    Ok((best / f64::from(SAMPLE), counters))
}

/// Prints rates of one kind: unchecked, checked, what the checks cost, checked on two threads, and the gain of the second.
fn print(name: &str, count: u64, [plain, checked, two]: [f64; 3]) {
    let rate = |seconds: f64| count as f64 / seconds / 1e6;
    let (cost, gain) = (checked / plain, checked / two);
    println!("{name:<24}{:>12.2}{:>12.2}{cost:>8.2}{:>14.2}{gain:>8.2}", rate(plain), rate(checked), rate(two));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut jobs = vec![micro("fma_loop", 10_000)?, micro("int_loop", 5000)?, micro("divergent", 5000)?];
    jobs.extend([micro("copy4", 1 << 20)?, micro("shared_loop", 2000)?]);
    jobs.extend([product("gemm_bf16", 2)?, product("gemm_s8", 1)?]);
    println!("{:<24}{:>12}{:>12}{:>8}{:>14}{:>8}", "", "unchecked", "checked", "cost", "two threads", "gain");
    let only = std::env::args().nth(1);
    for job in jobs.iter_mut().filter(|job| only.as_ref().is_none_or(|only| only == job.name)) {
        let (plain, counters) = time(job, Checks { races: false, poison: false }, 1)?;
        let times = [plain, time(job, Checks::default(), 1)?.0, time(job, Checks::default(), 2)?.0];
        print(&format!("{}: M inst/s", job.name), counters.total_instructions(), times);
        if counters.mma > 0 {
            print(&format!("{}: M mma/s", job.name), counters.mma, times);
        }
    }
    Ok(())
}
