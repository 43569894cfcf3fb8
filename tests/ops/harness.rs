//! The tolerance of `docs/numerics.md`, the same for every op, and finite differences.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use half::bf16;
use proptest::prelude::*;
use vicugna::autograd::Tensor;
use vicugna::device::{Arch, Device, Emulated, Emulation};
use vicugna::dtype::{DType, Float};
pub(crate) use vicugna::expected;
use vicugna::reference::Real;
use vicugna::reference::tolerance::Errors;
pub use vicugna::reference::tolerance::Expected;

/// Tests of ops that have kernels, written as in `proptest!`: each runs on every one of [`devices`].
macro_rules! on_devices {
    (@run $device:ident () $body:block) => { $body };
    (@run $device:ident ($($params:tt)+) $body:block) => {
        proptest!($crate::harness::cases(&$device), |($($params)+)| $body)
    };
    ($($(#[$meta:meta])* fn $name:ident $params:tt $body:block)*) => {$(
        $(#[$meta])*
        fn $name() {
            for device in $crate::harness::devices() {
                $crate::harness::on(&device, || on_devices!(@run device $params $body));
            }
        }
    )*};
}
pub(crate) use on_devices;

/// The devices that ops with kernels are tested on: that of `VICUGNA_DEVICE`, by default the CPU and the emulated GPU.
pub fn devices() -> Vec<Device> {
    static CUDA: OnceLock<Device> = OnceLock::new();
    let emulated = || emulated()[0].clone();
    match std::env::var("VICUGNA_DEVICE").as_deref() {
        Err(_) => vec![Device::Cpu, emulated()],
        Ok("cpu") => vec![Device::Cpu],
        Ok("emulated") => vec![emulated()],
        Ok("cuda") => vec![CUDA.get_or_init(|| Device::cuda(0).unwrap()).clone()],
        Ok(other) => panic!("VICUGNA_DEVICE={other}: it takes cpu, emulated or cuda"),
    }
}

/// Emulated GPUs on which no result may differ: with blocks and warps in three orders, on one thread and on two, and with
/// 99 KiB of shared memory for a block where others have 163.
fn emulated() -> &'static [Device; 4] {
    static EMULATED: OnceLock<[Device; 4]> = OnceLock::new();
    let device = |(arch, schedule, threads)| {
        Device::new(Arc::new(Emulated::new(Emulation { arch, schedule, threads, ..Emulation::default() })))
    };
    let ways = [(Arch::Sm80, 0, 1), (Arch::Sm80, 0, 2), (Arch::Sm86, 1, 1), (Arch::Sm89, 2, 2)];
    EMULATED.get_or_init(|| ways.map(device))
}

/// How many cases a test runs on `device`; an emulated GPU is slower.
pub fn cases(device: &Device) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if device.to_string() == "emulated" { default.cases.div_ceil(4) } else { default.cases };
    ProptestConfig { cases, failure_persistence: None, ..default }
}

thread_local! {
    static DEVICE: RefCell<Device> = const { RefCell::new(Device::Cpu) };
}

/// The device that this thread tests: the CPU outside of [`on`].
pub fn device() -> Device {
    DEVICE.with_borrow(Device::clone)
}

/// Runs `f` on `device`.
pub fn on<R>(device: &Device, f: impl FnOnce() -> R) -> R {
    struct Restore(Device);
    impl Drop for Restore {
        fn drop(&mut self) {
            let failed = DEVICE.replace(self.0.clone());
            if std::thread::panicking() {
                eprintln!("this failed on the device {failed}");
            }
        }
    }
    let _restore = Restore(DEVICE.replace(device.clone()));
    f()
}

/// The results of `run` in every way that must not change a bit: on all threads and on one (CPU), in other orders of
/// blocks and on other numbers of threads (emulated), twice (GPU).
pub fn every_way<R: Send>(run: impl Fn() -> R + Sync) -> Vec<R> {
    let mut results = vec![run()];
    match device().to_string().as_str() {
        "cpu" => results.push(rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(&run)),
        "emulated" => results.extend(emulated().iter().map(|device| on(device, &run))),
        _ => results.push(run()),
    }
    results
}

/// Fails unless the tensors of `run` have the same bits [in every way](every_way).
pub fn check_runs<const N: usize>(run: impl Fn() -> [Tensor; N] + Sync) -> Result<(), TestCaseError> {
    let results = every_way(run);
    for again in &results[1..] {
        for (i, (a, b)) in results[0].iter().zip(again).enumerate() {
            check_bits(&format!("result {i} in another order or on other threads"), a, b)?;
        }
    }
    Ok(())
}

/// Both storage types of activations.
pub fn float_dtype() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::Bf16)]
}

/// `n` values of about unit size, as `dtype` stores them, reproducible from `seed`.
pub fn random(seed: u64, n: usize, dtype: DType) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from((state >> 40) as u32) / f64::from(1u32 << 24) * 2.0 - 1.0
    };
    (0..n).map(|_| round(uniform() + uniform() + uniform(), dtype)).collect()
}

/// The nearest value of `dtype`.
pub fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::Bf16 => f64::from(bf16::from_f64(value).to_f32()),
        _ => f64::from(value as f32),
    }
}

/// A tensor on the tested device.
pub fn tensor(values: &[f64], dtype: DType, shape: impl Into<vicugna::shape::Shape>) -> Tensor {
    let f32s: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let built = match dtype {
        DType::Bf16 => {
            let bf16s: Vec<bf16> = f32s.iter().map(|&v| Float::from_f32(v)).collect();
            Tensor::from_slice(&device(), shape, &bf16s)
        }
        _ => Tensor::from_slice(&device(), shape, &f32s),
    };
    built.unwrap()
}

/// The elements of a float tensor.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::Bf16 => tensor.to_vec::<bf16>().unwrap().iter().map(|v| f64::from(v.to_f32())).collect(),
        _ => tensor.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect(),
    }
}

/// Values as another kind of number.
pub fn cast<R: Real>(values: &[f64]) -> Vec<R> {
    values.iter().map(|&v| R::from_f64(v)).collect()
}

/// Fails unless the largest error of `found` is at most twice that of the formula evaluated left to right in f32 and
/// stored as `found` is, plus 2 ulp of the largest sum of |terms|.
pub fn check(what: &str, found: &Tensor, expected: &Expected) -> Result<(), TestCaseError> {
    check_as(what, found, found.dtype(), expected)
}

/// Fails as [`check`] does, where the operands were rounded to `dtype` on the way to a result that is stored in more.
pub fn check_as(what: &str, found: &Tensor, dtype: DType, expected: &Expected) -> Result<(), TestCaseError> {
    let found = values(found);
    prop_assert_eq!(found.len(), expected.exact.len(), "{}: number of elements", what);
    let digits = if dtype == DType::Bf16 { 7 } else { 23 };
    let errors = expected.errors(&found, |v| round(v, dtype), digits);
    let Errors { worst, bound } = errors;
    prop_assert!(errors.within(), "{what}: error {worst:e} above the bound {bound:e} ({dtype})");
    Ok(())
}

/// Compares `gradient` with central differences of `sum(dy * f(x))`.
pub fn gradcheck(what: &str, x: &[f64], dy: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) {
    let objective = |x: &[f64]| f(x).iter().zip(dy).map(|(y, dy)| y * dy).sum::<f64>();
    assert_eq!(x.len(), gradient.len(), "{what}: number of elements");
    for i in 0..x.len() {
        let step = 1e-5 * x[i].abs().max(1.0);
        let (mut up, mut down) = (x.to_vec(), x.to_vec());
        up[i] += step;
        down[i] -= step;
        let numeric = (objective(&up) - objective(&down)) / (2.0 * step);
        let scale = numeric.abs().max(gradient[i].abs()).max(1.0);
        assert!((numeric - gradient[i]).abs() <= 1e-7 * scale, "{what}[{i}]: {} is not {numeric}", gradient[i]);
    }
}

/// Fails unless two tensors have the same bits.
pub fn check_bits(what: &str, a: &Tensor, b: &Tensor) -> Result<(), TestCaseError> {
    let (a, b) = (a.to_device(&Device::Cpu).unwrap(), b.to_device(&Device::Cpu).unwrap());
    prop_assert!(a.buffer().unwrap().host().unwrap() == b.buffer().unwrap().host().unwrap(), "{}: bits differ", what);
    Ok(())
}
