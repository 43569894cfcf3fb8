//! PyTorch's files spoilt in ten thousand ways: no panic, no hang, and memory in proportion to the file.

#[path = "io/torch_save.rs"]
mod torch_save;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::{Error, Result};
use vicugna::io::WeightSource;
use vicugna::io::safetensors::Checkpoint;

use torch_save::{dict, pickle, tensor, zip, zipped};

/// The system's allocator, which counts.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is done by the system's allocator, with the arguments as they came.
#[expect(unsafe_code, reason = "an allocator is unsafe to write")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(USED.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller keeps to what `alloc` asks of him.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the block is the system's, of this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Opens a file and loads each of its tensors.
fn load_all(path: &Path) -> Result<usize> {
    let checkpoint = Checkpoint::open(path)?;
    let mut elements = 0;
    for name in checkpoint.names() {
        let shape = checkpoint.shape(&name)?;
        if let Ok(tensor) = checkpoint.load(&name, shape, DType::F32, &Device::Cpu) {
            elements += tensor.shape().numel();
        }
    }
    Ok(elements)
}

/// Loads a file of these bytes and holds its memory to 4 times their number and 64 MiB. Whether it could be read.
#[track_caller]
fn try_load(path: &Path, bytes: &[u8]) -> bool {
    std::fs::write(path, bytes).unwrap();
    let before = USED.load(Relaxed);
    PEAK.store(before, Relaxed);
    let loaded = load_all(path);
    let grown = PEAK.load(Relaxed).saturating_sub(before) + bytes.len(); // and the file itself, which is mapped
    assert!(grown <= 4 * bytes.len() + (64 << 20), "{grown} bytes for a file of {}", bytes.len());
    match loaded {
        Ok(_) => true,
        Err(Error::File { path: named, .. }) => {
            assert_eq!(named, path);
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Runs `work`, which must end in time.
fn within(seconds: u64, work: impl FnOnce() + Send + 'static) {
    let (done, waiting) = channel();
    let worker = std::thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    let ended = waiting.recv_timeout(Duration::from_secs(seconds));
    assert!(ended != Err(std::sync::mpsc::RecvTimeoutError::Timeout), "still at work after {seconds} s");
    worker.join().unwrap();
}

const OPCODES: &[u8] =
    b"().NJKMGTUXBC)t]ae}suhjqrcRbQ\x80\x85\x86\x87\x88\x89\x8a\x8c\x8d\x93\x94\x95012ILFSVPdlgpio\x81\x82\x8b\x8e\x8f";

/// Spoils `bytes` in one of several ways.
fn spoil(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.random_range(0..bytes.len());
    let length = rng.random_range(0..=(bytes.len() - at).min(64));
    match rng.random_range(0..8) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes.truncate(at),
        2 => bytes[at] = OPCODES[rng.random_range(0..OPCODES.len())],
        3 => drop(bytes.drain(at..at + length)),
        4 => bytes.extend_from_within(at..at + length),
        5 => {
            let from = rng.random_range(0..other.len());
            let piece = &other[from..other.len().min(from + length)];
            drop(bytes.splice(at..at, piece.iter().copied()));
        }
        6 => {
            let extreme =
                [0, 1, 0x7f, 0xff, 0x7fff_ffff, u64::from(u32::MAX), i64::MAX as u64, u64::MAX, bytes.len() as u64];
            let extreme = extreme[rng.random_range(0..extreme.len())].to_le_bytes();
            let width = [1, 2, 4, 8][rng.random_range(0..4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&extreme[..width]);
        }
        _ => {
            let opcode = OPCODES[rng.random_range(0..OPCODES.len())];
            drop(bytes.splice(at..at, vec![opcode; 8 * length]));
        }
    }
}

/// A file and, for the zip form, its entries apart, so that the pickle can be spoilt in an archive that is whole.
struct Whole {
    bytes: Vec<u8>,
    entries: Vec<(String, Vec<u8>)>,
}

fn fixtures() -> Vec<Whole> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickle");
    let names = ["zip.bin", "legacy.bin", "protocol4.bin", "legacy5.bin", "training.pt", "adapter/adapter_model.bin"];
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    names.into_iter().map(|name| Whole { entries: entries(&read(name)), bytes: read(name) }).collect()
}

/// The entries of an archive by its local headers; none of what is no archive.
fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let starts = bytes.windows(4).enumerate().filter(|(_, magic)| magic == b"PK\x01\x02").map(|(at, _)| at);
    let number = |at: usize, width: usize| bytes[at..at + width].iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
    let entry = |at: usize| {
        let name = String::from_utf8(bytes[at + 46..at + 46 + number(at + 28, 2)].to_vec()).unwrap();
        let local = number(at + 42, 4);
        let data = local + 30 + number(local + 26, 2) + number(local + 28, 2);
        (name, bytes[data..data + number(at + 24, 4)].to_vec())
    };
    starts.map(entry).collect()
}

fn mutant(rng: &mut ChaCha8Rng, wholes: &[Whole]) -> Vec<u8> {
    let whole = &wholes[rng.random_range(0..wholes.len())];
    let other = &wholes[rng.random_range(0..wholes.len())].bytes;
    let times = rng.random_range(1..4);
    if whole.entries.is_empty() || rng.random_bool(0.3) {
        let mut bytes = whole.bytes.clone();
        (0..times).for_each(|_| spoil(rng, &mut bytes, other));
        return bytes;
    }
    let mut entries = whole.entries.clone();
    let pickle = entries.iter_mut().find(|(name, _)| name.ends_with("data.pkl")).unwrap();
    (0..times).for_each(|_| spoil(rng, &mut pickle.1, other));
    zip(&entries.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect::<Vec<_>>())
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    (folder, path)
}

fn spoilt_files() {
    let (_folder, path) = file();
    let wholes = fixtures();
    for whole in &wholes {
        assert!(try_load(&path, &whole.bytes));
        let entries: Vec<_> = whole.entries.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
        assert!(entries.is_empty() || try_load(&path, &zip(&entries)));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let read = (0..10_000).filter(|_| try_load(&path, &mutant(&mut rng, &wholes))).count();
    println!("{read} of 10000 could be read");
    assert!((100..9_000).contains(&read), "{read} could be read: the files are not spoilt as they should be");
}

/// Files that ask for much with few bytes.
fn greedy_files() {
    let (_folder, path) = file();
    let refuse = |bytes: &[u8]| assert!(!try_load(&path, bytes));
    for opcodes in [b"N".as_slice(), b"}", b"]", b")", b"(", b"N\x85", b"N\x94", b"}\x94", b"]\x94a", b"\x8c\x01x\x94"]
    {
        let value = opcodes.repeat((4 << 20) / opcodes.len());
        refuse(&zipped(&pickle(&value), &[]));
    }
    let calls = b"h\0)R".repeat(1 << 20);
    refuse(&zipped(&pickle(&[b"ccollections\nOrderedDict\nq\0".as_slice(), &calls].concat()), &[]));
    let tensor_of = |size: &[i64]| tensor("0", 1, 0, size, &vec![0; size.len()]);
    refuse(&zipped(&pickle(&dict(&[("x", tensor_of(&[1 << 40]))])), &[&[0; 4]]));
    refuse(&zipped(&pickle(&dict(&[("x", tensor_of(&vec![1; 100_000]))])), &[&[0; 4]]));
    let long = "x".repeat(1 << 20);
    refuse(&zipped(&pickle(&dict(&[(&long, tensor_of(&[1]))])), &[&[0; 4]]));
    refuse(&zipped(&pickle(&dict(&[("x", tensor(&long, 1, 0, &[1], &[1]))])), &[&[0; 4]]));
    // Many small tensors are read, within the bound as well.
    let names: Vec<String> = (0..8_000).map(|i| format!("layers.{i}.weight")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), tensor_of(&[1]))).collect();
    assert!(try_load(&path, &zipped(&pickle(&dict(&many)), &[&[0; 4]])));
}

#[test]
fn hostile_files_cost_little() {
    within(240, || {
        spoilt_files();
        greedy_files();
    });
}
