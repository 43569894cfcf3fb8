//! Global memory's shadow during one launch: for each byte which blocks read, wrote or atomically updated it.
//!
//! One bit for each byte and question, in pages of 4 KiB that exist once touched. A block sets its bits in the launch's
//! page as it goes, as one step each in one order for all threads, and keeps its own bits beside: a bit that is set there
//! but not here was set by another block. So every race is seen by the later of the two, whatever the order.

use super::Touch;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// Bytes of a page.
const PAGE: u64 = 4096;
const LINES: usize = PAGE as usize / 64;

/// What blocks did to 64 neighbouring bytes, one bit each.
#[derive(Default)]
struct Line {
    read: AtomicU64,
    written: AtomicU64,
}

/// What few kernels do.
#[derive(Default)]
struct RareLine {
    /// Read by more than one block.
    read_again: AtomicU64,
    atomic: AtomicU64,
    /// Atomically updated by more than one block.
    atomic_again: AtomicU64,
    read_only: AtomicU64,
}

/// What blocks did to a page.
struct Page {
    lines: [Line; LINES],
    /// Whether `rare` may have bits: stored before any is, in one order with all of them.
    is_rare: AtomicBool,
    rare: OnceLock<Box<[RareLine; LINES]>>,
}

impl Page {
    fn new() -> Box<Self> {
        let lines = [const { Line { read: AtomicU64::new(0), written: AtomicU64::new(0) } }; LINES];
        Box::new(Self { lines, is_rare: AtomicBool::new(false), rare: OnceLock::new() })
    }

    /// As new.
    fn clear(&mut self) {
        for line in &mut self.lines {
            (*line.read.get_mut(), *line.written.get_mut()) = (0, 0);
        }
        *self.is_rare.get_mut() = false;
        self.rare.take();
    }

    /// The rare bits, where there may be any.
    #[inline]
    fn rare(&self, line: usize) -> Option<&RareLine> {
        if self.is_rare.load(Ordering::SeqCst) { self.rare.get().map(|lines| &lines[line]) } else { None }
    }

    /// The rare bits, of which some will be set.
    fn make_rare(&self, line: usize) -> &RareLine {
        let lines = self.rare.get_or_init(|| Box::new(std::array::from_fn(|_| RareLine::default())));
        self.is_rare.store(true, Ordering::SeqCst);
        &lines[line]
    }

    /// How many of its 32-byte sectors were touched at all.
    fn sectors(&self) -> u64 {
        let count = |line: usize| {
            let mut touched = bits(&self.lines[line].read) | bits(&self.lines[line].written);
            if let Some(rare) = self.rare(line) {
                touched |= bits(&rare.atomic) | bits(&rare.read_only);
            }
            u64::from(touched as u32 != 0) + u64::from(touched >> 32 != 0)
        };
        (0..LINES).map(count).sum()
    }
}

fn bits(place: &AtomicU64) -> u64 {
    place.load(Ordering::Relaxed)
}

type Pages = Box<[OnceLock<Box<Page>>]>;

/// The shadow of a launch; allocations are known by their number.
pub(crate) struct LaunchShadow {
    allocations: Vec<(u64, OnceLock<Pages>)>,
    spare: Mutex<Spare>,
}

/// Pages of earlier launches: fresh ones cost more than to clear these.
#[derive(Default)]
#[allow(clippy::vec_box, reason = "a page that is in use is a box too")]
pub(crate) struct Spare(Vec<Box<Page>>);

impl std::fmt::Debug for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pages", self.0.len())
    }
}

/// The most pages that are kept, about 1 KiB each.
const MOST_SPARE: usize = 1 << 16;

impl LaunchShadow {
    /// A shadow for allocations of these lengths.
    pub fn new(lengths: impl Iterator<Item = u64>, spare: Spare) -> Self {
        let allocations = lengths.map(|length| (length, OnceLock::new())).collect();
        Self { allocations, spare: Mutex::new(spare) }
    }

    /// The pages, for another launch.
    pub fn into_spare(self) -> Spare {
        let mut spare = self.spare.into_inner().unwrap_or_default();
        let pages = self.allocations.into_iter().filter_map(|(_, pages)| pages.into_inner()).flatten();
        spare.0.extend(pages.filter_map(OnceLock::into_inner));
        spare.0.truncate(MOST_SPARE);
        spare
    }

    fn fresh(&self) -> Box<Page> {
        match self.spare.lock().ok().and_then(|mut spare| spare.0.pop()) {
            Some(mut page) => {
                page.clear();
                page
            }
            None => Page::new(),
        }
    }

    fn page(&self, allocation: usize, page: u64) -> &Page {
        let (length, pages) = &self.allocations[allocation];
        let pages = pages.get_or_init(|| (0..length.div_ceil(PAGE)).map(|_| OnceLock::new()).collect());
        pages[page as usize].get_or_init(|| self.fresh())
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
    atomic: Option<Box<[u64; LINES]>>,
}

/// What one block did to the bytes of a line.
#[derive(Default, Clone, Copy)]
struct OwnLine {
    read: u64,
    written: u64,
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
            let own = &mut self.own[number];
            while at < stop {
                let (line, to) = (at / 64, stop.min((at / 64 + 1) * 64));
                let bits = (u64::MAX >> (64 - (to - at))) << (at % 64);
                own.touch(touch, line as usize % LINES, bits)
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
            self.own.push(Own { page, lines: [OwnLine::default(); LINES], atomic: None });
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

impl Own<'_> {
    #[inline]
    fn touch(&mut self, touch: Touch, line: usize, bits: u64) -> Outcome {
        let own = self.lines[line];
        match touch {
            Touch::Read if bits & !own.read == 0 => Ok(()),
            Touch::Read => self.read(line, bits & !own.read),
            Touch::Write => {
                if bits & !own.written != 0 {
                    self.write(line, bits & !own.written)?;
                }
                self.not_read_only(line, bits)
            }
            Touch::Atomic => self.update(line, bits),
            Touch::ReadOnly => self.read_only(line, bits),
        }
    }

    #[inline]
    fn read(&mut self, line: usize, new: u64) -> Outcome {
        let (own, all) = (&mut self.lines[line], &self.page.lines[line]);
        own.read |= new;
        let before = set(&all.read, new);
        if before != 0 {
            set(&self.page.make_rare(line).read_again, before);
        }
        refuse(get(&all.written, new) & !own.written, Conflict::Wrote)?;
        refuse(self.updated_by_others(line, new), Conflict::Updated)
    }

    #[inline]
    fn write(&mut self, line: usize, new: u64) -> Outcome {
        self.lines[line].written |= new;
        refuse(set(&self.page.lines[line].written, new), Conflict::Wrote)?;
        refuse(self.read_by_others(line, new), Conflict::Read)?;
        refuse(self.updated_by_others(line, new), Conflict::Updated)
    }

    fn update(&mut self, line: usize, bits: u64) -> Outcome {
        let own = &mut self.atomic.get_or_insert_with(|| Box::new([0; LINES]))[line];
        let new = bits & !*own;
        if new != 0 {
            *own |= new;
            let rare = self.page.make_rare(line);
            let before = set(&rare.atomic, new);
            if before != 0 {
                set(&rare.atomic_again, before);
            }
            refuse(get(&self.page.lines[line].written, new) & !self.lines[line].written, Conflict::Wrote)?;
            refuse(self.read_by_others(line, new), Conflict::Read)?;
        }
        self.not_read_only(line, bits)
    }

    fn read_only(&self, line: usize, bits: u64) -> Outcome {
        let rare = self.page.make_rare(line);
        if get(&rare.read_only, bits) == bits {
            return Ok(());
        }
        set(&rare.read_only, bits);
        let written = get(&self.page.lines[line].written, bits);
        refuse(written | get(&rare.atomic, bits), Conflict::WroteReadOnly)
    }

    #[inline]
    fn read_by_others(&self, line: usize, bits: u64) -> u64 {
        let others = get(&self.page.lines[line].read, bits) & !self.lines[line].read;
        others | self.page.rare(line).map_or(0, |rare| get(&rare.read_again, bits))
    }

    #[inline]
    fn updated_by_others(&self, line: usize, bits: u64) -> u64 {
        let Some(rare) = self.page.rare(line) else { return 0 };
        let own = self.atomic.as_ref().map_or(0, |lines| lines[line]);
        get(&rare.atomic, bits) & !own | get(&rare.atomic_again, bits)
    }

    #[inline]
    fn not_read_only(&self, line: usize, bits: u64) -> Outcome {
        refuse(self.page.rare(line).map_or(0, |rare| get(&rare.read_only, bits)), Conflict::ReadOnly)
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
