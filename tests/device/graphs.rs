//! Work that recurs as a CUDA graph, and what it refuses. The emulator has no graphs: there the same work runs as ever.

use std::process::Command;

use vicugna::autograd::Tensor;
use vicugna::device::{Buffer, Device, Graphs, MemoryUse};
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::ops::elementwise::add;

use crate::gpu;

/// A device that uses graphs, and whether it has any.
fn with_graphs() -> (Device, bool) {
    let device = gpu();
    let has = device.use_graphs().is_none();
    assert_eq!(has, device.to_string().starts_with("cuda"));
    (device, has)
}

fn memory_use(device: &Device) -> MemoryUse {
    let Device::Cuda(cuda) = device else { panic!("{device} is no GPU") };
    cuda.memory_use()
}

/// Four times the numbers from `first` on: an upload, a copy, kernels, zeros, memory that goes and memory that stays.
fn fourfold(device: &Device, first: usize, n: usize) -> Result<Tensor> {
    let x: Vec<f32> = (first..first + n).map(|i| i as f32).collect();
    let x = Tensor::from_slice(device, [n, 1], &x)?;
    let mut twice = add(&x, &x)?;
    let zeros = add(&Tensor::zeros(device, DType::F32, [n, 1])?, &twice)?;
    drop(x);
    twice.write_rows(0, &zeros.copy_rows(0..n / 2)?)?;
    add(&twice, &zeros)
}

/// That the numbers are four times those from `first` on.
fn assert_fourfold(found: &Tensor, first: usize, n: usize) {
    let expected: Vec<f32> = (first..first + n).map(|i| 4.0 * i as f32).collect();
    assert!(found.to_vec::<f32>().unwrap() == expected, "the numbers from {first} on are wrong");
}

#[test]
fn what_recurs_is_one_launch_and_what_it_leaves_can_be_used() {
    let (device, has) = with_graphs();
    let mut graphs = Graphs::new(&device);
    // The second size goes in pieces to the device where it is not recorded.
    for (kind, n) in [1000, 40_000].into_iter().enumerate() {
        let empty = memory_use(&device);
        assert_eq!(empty.used, 0);
        let mut peaks = Vec::new();
        for first in [1, 50, 7, 3, 1000] {
            let found = graphs.run(n, || fourfold(&device, first, n)).unwrap();
            assert_fourfold(&found, first, n);
            peaks.push(memory_use(&device).peak);
            assert_eq!(memory_use(&device).used, 4 * n);
        }
        assert!(peaks.iter().all(|peak| *peak == peaks[0] && *peak > 4 * n), "{peaks:?}");
        assert_eq!(graphs.launches(), has.then_some(4 * (kind as u64 + 1)));
    }
    assert_eq!(memory_use(&device).used, 0);
}

#[test]
fn while_an_earlier_result_is_held_kernels_run_one_by_one() {
    let (device, has) = with_graphs();
    let mut graphs = Graphs::new(&device);
    let mut run = |first| graphs.run("fourfold", || fourfold(&device, first, 100)).unwrap();
    drop(run(1));
    let held = run(2);
    let (also, third) = (run(3), run(4));
    assert_fourfold(&held, 2, 100);
    assert_fourfold(&also, 3, 100);
    assert_fourfold(&third, 4, 100);
    drop(held);
    assert_fourfold(&run(5), 5, 100);
    assert_eq!(graphs.launches(), has.then_some(2));
    assert_fourfold(&third, 4, 100);
}

#[test]
fn memory_from_before_may_be_dropped_within() {
    let (device, _) = with_graphs();
    let mut graphs = Graphs::new(&device);
    for first in 0..4 {
        let before = fourfold(&device, first, 100).unwrap();
        let sum = graphs.run("sum", || {
            let sum = add(&before, &before)?;
            drop(before);
            add(&sum, &sum)
        });
        let expected: Vec<f32> = (first..first + 100).map(|i| 16.0 * i as f32).collect();
        assert_eq!(sum.unwrap().to_vec::<f32>().unwrap(), expected);
    }
    assert_eq!(memory_use(&device).used, 0);
}

#[test]
fn other_work_under_the_same_name_is_refused_and_nothing_is_lost() {
    let (device, has) = with_graphs();
    let mut graphs = Graphs::new(&device);
    let mut run = |first, n| graphs.run("fourfold", || fourfold(&device, first, n));
    (1..4).for_each(|first| assert_fourfold(&run(first, 100).unwrap(), first, 100));
    let other = run(4, 104).map_err(|error| error.to_string());
    if has {
        let refused =
            "the work is not that of its CUDA graph: call 0 allocates 416 bytes, where the work allocates 400 bytes";
        assert_eq!(other.unwrap_err(), format!("{device}: {refused}"));
    } else {
        assert_fourfold(&other.unwrap(), 4, 104);
    }
    (1..4).for_each(|first| assert_fourfold(&run(first, 100).unwrap(), first, 100));
    let mut added = |times| {
        let work = || (0..times).try_fold(fourfold(&device, 1, 100)?, |x, _| add(&x, &x));
        graphs.run("added", work).map(drop).map_or_else(|error| error.to_string(), |()| "done".into())
    };
    let refused = |detail: &str| match has {
        true => format!("{device}: the work is not that of its CUDA graph: {detail}"),
        false => "done".into(),
    };
    let longer = refused("call 24 allocates 400 bytes, where the work had ended");
    let shorter = refused("it ends where the work allocates 400 bytes");
    let found = [2, 2, 2, 3, 2, 2, 0, 2].map(&mut added);
    assert_eq!(found, ["done", "done", "done", &longer, "done", "done", &shorter, "done"]);
    assert_eq!(memory_use(&device).used, 0);
}

#[test]
fn work_that_waits_or_fails_leaves_the_device_as_it_was() {
    let (device, has) = with_graphs();
    let mut graphs = Graphs::new(&device);
    for round in 0..4 {
        let read = graphs.run("reads", || fourfold(&device, 1, 100)?.to_vec::<f32>());
        match read {
            Err(error) if has && round > 0 => {
                let refused = "the work is not that of its CUDA graph: bytes are read back within it";
                assert_eq!(error.to_string(), format!("{device}: {refused}"));
            }
            read => assert_eq!(read.unwrap()[..2], [4.0, 8.0]),
        }
        let failed = graphs.run("fails", || {
            let x = fourfold(&device, 1, 100)?;
            add(&x, &fourfold(&device, 1, 50)?)
        });
        assert!(failed.unwrap_err().to_string().starts_with("add: "));
        assert_fourfold(&fourfold(&device, 3, 100).unwrap(), 3, 100);
    }
    assert_eq!(memory_use(&device).used, 0);
}

#[test]
fn of_more_shapes_than_are_kept_some_stay_until_they_are_old() {
    let (device, has) = with_graphs();
    let mut graphs = Graphs::new(&device);
    let mut round = |times, shapes: std::ops::Range<usize>| {
        for first in (0..times).flat_map(|_| shapes.clone()) {
            let n = 10 + first % 100;
            assert_fourfold(&graphs.run((n, first), || fourfold(&device, first, n)).unwrap(), first, n);
        }
        graphs.launches().unwrap_or(0)
    };
    // Of 70 shapes, 64 are kept; a new one has to wait until the oldest was not used for 1024 times.
    let counts = [round(3, 0..70), round(2, 100..101), round(1100, 0..1), round(1, 100..101)];
    assert_eq!(counts, if has { [128, 128, 1228, 1229] } else { [0; 4] });
}

/// In a process of its own, since it takes all memory there is: on the driver library 256 MiB.
#[test]
fn without_room_for_all_of_it_the_error_is_the_usual_one() {
    if with_graphs().1 {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "graphs::takes_all_memory", "--ignored"]);
        let output = program.env("VICUGNA_EMULATED_MEMORY", "268435456").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}

#[test]
#[ignore = "a program: the test above starts it"]
fn takes_all_memory() {
    let ((device, _), n) = (with_graphs(), 3 << 20);
    let mut graphs = Graphs::new(&device);
    let mut work = || graphs.run("large", || fourfold(&device, 1, n)).map(drop);
    let Device::Cuda(cuda) = &device else { unreachable!() };
    work().unwrap();
    cuda.synchronize().unwrap();
    let (mut all, mut bytes) = (Vec::new(), 1 << 40);
    while bytes >= 1 << 20 {
        match Buffer::uninit(&device, bytes) {
            Ok(taken) => all.push(taken),
            Err(_) => bytes /= 2,
        }
    }
    for _ in 0..2 {
        let error = work().unwrap_err();
        let text = format!("{device}: out of memory: asked 48.0 MiB, used ");
        assert!(error.to_string().starts_with(&text) && error.hint().is_some(), "{error}");
    }
    drop(all);
    cuda.synchronize().unwrap();
    (0..3).for_each(|_| work().unwrap());
    assert_eq!(graphs.launches(), Some(3));
}
