//! Global memory's shadow during one launch: for each byte which blocks read, wrote or atomically updated it.
//!
//! One bit for each byte and question, in pages of 4 KiB that exist once touched. A block sets its bits in the launch's
//! page as it goes, as one step each in one order for all threads, and keeps its own bits beside: a bit that is set there
//! but not here was set by another block. So every race is seen by the later of the two, whatever the order.

use super::Touch;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a page.
const PAGE: u64 = 4096;
const WORDS: usize = PAGE as usize / 64;

type Bits = [AtomicU64; WORDS];

/// What blocks did to a page's bytes.
struct Page {
    read: Bits,
    /// Read by more than one block.
    read_again: Bits,
    written: Bits,
    atomic: Bits,
    /// Atomically updated by more than one block.
    atomic_again: Bits,
    read_only: Bits,
}

impl Page {
    fn new() -> Self {
        let bits = || [const { AtomicU64::new(0) }; WORDS];
        Self {
            read: bits(),
            read_again: bits(),
            written: bits(),
            atomic: bits(),
            atomic_again: bits(),
            read_only: bits(),
        }
    }

    /// Whether each 32-byte sector was touched at all.
    fn sectors(&self) -> u64 {
        let count = |word: usize| {
            let all = [&self.read, &self.written, &self.atomic, &self.read_only];
            let touched = all.iter().fold(0, |bits, part| bits | part[word].load(Ordering::Relaxed));
            u64::from(touched as u32 != 0) + u64::from(touched >> 32 != 0)
        };
        (0..WORDS).map(count).sum()
    }
}

type Pages = Box<[OnceLock<Box<Page>>]>;

/// The shadow of a launch; allocations are known by their number.
pub(crate) struct LaunchShadow {
    allocations: Vec<(u64, OnceLock<Pages>)>,
}

impl LaunchShadow {
    /// A shadow for allocations of these lengths.
    pub fn new(lengths: impl Iterator<Item = u64>) -> Self {
        Self { allocations: lengths.map(|length| (length, OnceLock::new())).collect() }
    }

    fn page(&self, allocation: usize, page: u64) -> &Page {
        let (length, pages) = &self.allocations[allocation];
        let pages = pages.get_or_init(|| (0..length.div_ceil(PAGE)).map(|_| OnceLock::new()).collect());
        pages[page as usize].get_or_init(|| Box::new(Page::new()))
    }

    /// Different 32-byte sectors that the launch touched.
    pub fn sectors(&self) -> u64 {
        let pages = self.allocations.iter().filter_map(|(_, pages)| pages.get()).flat_map(|pages| pages.iter());
        pages.filter_map(OnceLock::get).map(|page| page.sectors()).sum()
    }
}

/// What one block did to a page's bytes.
struct Own<'l> {
    page: &'l Page,
    read: [u64; WORDS],
    written: [u64; WORDS],
    atomic: [u64; WORDS],
}

/// What another block did to a byte that this block touches, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    Read,
    Wrote,
    Updated,
    /// Some block, perhaps this one, reads it with `ld.global.nc`.
    ReadOnly,
    /// Some block, perhaps this one, wrote what is read with `ld.global.nc`.
    WroteReadOnly,
}

/// One block's part of a launch's shadow.
pub(crate) struct BlockShadow<'l> {
    launch: &'l LaunchShadow,
    own: Vec<Own<'l>>,
    numbers: HashMap<u64, u32, BuildHasherDefault<PageHasher>>,
    /// The pages found last, by the low bits of their key.
    recent: [(u64, u32); RECENT],
}

const RECENT: usize = 64;

impl<'l> BlockShadow<'l> {
    pub fn new(launch: &'l LaunchShadow) -> Self {
        Self { launch, own: Vec::new(), numbers: HashMap::default(), recent: [(u64::MAX, 0); RECENT] }
    }

    /// Another block starts.
    pub fn restart(&mut self) {
        self.own.clear();
        self.numbers.clear();
        self.recent = [(u64::MAX, 0); RECENT];
    }

    /// The block touches the bytes from `start` to `end` of an allocation. Gives the first conflict and its byte.
    pub fn touch(&mut self, allocation: usize, touch: Touch, start: u64, end: u64) -> Result<(), (Conflict, u64)> {
        let mut at = start;
        while at < end {
            let page = at / PAGE;
            let stop = end.min((page + 1) * PAGE);
            let number = self.number(allocation, page);
            let own = &mut self.own[number];
            while at < stop {
                let word = at / 64;
                let to = stop.min((word + 1) * 64);
                let bits = (u64::MAX >> (64 - (to - at))) << (at % 64);
                own.touch(touch, (word % WORDS as u64) as usize, bits)
                    .map_err(|(conflict, bits)| (conflict, 64 * word + u64::from(bits.trailing_zeros())))?;
                at = to;
            }
        }
        Ok(())
    }

    #[inline]
    fn number(&mut self, allocation: usize, page: u64) -> usize {
        let key = (allocation as u64) << 40 | page;
        let slot = (page ^ (allocation as u64 * 7)) as usize % RECENT;
        if self.recent[slot].0 == key {
            return self.recent[slot].1 as usize;
        }
        let number = self.find(key, allocation, page);
        self.recent[slot] = (key, number);
        number as usize
    }

    fn find(&mut self, key: u64, allocation: usize, page: u64) -> u32 {
        *self.numbers.entry(key).or_insert_with(|| {
            let page = self.launch.page(allocation, page);
            self.own.push(Own { page, read: [0; WORDS], written: [0; WORDS], atomic: [0; WORDS] });
            self.own.len() as u32 - 1
        })
    }
}

/// Sets `bits`; gives those that were set before.
fn set(place: &AtomicU64, bits: u64) -> u64 {
    place.fetch_or(bits, Ordering::SeqCst) & bits
}

fn get(place: &AtomicU64, bits: u64) -> u64 {
    place.load(Ordering::SeqCst) & bits
}

/// The conflict, where there are such bits.
fn refuse(bits: u64, conflict: Conflict) -> Result<(), (Conflict, u64)> {
    if bits == 0 { Ok(()) } else { Err((conflict, bits)) }
}

impl Own<'_> {
    #[inline]
    fn touch(&mut self, touch: Touch, word: usize, bits: u64) -> Result<(), (Conflict, u64)> {
        match touch {
            Touch::Read if bits & !self.read[word] == 0 => Ok(()),
            Touch::Read => self.read(word, bits),
            Touch::Write if bits & !self.written[word] == 0 => self.not_read_only(word, bits),
            Touch::Write => self.write(word, bits),
            Touch::Atomic => self.update(word, bits),
            Touch::ReadOnly if get(&self.page.read_only[word], bits) == bits => Ok(()),
            Touch::ReadOnly => {
                set(&self.page.read_only[word], bits);
                refuse(
                    get(&self.page.written[word], bits) | get(&self.page.atomic[word], bits),
                    Conflict::WroteReadOnly,
                )
            }
        }
    }

    fn read(&mut self, word: usize, bits: u64) -> Result<(), (Conflict, u64)> {
        let new = bits & !self.read[word];
        self.read[word] |= new;
        let before = set(&self.page.read[word], new);
        if before != 0 {
            set(&self.page.read_again[word], before);
        }
        refuse(get(&self.page.written[word], new) & !self.written[word], Conflict::Wrote)?;
        refuse(self.updated_by_others(word, new), Conflict::Updated)
    }

    fn write(&mut self, word: usize, bits: u64) -> Result<(), (Conflict, u64)> {
        let new = bits & !self.written[word];
        self.written[word] |= new;
        refuse(set(&self.page.written[word], new), Conflict::Wrote)?;
        refuse(self.read_by_others(word, new), Conflict::Read)?;
        refuse(self.updated_by_others(word, new), Conflict::Updated)?;
        self.not_read_only(word, bits)
    }

    fn update(&mut self, word: usize, bits: u64) -> Result<(), (Conflict, u64)> {
        let new = bits & !self.atomic[word];
        if new != 0 {
            self.atomic[word] |= new;
            let before = set(&self.page.atomic[word], new);
            if before != 0 {
                set(&self.page.atomic_again[word], before);
            }
            refuse(get(&self.page.written[word], new) & !self.written[word], Conflict::Wrote)?;
            refuse(self.read_by_others(word, new), Conflict::Read)?;
        }
        self.not_read_only(word, bits)
    }

    fn read_by_others(&self, word: usize, bits: u64) -> u64 {
        get(&self.page.read[word], bits) & !self.read[word] | get(&self.page.read_again[word], bits)
    }

    fn updated_by_others(&self, word: usize, bits: u64) -> u64 {
        get(&self.page.atomic[word], bits) & !self.atomic[word] | get(&self.page.atomic_again[word], bits)
    }

    fn not_read_only(&self, word: usize, bits: u64) -> Result<(), (Conflict, u64)> {
        refuse(get(&self.page.read_only[word], bits), Conflict::ReadOnly)
    }
}

/// Spreads the bits of a page's key.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}
