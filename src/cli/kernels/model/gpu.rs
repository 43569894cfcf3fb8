//! The GPUs that the model knows: data alone.

/// What of a GPU decides how long kernels take.
#[derive(Debug, serde::Serialize)]
pub(super) struct Gpu {
    pub name: &'static str,
    /// The architecture, as the tables of `docs/kernel-budget.md` are headed.
    #[serde(skip)]
    pub architecture: &'static str,
    pub multiprocessors: u64,
    /// Cycles a second.
    pub clock: f64,
    /// Bytes a second of device memory, of a copy rather than of the data sheet.
    pub memory: f64,
    /// Bytes a second from the L2 cache to the multiprocessors.
    pub l2: f64,
    /// bf16 operations a second of `mma.sync` with sums in f32.
    pub mma: f64,
    /// Cycles until a load from device memory is there.
    pub round_trip: f64,
}

/// Multiprocessors are those of the data sheets; the clock is the boost clock, of an H100 that which holds under load.
///
/// - H100 SXM, H200: <https://resources.nvidia.com/en-us-tensor-core>; `mma.sync` reaches 62 to 65 % of the 989 TFLOP/s that
///   wgmma has (Luo et al. 2024, <https://arxiv.org/abs/2402.13499>); the L2 has been measured at 5.5 to 7 TB/s, of which
///   this is the middle
/// - A100 SXM: <https://www.nvidia.com/en-us/data-center/a100/>; there `mma.sync` is the tensor cores' own rate
/// - RTX 4090: half of the tensor cores' 330 TFLOP/s, since sums are in f32
///
/// Device memory: 85 to 90 % of the data sheets' 3.35, 4.8, 2.0 and 1.0 TB/s. Assumed, not measured here: the L2's rate of
/// the last two, and all round trips.
pub(super) const GPUS: &[Gpu] = &[
    Gpu {
        name: "h100",
        architecture: "sm_90",
        multiprocessors: 132,
        clock: 1.755e9,
        memory: 2.85e12,
        l2: 6.25e12,
        mma: 630e12,
        round_trip: 690.0,
    },
    Gpu {
        name: "h200",
        architecture: "sm_90",
        multiprocessors: 132,
        clock: 1.755e9,
        memory: 3.9e12,
        l2: 6.25e12,
        mma: 630e12,
        round_trip: 690.0,
    },
    Gpu {
        name: "a100",
        architecture: "sm_80",
        multiprocessors: 108,
        clock: 1.41e9,
        memory: 1.7e12,
        l2: 4.7e12,
        mma: 312e12,
        round_trip: 600.0,
    },
    Gpu {
        name: "4090",
        architecture: "sm_89",
        multiprocessors: 128,
        clock: 2.52e9,
        memory: 0.9e12,
        l2: 5.0e12,
        mma: 165e12,
        round_trip: 600.0,
    },
];
