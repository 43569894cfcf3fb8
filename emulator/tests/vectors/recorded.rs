//! What a GPU made of the launches, and whether the emulator still makes the same.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Exactness, Reader, Vector, Writer, hash};

const MAGIC: &str = "launches on a GPU, 1";

/// Of each buffer that is compared within a bound, or that differs, so many bytes are kept; of all others their hash.
const KEPT: usize = 4096;

/// A file of what one GPU did.
#[derive(Debug)]
pub struct Recorded {
    pub card: Card,
    pub entries: Vec<Entry>,
}

/// The GPU, as its driver names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card {
    pub name: String,
    pub compute_capability: String,
    pub driver: String,
    /// Whether the "GPU" is this emulator, as where the recorder is tested.
    pub emulated: bool,
}

/// One launch.
#[derive(Debug)]
pub struct Entry {
    pub fingerprint: u64,
    pub name: String,
    /// Of each buffer that is compared; or why there is nothing.
    pub found: Result<Vec<Found>, String>,
}

/// A buffer after a launch: its hash, and the first of its bytes where the hash does not do.
#[derive(Debug)]
pub struct Found {
    hash: u64,
    bytes: Vec<u8>,
}

impl Entry {
    pub fn new(vector: &Vector, found: Result<&[Vec<u8>], String>) -> Self {
        let keep = |memory: &[Vec<u8>]| {
            let buffers = vector.buffers.iter().zip(memory).filter(|(buffer, _)| buffer.is_compared());
            let found = buffers.map(|(buffer, memory)| {
                let is_known = buffer.exact == Exactness::Bits && *memory == buffer.after;
                let bytes = if is_known { Vec::new() } else { memory[..memory.len().min(KEPT)].to_vec() };
                Found { hash: hash(memory), bytes }
            });
            found.collect()
        };
        Self { fingerprint: vector.fingerprint(), name: vector.name.clone(), found: found.map(keep) }
    }

    pub fn write(&self, writer: &mut Writer) {
        let Self { fingerprint, name, found } = self;
        writer.number(*fingerprint);
        writer.text(name);
        writer.text(found.as_ref().err().map_or("", String::as_str));
        writer.number(found.as_ref().map_or(0, Vec::len) as u64);
        for Found { hash, bytes } in found.iter().flatten() {
            writer.number(*hash);
            writer.block(bytes);
        }
    }

    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (fingerprint, name, refused) = (reader.number()?, reader.text()?, reader.text()?);
        let found = reader.list(|reader| Some(Found { hash: reader.number()?, bytes: reader.block()?.to_vec() }))?;
        Some(Self { fingerprint, name, found: if refused.is_empty() { Ok(found) } else { Err(refused) } })
    }

    /// As [`Buffer::compare`](super::Buffer::compare), of what was kept of every buffer.
    pub fn compare(&self, vector: &Vector) -> Result<f64, String> {
        let found = self.found.as_ref().map_err(|refused| format!("the GPU refused: {refused}"))?;
        let mut most = 0f64;
        for (buffer, found) in vector.buffers.iter().filter(|buffer| buffer.is_compared()).zip(found) {
            if hash(&buffer.after) == found.hash {
                continue;
            }
            if found.bytes.is_empty() && !buffer.after.is_empty() {
                return Err("the emulator has other bits than it had when the GPU agreed".into());
            }
            most = most.max(buffer.compare(&found.bytes)?);
            if buffer.exact == Exactness::Bits {
                return Err(format!("bits differ behind the first {} bytes", found.bytes.len()));
            }
        }
        Ok(most)
    }
}

impl Recorded {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let Card { name, compute_capability, driver, emulated } = &self.card;
        [MAGIC, name, compute_capability, driver].iter().for_each(|text| writer.text(text));
        writer.number((*emulated).into());
        writer.number(self.entries.len() as u64);
        self.entries.iter().for_each(|entry| entry.write(&mut writer));
        writer.bytes().to_vec()
    }

    /// `None` for what is no such file, or not the whole of one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        (reader.text()? == MAGIC).then_some(())?;
        let (name, compute_capability, driver) = (reader.text()?, reader.text()?, reader.text()?);
        let card = Card { name, compute_capability, driver, emulated: reader.number()? != 0 };
        let entries = reader.list(Entry::read)?;
        reader.0.is_empty().then_some(Self { card, entries })
    }
}

/// The folder with a folder for each card: `tests/recorded`, or that of `VICUGNA_RECORDED`.
fn folder() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    std::env::var_os("VICUGNA_RECORDED").map_or(own, PathBuf::from)
}

/// Every file of the folder.
fn files() -> Vec<PathBuf> {
    let cards = fs::read_dir(folder()).into_iter().flatten().flatten();
    let files = cards.flat_map(|card| fs::read_dir(card.path()).into_iter().flatten().flatten());
    let mut files: Vec<PathBuf> =
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "bin")).collect();
    files.sort();
    files
}

/// Compares `vectors` with every recorded file that there is; says what was compared, and fails on what differs.
pub fn replay(vectors: impl FnOnce() -> Vec<Vector>) {
    let files = files();
    if files.is_empty() {
        return println!("no launch was recorded on a GPU: nothing is compared");
    }
    let vectors: HashMap<u64, Vector> = vectors().into_iter().map(|vector| (vector.fingerprint(), vector)).collect();
    let mut wrong = Vec::new();
    for path in files {
        let recorded = Recorded::from_bytes(&fs::read(&path).unwrap());
        let Recorded { card, entries } = recorded.unwrap_or_else(|| panic!("{}: not a whole record", path.display()));
        assert!(
            !card.emulated || std::env::var_os("VICUGNA_RECORDED").is_some(),
            "{}: recorded on the emulator itself",
            path.display()
        );
        let compared: Vec<_> =
            entries.iter().filter_map(|entry| Some((entry, vectors.get(&entry.fingerprint)?))).collect();
        let failures = compared.iter().filter_map(|(entry, vector)| Some((entry, entry.compare(vector).err()?)));
        let failures: Vec<String> = failures.map(|(entry, error)| format!("{}: {error}", entry.name)).collect();
        let file = path.file_stem().unwrap_or_default().display();
        println!("{}, {file}: {} launches compared, {} differ", card.name, compared.len(), failures.len());
        wrong.extend(failures);
    }
    assert!(wrong.is_empty(), "the emulator does not do as a GPU did:\n{}", wrong.join("\n"));
}
