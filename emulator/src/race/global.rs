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
const LINES: usize = PAGE as usize / 64;

/// What blocks did to 64 neighbouring bytes, one bit each.
#[derive(Default)]
struct Line {
    read: AtomicU64,
    /// Read by more than one block.
    read_again: AtomicU64,
    written: AtomicU64,
    atomic: AtomicU64,
    /// Atomically updated by more than one block.
    atomic_again: AtomicU64,
    read_only: AtomicU64,
}

/// What blocks did to a page.
struct Page([Line; LINES]);

impl Page {
    fn new() -> Box<Self> {
        Box::new(Self(std::array::from_fn(|_| Line::default())))
    }

    /// How many of its 32-byte sectors were touched at all.
    fn sectors(&self) -> u64 {
        let count = |line: &Line| {
            let all = [&line.read, &line.written, &line.atomic, &line.read_only];
            let touched = all.iter().fold(0, |bits, part| bits | part.load(Ordering::Relaxed));
            u64::from(touched as u32 != 0) + u64::from(touched >> 32 != 0)
        };
        self.0.iter().map(count).sum()
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
        pages[page as usize].get_or_init(Page::new)
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
    lines: [OwnLine; LINES],
}

/// What one block did to the bytes of a line.
#[derive(Default, Clone, Copy)]
struct OwnLine {
    read: u64,
    written: u64,
    atomic: u64,
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
    pub fn touch(&mut self, allocation: usize, touch: Touch, start: u64, end: u64) -> Outcome {
        let mut at = start;
        while at < end {
            let page = at / PAGE;
            let stop = end.min((page + 1) * PAGE);
            let number = self.number(allocation, page);
            let Own { page, lines } = &mut self.own[number];
            while at < stop {
                let (line, to) = (at / 64, stop.min((at / 64 + 1) * 64));
                let bits = (u64::MAX >> (64 - (to - at))) << (at % 64);
                let place = line as usize % LINES;
                lines[place]
                    .touch(&page.0[place], touch, bits)
                    .map_err(|(conflict, bits)| (conflict, 64 * line + u64::from(bits.trailing_zeros())))?;
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
            self.own.push(Own { page, lines: [OwnLine::default(); LINES] });
            self.own.len() as u32 - 1
        })
    }
}

/// Sets `bits`; gives those that were set before.
#[inline]
fn set(place: &AtomicU64, bits: u64) -> u64 {
    match get(place, bits) {
        all if all == bits => bits,
        _ => place.fetch_or(bits, Ordering::SeqCst) & bits,
    }
}

#[inline]
fn get(place: &AtomicU64, bits: u64) -> u64 {
    place.load(Ordering::SeqCst) & bits
}

type Outcome = Result<(), (Conflict, u64)>;

/// The conflict, where there are such bits.
#[inline]
fn refuse(bits: u64, conflict: Conflict) -> Outcome {
    if bits == 0 { Ok(()) } else { Err((conflict, bits)) }
}

impl OwnLine {
    #[inline]
    fn touch(&mut self, all: &Line, touch: Touch, bits: u64) -> Outcome {
        match touch {
            Touch::Read if bits & !self.read == 0 => Ok(()),
            Touch::Read => self.read(all, bits),
            Touch::Write if bits & !self.written == 0 => not_read_only(all, bits),
            Touch::Write => self.write(all, bits),
            Touch::Atomic => self.update(all, bits),
            Touch::ReadOnly if get(&all.read_only, bits) == bits => Ok(()),
            Touch::ReadOnly => {
                set(&all.read_only, bits);
                refuse(get(&all.written, bits) | get(&all.atomic, bits), Conflict::WroteReadOnly)
            }
        }
    }

    #[inline]
    fn read(&mut self, all: &Line, bits: u64) -> Outcome {
        let new = bits & !self.read;
        self.read |= new;
        let before = set(&all.read, new);
        if before != 0 {
            set(&all.read_again, before);
        }
        refuse(get(&all.written, new) & !self.written, Conflict::Wrote)?;
        refuse(self.updated_by_others(all, new), Conflict::Updated)
    }

    #[inline]
    fn write(&mut self, all: &Line, bits: u64) -> Outcome {
        let new = bits & !self.written;
        self.written |= new;
        refuse(set(&all.written, new), Conflict::Wrote)?;
        refuse(self.read_by_others(all, new), Conflict::Read)?;
        refuse(self.updated_by_others(all, new), Conflict::Updated)?;
        not_read_only(all, bits)
    }

    fn update(&mut self, all: &Line, bits: u64) -> Outcome {
        let new = bits & !self.atomic;
        if new != 0 {
            self.atomic |= new;
            let before = set(&all.atomic, new);
            if before != 0 {
                set(&all.atomic_again, before);
            }
            refuse(get(&all.written, new) & !self.written, Conflict::Wrote)?;
            refuse(self.read_by_others(all, new), Conflict::Read)?;
        }
        not_read_only(all, bits)
    }

    fn read_by_others(&self, all: &Line, bits: u64) -> u64 {
        get(&all.read, bits) & !self.read | get(&all.read_again, bits)
    }

    fn updated_by_others(&self, all: &Line, bits: u64) -> u64 {
        get(&all.atomic, bits) & !self.atomic | get(&all.atomic_again, bits)
    }
}

fn not_read_only(all: &Line, bits: u64) -> Outcome {
    refuse(get(&all.read_only, bits), Conflict::ReadOnly)
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
