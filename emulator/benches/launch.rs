//! Warp instructions and `mma.sync` a second, with and without checks, and over cores.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_emulator::{Arch, Checks, Counters, Device, Kernel, Launch, Module};

const MICRO: &str = include_str!("../tests/fixtures/micro.ptx");
const MATRIX: &str = include_str!("../tests/fixtures/matrix.ptx");

struct Job {
    kernel: Kernel,
    device: Device,
    args: Vec<u8>,
    grid: [u32; 3],
    block: u32,
}

impl Job {
    fn run(&mut self, checks: bool, threads: usize) -> Counters {
        let checks = Checks { races: checks, poison: checks };
        let launch = Launch {
            grid: self.grid,
            block: [self.block, 1, 1],
            args: &self.args,
            threads,
            checks,
            ..Launch::default()
        };
        self.device.launch(&self.kernel, &launch).unwrap()
    }
}

/// A kernel on an output, an input and numbers.
fn job(text: &str, name: &str, inputs: usize, numbers: &[u32], grid: [u32; 3], block: u32) -> Job {
    let kernel = Module::parse(text).unwrap().kernel(name).unwrap().clone();
    let mut device = Device::new(Arch::Sm80);
    let [out, input] = [(); 2].map(|()| device.alloc(4 << 20).unwrap());
    device.fill(input, &[1], 4 << 20).unwrap();
    let mut args = vec![out.to_le_bytes().to_vec()];
    args.extend((0..inputs).map(|_| input.to_le_bytes().to_vec()));
    args.extend(numbers.iter().map(|number| number.to_le_bytes().to_vec()));
    let args = kernel.pack(&args.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    Job { kernel, device, args, grid, block }
}

fn warp_instructions(c: &mut Criterion) {
    let mut group = c.benchmark_group("warp_instructions");
    for (name, inputs, rounds) in [
        ("fma_loop", 0, 2000),
        ("int_loop", 0, 2000),
        ("divergent", 0, 500),
        ("copy4", 1, 1 << 18),
        ("shared_loop", 0, 200),
    ] {
        let mut job = job(MICRO, name, inputs, &[rounds], [8, 1, 1], 256);
        group.throughput(Throughput::Elements(job.run(false, 1).total_instructions()));
        for checks in [false, true] {
            let id = format!("{name}/{}", if checks { "checked" } else { "unchecked" });
            group.bench_function(id, |b| b.iter(|| job.run(checks, 1)));
        }
    }
    group.finish();
}

fn mma(c: &mut Criterion) {
    let mut group = c.benchmark_group("mma");
    group.sample_size(20);
    for name in ["gemm_bf16", "gemm_s8"] {
        let mut job = job(MATRIX, name, 2, &[512; 3], [8, 8, 1], 128);
        group.throughput(Throughput::Elements(job.run(false, 1).mma));
        for (checks, threads) in [(false, 1), (true, 1), (true, 2)] {
            let id = format!("{name}/{}/{threads}_threads", if checks { "checked" } else { "unchecked" });
            group.bench_function(id, |b| b.iter(|| job.run(checks, threads)));
        }
    }
    group.finish();
}

criterion_group!(benches, warp_instructions, mma);
criterion_main!(benches);
