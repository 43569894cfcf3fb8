//! The project's own kernels and Triton's on the emulator: right over ragged shapes in any order of blocks and warps; and,
//! broken in every way that a kernel breaks, told.

mod attention;
mod case;
mod catalogue;
mod cross_entropy;
mod gemm;
#[path = "../suite/harness.rs"]
#[allow(dead_code, reason = "shared with the suite")]
mod harness;
mod int8_matmul;
mod lora;
mod matmul;
mod mutants;
mod nf4_matmul;
mod quantize;
mod tensors;
mod triton;
#[path = "../vectors/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the suite")]
mod vectors;

use case::{Case, Failure};

/// Every case, by threads of this machine.
fn in_parallel<C: Sync, T: Send>(cases: &[C], run: impl Fn(&C) -> T + Sync) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((at, case)) = Some(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    .and_then(|at| Some((at, cases.get(at)?)))
                {
                    let result = run(case);
                    done.lock().unwrap().push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn every_kernel_has_a_case() {
    let cases = catalogue::all();
    for text in catalogue::FILES {
        for kernel in ptx_emulator::Module::parse(text).unwrap().kernels() {
            assert!(cases.iter().any(|case| case.entry == kernel.name()), "no case of {}", kernel.name());
        }
    }
}

/// How many launches of a kernel are kept for a GPU: all of them would be too much to carry there.
const KEPT: usize = 1;

#[test]
fn kernels_are_right_in_any_order() {
    let mut counts = std::collections::HashMap::<String, usize>::new();
    let mut number = |case: Case| {
        let count = counts.entry(case.entry.clone()).or_default();
        *count += 1;
        (case, *count)
    };
    let cases: Vec<_> = catalogue::all().into_iter().map(&mut number).collect();
    in_parallel(&cases, |(case, number)| {
        let (first, counters) =
            case.run(&case.ptx, 0, None).unwrap_or_else(|failure| panic!("{}: {failure}", case.name));
        if *number <= KEPT {
            vectors::keep(|| case.vector(&first));
        }
        for seed in 1..4 {
            match case.run(&case.ptx, seed, None) {
                Ok((bytes, counts)) => {
                    assert!(bytes == first, "{}: other bits with seed {seed}", case.name);
                    assert_eq!(counts, counters, "{}: other counts with seed {seed}", case.name);
                }
                Err(Failure::Trap(trap)) => panic!("{}: {trap}", case.name),
                Err(failure) => panic!("{}: {failure}", case.name),
            }
        }
    });
}

#[test]
fn a_gpu_made_the_same() {
    vectors::replay(|| {
        in_parallel(&catalogue::all(), |case| {
            let run = case.run(&case.ptx, 0, None);
            run.map_or_else(|failure| panic!("{}: {failure}", case.name), |(outputs, _)| case.vector(&outputs))
        })
    });
}
