use std::sync::Arc;

use vicugna::autograd::Tensor;
use vicugna::device::{Device, Emulated, Emulation, MemoryUse};
use vicugna::dtype::DType;
use vicugna::ops::elementwise::add;
use vicugna::ops::embedding::embedding;

use crate::gpu;

fn with_memory(bytes: usize) -> Device {
    Device::new(Arc::new(Emulated::new(Emulation { memory: bytes, ..Emulation::default() })))
}

fn memory_use(device: &Device) -> MemoryUse {
    let Device::Cuda(cuda) = device else { panic!("{device} is no GPU") };
    cuda.memory_use()
}

#[test]
fn values_survive_the_way_to_a_device_and_back() {
    let device = gpu();
    let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let there = Tensor::from_slice(&Device::Cpu, [10, 100], &x).unwrap().to_device(&device).unwrap();
    assert!(there.device().is_same(&device));
    let elsewhere = there.to_device(&Device::emulated()).unwrap();
    assert_eq!(elsewhere.dims(), [10, 100]);
    assert_eq!(elsewhere.to_vec::<f32>().unwrap(), x);
    assert_eq!(
        Tensor::zeros(&device, DType::Bf16, [3]).unwrap().to_vec::<half::bf16>().unwrap(),
        [half::bf16::ZERO; 3]
    );
    assert!(Tensor::from_slice::<u32>(&device, [0], &[]).unwrap().to_vec::<u32>().unwrap().is_empty());
    let error = there.slice::<f32>().unwrap_err().to_string();
    assert_eq!(error, format!("{device}: a device buffer cannot be read in place; copy it to the cpu first"));
}

#[test]
fn large_uploads_arrive_whole_and_before_the_kernels_that_read_them() {
    let device = gpu();
    // From within what CUDA takes at the call to three pieces of page-locked memory, and back: pieces are used again.
    for n in [100, 16 << 10, (16 << 10) + 1, 1 << 20, (9 << 20) + 3, (4 << 20) + 1, 5 << 20] {
        let x: Vec<f32> = (0..n).map(|i| ((i * 7 + n) % 1000) as f32).collect();
        let there = Tensor::from_slice(&device, [n], &x).unwrap();
        let twice = add(&there, &there).unwrap();
        drop(there);
        let twice = twice.to_vec::<f32>().unwrap();
        assert!(twice.iter().zip(&x).all(|(twice, x)| *twice == 2.0 * x), "of {n} values some are wrong");
    }
}

#[test]
fn memory_is_counted_and_comes_back_on_drop() {
    let device = gpu();
    let x = Tensor::zeros(&device, DType::F32, [1000]).unwrap();
    let y = Tensor::zeros(&device, DType::Bf16, [1000]).unwrap();
    let shared = x.clone();
    assert_eq!(memory_use(&device), MemoryUse { used: 6000, peak: 6000 });
    drop((x, y));
    assert_eq!(memory_use(&device), MemoryUse { used: 4000, peak: 6000 });
    drop(shared);
    assert_eq!(memory_use(&device), MemoryUse { used: 0, peak: 6000 });
}

#[test]
fn rows_are_copied_on_any_device() {
    for device in [Device::Cpu, Device::emulated()] {
        let x = Tensor::from_slice(&device, [4, 3], &(0..12).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
        let middle = x.copy_rows(1..3).unwrap();
        assert_eq!(middle.dims(), [2, 3]);
        assert_eq!(middle.to_vec::<f32>().unwrap(), [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let mut changed = x.clone();
        changed.write_rows(2, &middle).unwrap();
        assert_eq!(changed.to_vec::<f32>().unwrap()[6..], [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(x.to_vec::<f32>().unwrap()[6..], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0], "a clone keeps its values");
        assert!(x.copy_rows(4..4).unwrap().to_vec::<f32>().unwrap().is_empty());
        let refused = |result: vicugna::error::Result<()>| result.unwrap_err().to_string();
        assert_eq!(
            refused(x.copy_rows(3..5).map(|_| ())),
            "tensor: rows 3..5 of [4, 3] do not fit [2, 3] from row 0 on"
        );
        assert_eq!(
            refused(changed.write_rows(3, &middle)),
            "tensor: rows 0..2 of [2, 3] do not fit [4, 3] from row 3 on"
        );
        let bf16 = Tensor::zeros(&device, DType::Bf16, [1, 3]).unwrap();
        assert_eq!(refused(changed.write_rows(0, &bf16)), "tensor: holds bf16, not f32");
    }
    let (mut here, there) = (
        Tensor::zeros(&Device::Cpu, DType::F32, [1, 3]).unwrap(),
        Tensor::zeros(&Device::emulated(), DType::F32, [1, 3]),
    );
    let error = here.write_rows(0, &there.unwrap()).unwrap_err().to_string();
    assert_eq!(error, "cpu: bytes 0..12 of 12 on emulated do not fit byte 0 of 12");
}

#[test]
fn without_room_the_error_says_how_much_was_asked_used_and_free() {
    let device = with_memory(3 << 20);
    let kept = Tensor::zeros(&device, DType::F32, [1 << 18]).unwrap();
    let error = Tensor::zeros(&device, DType::F32, [3 << 18]).unwrap_err();
    assert_eq!(error.to_string(), "emulated: out of memory: asked 3.0 MiB, used 1.0 MiB, free 2.0 MiB");
    assert!(error.hint().is_some_and(|hint| hint.contains("--activation-checkpointing")));
    // The process goes on.
    let sum = add(&kept, &kept).unwrap();
    assert_eq!(sum.to_vec::<f32>().unwrap(), vec![0.0; 1 << 18]);
}

#[test]
fn ids_are_checked_before_any_kernel_reads_them() {
    let device = gpu();
    let weight = Tensor::zeros(&device, DType::F32, [4, 8]).unwrap();
    let ids = Tensor::from_slice(&Device::Cpu, [3], &[1u32, 4, 9]).unwrap().to_device(&device).unwrap();
    let error = embedding(&ids, &weight).unwrap_err().to_string();
    assert_eq!(error, "embedding: id 4 of row 1 is not below the vocabulary's 4");
    let error = embedding(&ids.to_device(&Device::Cpu).unwrap(), &weight).unwrap_err().to_string();
    assert_eq!(error, format!("cpu: embedding: ids must be on {device}"));
}

#[test]
fn two_devices_do_not_mix() {
    let [x, y] = [0, 1].map(|_| Tensor::zeros(&Device::emulated(), DType::F32, [4]).unwrap());
    assert_eq!(add(&x, &y).unwrap_err().to_string(), "emulated: add: b must be on emulated");
}

#[test]
fn a_missing_gpu_is_refused_in_words() {
    // A machine may have one GPU or eight; none has this one.
    let error = Device::cuda(1 << 20).unwrap_err().to_string();
    assert!(error.starts_with("cuda:1048576: "), "{error}");
    let reasons = ["this machine has no NVIDIA driver (libcuda)", "there is no such GPU; this machine has"];
    assert!(reasons.iter().any(|reason| error.contains(reason)), "{error}");
}
