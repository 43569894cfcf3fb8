//! Runs launches that the emulator's tests wrote (`tests/vectors`) on the GPU of this machine and writes what it made of
//! them where the tests look for it:
//!
//!     record LAUNCHES FOLDER             writes FOLDER/<card>/<name of LAUNCHES>
//!     record --middle LAUNCHES FILE      writes one launch of each kernel, neither its smallest nor its largest, to FILE
//!
//! A launch that fails ends its process, as on a GPU it ends the context; the next one goes on behind it. The last line on
//! standard output counts, as JSON; the status is 1 if a launch failed or left something else than on the emulator.

#![expect(unsafe_code, reason = "cudarc marks launches and the driver's functions unsafe")]

#[path = "../../tests/vectors/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the emulator's tests")]
mod vectors;

use cudarc::driver::sys::{self, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::Ptx;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vectors::{Arg, Card, Entry, Reader, Recorded, Vector, Writer};

/// A launch that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is not done by then is left.
const TOTAL: Duration = Duration::from_secs(45);
/// The status of a process that wrote down how its last launch failed.
const FAILED: u8 = 3;
/// Processes that may fail; then the GPU is taken to be at fault, and the rest is left.
const MOST_FAILURES: usize = 20;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [launches, folder] => record(Path::new(launches), Path::new(folder)),
        ["--middle", launches, file] => {
            let mut writer = Writer::default();
            middle(read(launches.as_ref())?).iter().for_each(|vector| vector.write(&mut writer));
            fs::write(file, writer.bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        ["--from", from, launches, entries] => {
            let ended = run_from(from.parse()?, &read(launches.as_ref())?, File::create(entries)?)?;
            Ok(ExitCode::from(if ended { 0 } else { FAILED }))
        }
        _ => Err("usage: record LAUNCHES FOLDER | record --middle LAUNCHES FILE".into()),
    }
}

/// The launches of a file, each once.
fn read(path: &Path) -> Result<Vec<Vector>, Box<dyn Error>> {
    let vectors = Reader(&fs::read(path)?).vectors().ok_or("not a whole file of launches")?;
    let mut known = HashMap::new();
    Ok(vectors.into_iter().filter(|vector| known.insert(vector.fingerprint(), ()).is_none()).collect())
}

/// The launch of each kernel that is in the middle by the bytes of its buffers; those of one text follow each other.
fn middle(vectors: Vec<Vector>) -> Vec<Vector> {
    let mut of_kernel: BTreeMap<(String, String), Vec<Vector>> = BTreeMap::new();
    for vector in vectors {
        of_kernel.entry((vector.ptx.clone(), vector.entry.clone())).or_default().push(vector);
    }
    let bytes = |vector: &Vector| vector.buffers.iter().map(|buffer| buffer.before.len()).sum::<usize>();
    let pick = |mut launches: Vec<Vector>| {
        launches.sort_by_key(bytes);
        let middle = launches.len() / 2;
        launches.swap_remove(middle)
    };
    of_kernel.into_values().map(pick).collect()
}

fn record(launches: &Path, folder: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let card = card()?;
    if card.emulated && std::path::absolute(folder)?.ends_with("emulator/tests/recorded") {
        return Err("this driver is the emulator: what it does is no record of a GPU".into());
    }
    let vectors = read(launches)?;
    let entries = run_all(launches, vectors.len())?;
    let (mut same, mut close, mut failed) = (0, 0, 0);
    for (entry, vector) in entries.iter().zip(&vectors) {
        match entry.compare(vector) {
            Ok(0.0) => same += 1,
            Ok(_) => close += 1,
            Err(error) => {
                failed += 1;
                eprintln!("{}: {error}{}", vector.name, text(vector));
            }
        }
    }
    let left = vectors.len() - entries.len();
    let path = file(&card, launches, folder)?;
    fs::write(&path, Recorded { card: card.clone(), entries }.to_bytes())?;
    println!(
        r#"{{"card":"{}","compute_capability":"{}","driver":"{}","launches":{},"same":{same},"close":{close},"differ":{failed},"left":{left}}}"#,
        card.name,
        card.compute_capability,
        card.driver,
        vectors.len(),
    );
    Ok(if failed + left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The text of an instruction's launch, where it is no longer than a test writes it.
fn text(vector: &Vector) -> String {
    if vector.kernel || vector.ptx.len() > 4000 { String::new() } else { format!("\n{}", vector.ptx) }
}

/// Where the record goes.
fn file(card: &Card, launches: &Path, folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let folder = folder.join(card.name.chars().map(plain).collect::<String>());
    fs::create_dir_all(&folder)?;
    Ok(folder.join(launches.file_name().ok_or("launches are a file")?))
}

fn card() -> Result<Card, Box<dyn Error>> {
    // SAFETY: loading libcuda runs its initialisers, which NVIDIA's library allows at any time.
    if !unsafe { sys::is_culib_present() } {
        return Err("this machine has no NVIDIA driver (libcuda)".into());
    }
    let context = CudaContext::new(0)?;
    let (major, minor) = context.compute_capability()?;
    let mut version = 0;
    // SAFETY: the driver writes one int.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    // SAFETY: the library is there.
    let library = unsafe { sys::culib() };
    // SAFETY: the symbol's type is not used; only whether it is there.
    let emulated = unsafe { library.get::<*const ()>(b"vicugna_emulated_driver") }.is_ok();
    Ok(Card {
        name: context.name()?,
        compute_capability: format!("{major}.{minor}"),
        driver: format!("{}.{}", version / 1000, version % 1000 / 10),
        emulated,
    })
}

/// Runs all launches, in processes of which each goes on where the last one failed.
fn run_all(launches: &Path, count: usize) -> Result<Vec<Entry>, Box<dyn Error>> {
    let place = std::env::temp_dir().join(format!("vicugna-record-{}", std::process::id()));
    let vectors = read(launches)?;
    let (mut entries, start) = (Vec::<Entry>::new(), Instant::now());
    for _ in 0..MOST_FAILURES {
        let status = run_process(entries.len(), launches, &place, start + TOTAL)?;
        entries.extend(read_entries(&fs::read(&place).unwrap_or_default()));
        if entries.len() == count || start.elapsed() > TOTAL {
            break;
        }
        if status != Some(FAILED.into()) {
            entries.push(Entry::new(&vectors[entries.len()], Err("it did not end, or its process died".into())));
        }
    }
    fs::remove_file(place)?;
    Ok(entries)
}

fn read_entries(bytes: &[u8]) -> Vec<Entry> {
    let mut reader = Reader(bytes);
    std::iter::from_fn(|| Entry::read(&mut reader)).collect()
}

/// Runs launches from a number on in a process of its own; its status, if it ended by itself.
fn run_process(from: usize, launches: &Path, entries: &Path, until: Instant) -> Result<Option<i32>, Box<dyn Error>> {
    let _ = fs::remove_file(entries);
    let mut process = Command::new(std::env::current_exe()?);
    let mut process = process.args(["--from", &from.to_string()]).arg(launches).arg(entries).spawn()?;
    let (mut length, mut since) = (0, Instant::now());
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status.code());
        }
        let now = fs::metadata(entries).map_or(0, |file| file.len());
        if now != length {
            (length, since) = (now, Instant::now());
        }
        if since.elapsed() > PATIENCE || Instant::now() > until {
            process.kill()?;
            process.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs launches until one fails, and writes an entry for each; tells whether none did.
fn run_from(from: usize, vectors: &[Vector], mut file: File) -> Result<bool, Box<dyn Error>> {
    let stream = CudaContext::new(0)?.new_stream()?;
    let mut loaded: Option<(&str, Arc<CudaModule>)> = None;
    for vector in &vectors[from..] {
        let module = match &loaded {
            Some((ptx, module)) if *ptx == vector.ptx => Ok(module.clone()),
            _ => stream.context().load_module(Ptx::from_src(vector.ptx.clone())),
        };
        // Where the GPU's compiler refuses, the context goes on.
        let (found, goes_on) = match module {
            Err(error) => (Err(error), true),
            Ok(module) => {
                loaded = Some((&vector.ptx, module.clone()));
                let found = run(&stream, &module, vector);
                let ended = found.is_ok();
                (found, ended)
            }
        };
        let mut writer = Writer::default();
        Entry::new(vector, found.as_deref().map_err(|error| format!("{error:?}"))).write(&mut writer);
        file.write_all(writer.bytes())?;
        if !goes_on {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Runs one launch; gives what is in its buffers then.
fn run(stream: &CudaStream, module: &Arc<CudaModule>, vector: &Vector) -> Result<Vec<Vec<u8>>, DriverError> {
    let function = module.load_function(&vector.entry)?;
    // More than 48 KiB with what is the kernel's own, of which there are up to 16.
    if vector.shared_bytes > 32 << 10 {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, vector.shared_bytes as i32)?;
    }
    let addresses = allocate(vector)?;
    let args: Vec<[u8; 8]> = vector.args.iter().map(|arg| argument(arg, &addresses)).collect();
    let mut launch = stream.launch_builder(&function);
    for arg in &args {
        launch.arg(arg);
    }
    let [grid_dim, block_dim] = [vector.grid, vector.block].map(|[x, y, z]| (x, y, z));
    let config = LaunchConfig { grid_dim, block_dim, shared_mem_bytes: vector.shared_bytes as u32 };
    // SAFETY: the emulator ran this launch, and found every access inside of these buffers.
    unsafe { launch.launch(config) }?;
    stream.synchronize()?;
    let mut memory = Vec::new();
    for (buffer, &address) in vector.buffers.iter().zip(&addresses) {
        let mut after = vec![0; buffer.before.len()];
        // SAFETY: the allocation has as many bytes, and no work is under way.
        unsafe { result::memcpy_dtoh_sync(&mut after, address) }?;
        // SAFETY: nothing uses the allocation any more.
        unsafe { result::free_sync(address) }?;
        memory.push(after);
    }
    Ok(memory)
}

/// Each buffer as it is before the launch.
fn allocate(vector: &Vector) -> Result<Vec<u64>, DriverError> {
    let mut addresses = Vec::new();
    for buffer in &vector.buffers {
        // SAFETY: what is allocated is written before it is read.
        addresses.push(unsafe { result::malloc_sync(buffer.before.len().max(1)) }?);
    }
    for (buffer, &address) in vector.buffers.iter().zip(&addresses) {
        let mut before = buffer.before.clone();
        for &(place, other) in &buffer.addresses {
            before[place..place + 8].copy_from_slice(&addresses[other].to_le_bytes());
        }
        // SAFETY: the allocation has as many bytes.
        unsafe { result::memcpy_htod_sync(address, &before) }?;
    }
    Ok(addresses)
}

/// An argument's bytes, the first of eight.
fn argument(arg: &Arg, addresses: &[u64]) -> [u8; 8] {
    let mut bytes = [0; 8];
    match arg {
        Arg::Value(value) => bytes[..value.len()].copy_from_slice(value),
        Arg::Address(buffer) => bytes = addresses[*buffer].to_le_bytes(),
    }
    bytes
}
