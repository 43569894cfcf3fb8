//! Times the fixtures.
use ptx_emulator::{Arch, Checks, Device, Launch, Module};
/// CPU seconds of this thread.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn main() {
    let micro = Module::parse(include_str!("../tests/fixtures/micro.ptx")).unwrap();
    let matrix = Module::parse(include_str!("../tests/fixtures/matrix.ptx")).unwrap();
    let only = std::env::args().nth(1);
    for races in [true, false] {
        if only.as_ref().is_some_and(|only| only != &races.to_string()) {
            continue;
        }
        println!("checks {races}");
        let checks = Checks { races, poison: races };
        for (name, n) in
            [("fma_loop", 20000), ("int_loop", 20000), ("copy4", 1 << 20), ("shared_loop", 2000), ("divergent", 5000)]
        {
            if std::env::args().nth(2).is_some_and(|only| only != name) {
                continue;
            }
            let mut device = Device::new(Arch::Sm80);
            let out = device.alloc(16 << 20).unwrap();
            let input = device.alloc(16 << 20).unwrap();
            device.fill(input, &[0], 16 << 20).unwrap();
            let kernel = micro.kernel(name).unwrap().clone();
            let n = n as u32;
            let args = if name == "copy4" {
                kernel.pack(&[&out.to_le_bytes(), &input.to_le_bytes(), &n.to_le_bytes()]).unwrap()
            } else {
                kernel.pack(&[&out.to_le_bytes(), &n.to_le_bytes()]).unwrap()
            };
            let mut best = f64::MAX;
            let mut count = 0;
            for _ in 0..std::env::args().nth(3).map_or(8, |n| n.parse().unwrap()) {
                let launch = Launch {
                    grid: [8, 1, 1],
                    block: [256, 1, 1],
                    args: &args,
                    threads: 1,
                    checks,
                    ..Launch::default()
                };
                let start = cpu();
                let counters = device.launch(&kernel, &launch).unwrap();
                best = best.min(cpu() - start);
                count = counters.total_instructions();
            }
            println!("{name:12} {:8.2} ms {:8.1} M warp/s", best * 1e3, count as f64 / best / 1e6);
        }
        for (name, size, out_bytes) in [("gemm_bf16", 2u64, 4u64), ("gemm_s8", 1, 4)] {
            if std::env::args().nth(2).is_some_and(|only| only != name) {
                continue;
            }
            let n = 512u64;
            let mut device = Device::new(Arch::Sm80);
            let c = device.alloc(n * n * out_bytes).unwrap();
            let a = device.alloc(n * n * size).unwrap();
            device.fill(a, &[1], n * n * size).unwrap();
            let kernel = matrix.kernel(name).unwrap().clone();
            let d = (n as u32).to_le_bytes();
            let args = kernel.pack(&[&c.to_le_bytes(), &a.to_le_bytes(), &a.to_le_bytes(), &d, &d, &d]).unwrap();
            let mut best = f64::MAX;
            let mut counters = Default::default();
            for _ in 0..std::env::args().nth(3).map_or(8, |n| n.parse().unwrap()) {
                let launch = Launch {
                    grid: [8, 8, 1],
                    block: [128, 1, 1],
                    args: &args,
                    threads: 1,
                    checks,
                    ..Launch::default()
                };
                let start = cpu();
                counters = device.launch(&kernel, &launch).unwrap();
                best = best.min(cpu() - start);
            }
            println!(
                "{name:12} {:8.2} ms {:8.1} M warp/s {:.2} M mma/s",
                best * 1e3,
                counters.total_instructions() as f64 / best / 1e6,
                counters.mma as f64 / best / 1e6
            );
        }
    }
}
