//! The GPU that is imitated, as its driver would describe it. The emulator fixes its compute capability and its shared
//! memory; the rest are the numbers of a card of that kind, and nothing here measures this machine.

use ptx_emulator::Arch;

/// What a card of some compute capability has.
#[derive(Debug, Clone, Copy)]
pub struct Gpu {
    pub arch: Arch,
    pub multiprocessors: i32,
    pub threads_per_multiprocessor: i32,
    pub blocks_per_multiprocessor: i32,
    pub shared_per_multiprocessor: i32,
    l2_bytes: i32,
    clock_khz: i32,
    memory_clock_khz: i32,
    memory_bus_bits: i32,
    single_to_double: i32,
}

/// As an A100.
const SM80: Gpu = Gpu {
    arch: Arch::Sm80,
    multiprocessors: 108,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    shared_per_multiprocessor: 164 << 10,
    l2_bytes: 40 << 20,
    clock_khz: 1_410_000,
    memory_clock_khz: 1_215_000,
    memory_bus_bits: 5120,
    single_to_double: 2,
};

/// As a GeForce RTX 3090.
const SM86: Gpu = Gpu {
    arch: Arch::Sm86,
    multiprocessors: 82,
    threads_per_multiprocessor: 1536,
    blocks_per_multiprocessor: 16,
    shared_per_multiprocessor: 100 << 10,
    l2_bytes: 6 << 20,
    clock_khz: 1_695_000,
    memory_clock_khz: 9_751_000,
    memory_bus_bits: 384,
    single_to_double: 64,
};

/// As a GeForce RTX 4090.
const SM89: Gpu = Gpu {
    arch: Arch::Sm89,
    multiprocessors: 128,
    threads_per_multiprocessor: 1536,
    blocks_per_multiprocessor: 24,
    shared_per_multiprocessor: 100 << 10,
    l2_bytes: 72 << 20,
    clock_khz: 2_520_000,
    memory_clock_khz: 10_501_000,
    memory_bus_bits: 384,
    single_to_double: 64,
};

/// Bytes of shared memory that a block may have without asking for more.
pub const SHARED_BY_DEFAULT: u64 = 48 << 10;
/// Bytes of a multiprocessor's shared memory that each block costs beside its own.
pub const SHARED_RESERVED: i32 = 1 << 10;
/// The last number of CUDA 13's `CUdevice_attribute`.
const LAST_ATTRIBUTE: i32 = 150;

impl Gpu {
    /// The GPU of a compute capability, as `86`.
    pub fn named(capability: &str) -> Option<Self> {
        Some(match capability {
            "80" => SM80,
            "86" => SM86,
            "89" => SM89,
            _ => return None,
        })
    }

    pub fn name(&self) -> String {
        let (major, minor) = self.arch.compute_capability();
        format!("PTX emulator (sm_{major}{minor})")
    }

    pub fn uuid(&self) -> [u8; 16] {
        let (major, minor) = self.arch.compute_capability();
        let mut uuid = *b"ptx-emulator-sm\0";
        uuid[15] = (major * 10 + minor) as u8;
        uuid
    }

    /// The value of a `CUdevice_attribute`; 0 for what this device does not do.
    pub fn attribute(&self, number: i32) -> Option<i32> {
        let (major, minor) = self.arch.compute_capability();
        Some(match number {
            1 => 1024,                             // MAX_THREADS_PER_BLOCK
            2 | 3 => 1024,                         // MAX_BLOCK_DIM_X, _Y
            4 => 64,                               // MAX_BLOCK_DIM_Z
            5 => i32::MAX,                         // MAX_GRID_DIM_X
            6 | 7 => 65535,                        // MAX_GRID_DIM_Y, _Z
            8 => SHARED_BY_DEFAULT as i32,         // MAX_SHARED_MEMORY_PER_BLOCK
            9 => 64 << 10,                         // TOTAL_CONSTANT_MEMORY
            10 => 32,                              // WARP_SIZE
            11 => i32::MAX,                        // MAX_PITCH
            12 | 82 => 64 << 10,                   // MAX_REGISTERS_PER_BLOCK, _PER_MULTIPROCESSOR
            13 => self.clock_khz,                  // CLOCK_RATE
            14 => 512,                             // TEXTURE_ALIGNMENT
            15 => 1,                               // GPU_OVERLAP
            16 => self.multiprocessors,            // MULTIPROCESSOR_COUNT
            36 => self.memory_clock_khz,           // MEMORY_CLOCK_RATE
            37 => self.memory_bus_bits,            // GLOBAL_MEMORY_BUS_WIDTH
            38 => self.l2_bytes,                   // L2_CACHE_SIZE
            39 => self.threads_per_multiprocessor, // MAX_THREADS_PER_MULTIPROCESSOR
            40 => 1,                               // ASYNC_ENGINE_COUNT
            51 => 32,                              // TEXTURE_PITCH_ALIGNMENT
            75 => major as i32,                    // COMPUTE_CAPABILITY_MAJOR
            76 => minor as i32,                    // COMPUTE_CAPABILITY_MINOR
            78..=80 => 1,                          // STREAM_PRIORITIES_SUPPORTED, GLOBAL_L1_, LOCAL_L1_CACHE_SUPPORTED
            81 => self.shared_per_multiprocessor,  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
            87 => self.single_to_double,           // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
            97 => self.arch.shared_limit() as i32, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            99 => 1,                               // HOST_REGISTER_SUPPORTED
            106 => self.blocks_per_multiprocessor, // MAX_BLOCKS_PER_MULTIPROCESSOR
            111 => SHARED_RESERVED,                // RESERVED_SHARED_MEMORY_PER_BLOCK
            115 => 1,                              // MEMORY_POOLS_SUPPORTED
            130 | 131 | 134 => -1,                 // NUMA_CONFIG, NUMA_ID, HOST_NUMA_ID
            number if (1..=LAST_ATTRIBUTE).contains(&number) => 0,
            _ => return None,
        })
    }

    /// How many blocks of so many threads and bytes of shared memory a multiprocessor holds at once. Registers do not
    /// count: PTX has no number of them.
    pub fn blocks_at_once(&self, threads: i32, shared: u64) -> i32 {
        if !(1..=1024).contains(&threads) || shared > self.arch.shared_limit() {
            return 0;
        }
        let warps = (threads + 31) / 32;
        let by_threads = self.threads_per_multiprocessor / (warps * 32);
        let by_shared = self.shared_per_multiprocessor / (shared.next_multiple_of(128) as i32 + SHARED_RESERVED);
        by_threads.min(by_shared).min(self.blocks_per_multiprocessor)
    }

    /// The most dynamic shared memory with which so many blocks still fit, beside `fixed` bytes of each.
    pub fn shared_for(&self, blocks: i32, fixed: u64) -> u64 {
        let each = u64::try_from(self.shared_per_multiprocessor / blocks.max(1) - SHARED_RESERVED).unwrap_or(0);
        (each / 128 * 128).min(self.arch.shared_limit()).saturating_sub(fixed)
    }
}
