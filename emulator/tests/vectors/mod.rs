//! Launches with what they leave in memory, as files: what the tests launch here, and what a GPU made of the same.
//!
//! Where `VICUGNA_VECTORS` names a file, the tests append every launch to it that ends well: text, arguments, memory
//! before and after. `emulator/libcuda/examples/record.rs` runs those on a GPU and writes what it found, which
//! [`replay`] compares with what the tests compute.

mod file;
mod recorded;

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Mutex;

pub use file::{Reader, Writer};
pub use recorded::{Card, Entry, Recorded, replay};

/// The variable that names the file of launches.
pub const VARIABLE: &str = "VICUGNA_VECTORS";

/// One launch.
#[derive(Clone, Debug)]
pub struct Vector {
    /// The test that made it, or the kernel and its shape.
    pub name: String,
    /// Whether it is of a kernel, whose text may change while what it computes does not.
    pub kernel: bool,
    pub ptx: String,
    pub entry: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u64,
    pub args: Vec<Arg>,
    pub buffers: Vec<Buffer>,
}

/// A kernel's argument: its bytes, or the address of a buffer.
#[derive(Clone, Debug)]
pub enum Arg {
    Value(Vec<u8>),
    Address(usize),
}

/// An allocation, and what the emulator left in it. What nobody wrote is 0xff.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub before: Vec<u8>,
    /// Where it holds the address of which buffer; such a buffer is not compared.
    pub addresses: Vec<(usize, usize)>,
    pub after: Vec<u8>,
    pub exact: Exactness,
}

/// How near a GPU must come to the emulator.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Exactness {
    Bits,
    /// Elements may differ by a share of their size, or of `least` if that is more.
    Close {
        element: Element,
        relative: f64,
        least: f64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    F64,
    F32,
    F16,
    Bf16,
}

/// Appends a launch to the file that [`VARIABLE`] names, if it names one.
pub fn keep(make: impl FnOnce() -> Vector) {
    static LOCK: Mutex<()> = Mutex::new(());
    let Some(path) = std::env::var_os(VARIABLE) else { return };
    let mut writer = Writer::default();
    make().write(&mut writer);
    let _guard = LOCK.lock();
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(writer.bytes()).unwrap();
}

/// Whether launches are kept.
pub fn kept() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

impl Vector {
    /// What tells it from others: everything that a GPU is given.
    pub fn fingerprint(&self) -> u64 {
        let mut writer = Writer::default();
        let Self { kernel, ptx, entry, grid, block, shared_bytes, args, buffers, name: _ } = self;
        writer.text(if *kernel { "" } else { ptx });
        writer.text(entry);
        grid.iter().chain(block).for_each(|&n| writer.number(n.into()));
        writer.number(*shared_bytes);
        args.iter().for_each(|arg| arg.write(&mut writer));
        for Buffer { before, addresses, .. } in buffers {
            writer.block(&if addresses.is_empty() { before.clone() } else { Vec::new() });
        }
        hash(writer.bytes())
    }
}

impl Buffer {
    pub fn is_compared(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The first bytes of a GPU's memory beside the emulator's: the largest share of a bound that a difference takes, or
    /// the first element that is wrong.
    pub fn compare(&self, found: &[u8]) -> Result<f64, String> {
        let Exactness::Close { element, relative, least } = self.exact else {
            let differs = found.iter().zip(&self.after).position(|(found, ours)| found != ours);
            return differs.map_or(Ok(0.0), |at| Err(self.difference(found, at)));
        };
        let size = element.bytes();
        let mut most = 0f64;
        for (at, (gpu, ours)) in found.chunks_exact(size).zip(self.after.chunks_exact(size)).enumerate() {
            let share = element.share(gpu, ours, relative, least);
            if share > 1.0 {
                let [gpu, ours] = [gpu, ours].map(|bytes| element.value(bytes));
                return Err(format!("element {at}: the GPU has {gpu:e}, the emulator {ours:e}"));
            }
            most = most.max(share);
        }
        Ok(most)
    }

    fn difference(&self, found: &[u8], at: usize) -> String {
        let word =
            |bytes: &[u8]| bytes[at / 8 * 8..].iter().take(8).rev().map(|b| format!("{b:02x}")).collect::<String>();
        format!("word {}: the GPU has {}, the emulator {}", at / 8, word(found), word(&self.after))
    }
}

impl Element {
    fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn value(self, bytes: &[u8]) -> f64 {
        let half = || u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        match self {
            Self::F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
            Self::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
            Self::Bf16 => f32::from_bits(half() << 16).into(),
            Self::F16 => {
                let (sign, exponent, fraction) = (half() >> 15, half() >> 10 & 31, f64::from(half() & 0x3ff) / 1024.0);
                let size = match exponent {
                    0 => fraction * 2f64.powi(-14),
                    31 if fraction == 0.0 => f64::INFINITY,
                    31 => f64::NAN,
                    _ => (1.0 + fraction) * 2f64.powi(exponent as i32 - 15),
                };
                if sign == 0 { size } else { -size }
            }
        }
    }

    /// The share of what is allowed by which two elements differ.
    fn share(self, a: &[u8], b: &[u8], relative: f64, least: f64) -> f64 {
        let [x, y] = [a, b].map(|bytes| self.value(bytes));
        if a == b || x == y || x.is_nan() && y.is_nan() {
            return 0.0;
        }
        let share = (x - y).abs() / (relative * y.abs().max(least));
        if share.is_nan() { f64::INFINITY } else { share }
    }
}

/// FNV-1a over words of 8 bytes.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash, chunk| {
        let word = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        let mixed = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        mixed ^ mixed >> 32
    })
}
