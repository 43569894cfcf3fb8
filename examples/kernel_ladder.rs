//! Four kernels for one product of matrices, from naive to the one that training runs on, checked and counted on the
//! emulated device: a ladder for those who study kernels. No GPU is needed.
//!
//!     cargo run --example kernel_ladder
//!
//! The first three rungs stand in `cuda/ladder/`, each with its contract and what it teaches; the fourth is
//! `matmul_nt_bf16_128` of `cuda/matmul.cu`, whose main loop is `cuda/gemm.cuh`.

use std::sync::Arc;

use vicugna::autograd::Tensor;
use vicugna::device::{Arg, Device, Emulated, Emulation, Kernels, Launch, Profiled};
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::kernels;
use vicugna::ops::elementwise::cast;

/// `out [M, N] = a [M, K] · (b [N, K])ᵀ`, of bf16 in f32.
#[derive(Clone, Copy)]
struct Sizes {
    m: usize,
    n: usize,
    k: usize,
}

/// One kernel: its file in `ptx/`, its name, a block's threads, and the rows and columns of the result that a block makes.
struct Rung {
    kernels: Kernels,
    kernel: &'static str,
    block: usize,
    tile: [usize; 2],
}

const RUNGS: [Rung; 4] = [
    Rung { kernels: kernels!("ladder/1_naive"), kernel: "gemm_naive", block: 256, tile: [1, 256] },
    Rung { kernels: kernels!("ladder/2_tiled"), kernel: "gemm_tiled", block: 1024, tile: [32, 32] },
    Rung { kernels: kernels!("ladder/3_tensor_cores"), kernel: "gemm_tensor_cores", block: 128, tile: [64, 64] },
    Rung { kernels: kernels!("matmul"), kernel: REAL, block: 128, tile: [128, 128] },
];
const REAL: &str = "matmul_nt_bf16_128";

impl Rung {
    /// Computes `out` as the kernel's launch contract says.
    fn launch(&self, out: &mut Tensor, a: &Tensor, b: &Tensor, sizes: Sizes) -> Result<()> {
        let [down, across] = [sizes.m.div_ceil(self.tile[0]), sizes.n.div_ceil(self.tile[1])];
        let tensors = [out.as_output()?, a.as_input()?, b.as_input()?];
        let (grid, shared, args) = match self.kernel {
            REAL => ([down * across, 1, 1], 49_152, real_arguments(tensors, sizes)?),
            _ => ([across, down, 1], 0, arguments(tensors, sizes)?),
        };
        let launch = Launch { kernel: self.kernel, grid, block: self.block, shared, args: &args };
        self.kernels.launch(&out.device(), &launch)
    }
}

/// Returns the arguments of a rung of `cuda/ladder/`.
fn arguments([out, a, b]: [Arg; 3], Sizes { m, n, k }: Sizes) -> Result<Vec<Arg>> {
    Ok(vec![out, a, b, Arg::size(m)?, Arg::size(n)?, Arg::size(k)?])
}

/// Returns the arguments of a kernel of `cuda/matmul.cu`: no addend, no second pair of operands, f32 out, all of K in one slice.
fn real_arguments([out, a, b]: [Arg; 3], Sizes { m, n, k }: Sizes) -> Result<Vec<Arg>> {
    let (null, zero, one) = (Arg::I64(0), Arg::I32(0), Arg::I32(1));
    let [m, n, k, depth] = [m, n, k, k.next_multiple_of(32)].map(Arg::size);
    let (m, n, k) = (m?, n?, k?);
    // Rows of out, a and b lie end to end.
    let sizes = [m, n, k, zero, n, k, k, zero, zero];
    Ok([&[out, null, a, b, null, null][..], &sizes, &[Arg::F32(1.0), one, depth?]].concat())
}

/// Values in bf16 without a pattern, below one half.
fn matrix(rows: usize, columns: usize, seed: u32) -> Result<Tensor> {
    let value = |i: usize| {
        let mixed = (i as u32 ^ seed).wrapping_mul(0x9e37_79b9);
        ((mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b) >> 8) as f32 / 16_777_216.0 - 0.5
    };
    let values: Vec<f32> = (0..rows * columns).map(value).collect();
    cast(&Tensor::from_slice(&Device::Cpu, [rows, columns], &values)?, DType::Bf16)
}

/// The largest error of `found` beside the product in f64, as a share of what f32 sums may differ by:
/// `K · 2⁻²³` of the sum of sizes.
fn error(found: &Tensor, a: &Tensor, b: &Tensor, Sizes { m, n, k }: Sizes) -> Result<f64> {
    let [found, a, b] = [found, a, b].map(|tensor| cast(tensor, DType::F32).and_then(|tensor| tensor.to_vec::<f32>()));
    let (found, a, b) = (found?, a?, b?);
    let mut worst = 0f64;
    for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
        let products = (0..k).map(|i| f64::from(a[row * k + i]) * f64::from(b[column * k + i]));
        let (sum, size) = products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()));
        let share = (f64::from(found[row * n + column]) - sum).abs() / (k as f64 * f64::from(f32::EPSILON) * size);
        // A NaN is the worst of all.
        worst = if share <= worst { worst } else { share };
    }
    Ok(worst)
}

/// Runs a rung on the emulated device; its error and what it did.
fn run(rung: &Rung, sizes: Sizes) -> Result<(f64, Profiled)> {
    let emulated = Arc::new(Emulated::new(Emulation { profile: true, ..Emulation::default() }));
    let device = Device::new(emulated.clone());
    let (a, b) = (matrix(sizes.m, sizes.k, 1)?, matrix(sizes.n, sizes.k, 2)?);
    let mut out = Tensor::uninit(&device, DType::F32, [sizes.m, sizes.n])?;
    rung.launch(&mut out, &a.to_device(&device)?, &b.to_device(&device)?, sizes)?;
    let profiled = emulated.take_profile().pop().expect("a launch was made");
    Ok((error(&out, &a, &b, sizes)?, profiled))
}

fn main() -> Result<()> {
    // No multiple of any tile: every kernel handles the rest.
    for rung in &RUNGS {
        let (error, _) = run(rung, Sizes { m: 100, n: 77, k: 40 })?;
        println!("{:<19} [100, 77, 40]: found an error of {error:.3} of the bound, expected at most 1", rung.kernel);
        assert!(error <= 1.0);
    }

    let sizes = Sizes { m: 256, n: 256, k: 512 };
    let products = (sizes.m * sizes.n * sizes.k) as f64;
    println!(
        "\n[256, 256, 512]      bytes asked  bytes moved  wavefronts   excess  barriers  multiply-adds an instruction"
    );
    let mut before: Option<(u64, u64, f64)> = None;
    for rung in &RUNGS {
        let (error, Profiled { counters, .. }) = run(rung, sizes)?;
        assert!(error <= 1.0, "{}: {error} of the bound", rung.kernel);
        let asked = counters.global_load_bytes + counters.global_store_bytes;
        let moved = 32 * (counters.global_load_sectors + counters.global_store_sectors);
        let rate = products / counters.total_instructions() as f64;
        let (wavefronts, excess) = (counters.shared_wavefronts, counters.shared_excess_wavefronts);
        println!(
            "{:<20}{asked:>12} {moved:>12} {wavefronts:>11} {excess:>8} {:>9}  {rate:>9.1}",
            rung.kernel, counters.barriers
        );
        // Each rung asks for less, moves less and computes more with an instruction than the one below.
        let below = before.replace((asked, moved, rate)).unwrap_or((u64::MAX, u64::MAX, 0.0));
        assert!(asked < below.0 && moved < below.1 && rate > below.2);
        assert!(rung.kernel != REAL || excess == 0, "the real one has no bank conflicts");
    }
    let least = 2 * (sizes.m + sizes.n) * sizes.k + 4 * sizes.m * sizes.n;
    println!("{:<20}{least:>12} {least:>12}", "the least there is");
    Ok(())
}
