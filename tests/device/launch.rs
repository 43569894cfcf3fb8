use std::sync::Arc;

use vicugna::autograd::{Tensor, backward_from};
use vicugna::device::{Arch, Arg, Device, Driver, Emulated, Emulation, Kernels, Launch, Timed};
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::ops::elementwise::{add, cast};

use crate::gpu;

/// Writes `value` to `out[i]`, for each thread `i` of one block, whatever the length of `out`.
const FILL: Kernels = Kernels {
    name: "fill",
    ptx: ".version 8.0
.target sm_80
.address_size 64
.visible .entry fill(.param .u64 out, .param .f32 value)
{
    .reg .b32 %r<2>; .reg .f32 %f<2>; .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.param.f32 %f1, [value];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.f32 [%rd3], %f1;
    ret;
}
",
};

fn launch(device: &Device, grid: usize, block: usize, args: &[Arg]) -> Result<()> {
    FILL.launch(device, &Launch { kernel: "fill", grid: [grid, 1, 1], block, shared: 0, args })
}

#[test]
fn a_kernel_fills_a_tensor_that_only_it_sees() {
    let device = gpu();
    let mut x = Tensor::zeros(&device, DType::F32, [3]).unwrap();
    let before = x.clone();
    launch(&device, 1, 3, &[x.as_output().unwrap(), Arg::F32(2.5)]).unwrap();
    assert_eq!(x.to_vec::<f32>().unwrap(), [2.5; 3]);
    assert_eq!(before.to_vec::<f32>().unwrap(), [0.0; 3], "shared memory was written");
    launch(&device, 0, 3, &[x.as_output().unwrap(), Arg::F32(7.0)]).unwrap();
    assert_eq!(x.to_vec::<f32>().unwrap(), [2.5; 3], "a grid of no blocks ran");
}

#[test]
fn arguments_are_held_against_the_param_list() {
    let device = gpu();
    let mut x = Tensor::zeros(&device, DType::F32, [3]).unwrap();
    let out = x.as_output().unwrap();
    let refused = |args: &[Arg]| launch(&device, 1, 3, args).unwrap_err().to_string();
    assert_eq!(refused(&[out]), format!("{device}: fill: takes 2 arguments, got 1"));
    assert_eq!(refused(&[out, Arg::I32(1)]), format!("{device}: fill: argument 1 is F32, got I32(1)"));
    assert_eq!(refused(&[Arg::F32(1.0), out]), format!("{device}: fill: argument 0 is Bits64, got F32(1.0)"));
    let error = FILL.launch(&device, &Launch { kernel: "empty", grid: [1; 3], block: 1, shared: 0, args: &[] });
    assert_eq!(error.unwrap_err().to_string(), format!("{device}: empty: there is no such kernel"));
    let error = launch(&Device::Cpu, 1, 3, &[out, Arg::F32(1.0)]).unwrap_err().to_string();
    assert_eq!(error, "cpu: fill: a kernel needs a GPU");
    let error = launch(&device, 1, 2000, &[out, Arg::F32(1.0)]).unwrap_err().to_string();
    assert_eq!(error, format!("{device}: fill: no GPU has [1, 1, 1] blocks of 2000 threads with 0 shared bytes"));
}

#[test]
fn what_a_kernel_must_not_do_names_it_and_the_place() {
    let device = Device::emulated();
    let mut x = Tensor::zeros(&device, DType::F32, [3]).unwrap();
    let error = launch(&device, 1, 4, &[x.as_output().unwrap(), Arg::F32(1.0)]).unwrap_err().to_string();
    assert!(error.starts_with("emulated: fill: writes 4 bytes at 0x"), "{error}");
    assert!(error.ends_with("at PTX line 12, block (0, 0, 0), warp 0, lane 3"), "{error}");
    // A kernel may not write what is called an input, and the device goes on after a trap.
    let error = launch(&device, 1, 3, &[x.as_input().unwrap(), Arg::F32(1.0)]).unwrap_err().to_string();
    assert!(error.contains("read-only"), "{error}");
    launch(&device, 1, 3, &[x.as_output().unwrap(), Arg::F32(4.0)]).unwrap();
    assert_eq!(x.to_vec::<f32>().unwrap(), [4.0; 3]);
}

#[test]
fn gradients_of_a_tensor_used_twice_are_added_on_its_device() {
    for dtype in [DType::F32, DType::Bf16] {
        let x = cast(&Tensor::from_slice(&gpu(), [3], &[1f32, 2.0, 3.0]).unwrap(), dtype).unwrap();
        let x = x.with_grad();
        let y = add(&x, &x).unwrap();
        let gradients = backward_from([(&y, x.detach())]).unwrap();
        let dx = gradients.get(&x).unwrap();
        assert!(dx.device().is_same(&x.device()));
        assert_eq!(cast(dx, DType::F32).unwrap().to_vec::<f32>().unwrap(), [2.0, 4.0, 6.0]);
    }
}

#[test]
fn a_malformed_module_names_its_file() {
    let broken = Kernels { name: "broken", ptx: ".version 8.0\n.target sm_80\n.bogus" };
    let device = gpu();
    let error = broken.launch(&device, &Launch { kernel: "k", grid: [1; 3], block: 1, shared: 0, args: &[] });
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{device}: ptx/broken.ptx: ")) && error.contains("line 3"), "{error}");
}

#[test]
fn what_compiles_a_module_says_which_line_it_refuses() {
    let device = gpu();
    let Device::Cuda(cuda) = &device else { panic!("{device} is no GPU") };
    let driver = Timed::new(cuda);
    let error = driver.load(".version 8.0\n.target sm_80\n.bogus").unwrap_err().to_string();
    assert!(error.starts_with(&device.to_string()) && error.contains("line 3"), "{error}");
    driver.load(FILL.ptx).unwrap();
}

#[test]
fn launches_are_counted_where_that_was_asked_for() {
    let emulated = Arc::new(Emulated::new(Emulation { profile: true, ..Emulation::default() }));
    let device = Device::new(emulated.clone());
    let mut x = Tensor::zeros(&device, DType::F32, [40]).unwrap();
    launch(&device, 1, 40, &[x.as_output().unwrap(), Arg::F32(1.0)]).unwrap();
    let profile = emulated.take_profile();
    assert_eq!(profile.len(), 1);
    assert_eq!((profile[0].kernel.as_str(), profile[0].grid, profile[0].block), ("fill", [1, 1, 1], 40));
    assert_eq!(profile[0].counters.global_store_bytes, 160);
    assert!(emulated.take_profile().is_empty());
}

#[test]
fn an_emulated_gpu_has_the_limits_of_its_architecture() {
    let fill = |arch, shared| {
        let device = Device::new(Arc::new(Emulated::new(Emulation { arch, ..Emulation::default() })));
        let mut x = Tensor::zeros(&device, DType::F32, [3])?;
        let args = [x.as_output()?, Arg::F32(1.0)];
        FILL.launch(&device, &Launch { kernel: "fill", grid: [1, 1, 1], block: 3, shared, args: &args })
    };
    fill(Arch::Sm80, 120 << 10).unwrap();
    for arch in [Arch::Sm86, Arch::Sm89] {
        fill(arch, 99 << 10).unwrap();
        let error = fill(arch, 120 << 10).unwrap_err().to_string();
        assert!(error.contains("shared memory"), "{error}");
    }
}
