//! Global memory's shadow during one launch: for each byte which blocks read, wrote or atomically updated it.
//!
//! One bit for each question and word of four bytes, in pages of 4 KiB that exist once touched; of a word that is touched in
//! part, one bit for each of its bytes. A block sets its bits in the launch's page as it goes, as one step each in one order
//! for all threads, and keeps its own bits beside: a bit that is set there but not here was set by another block. Whoever
//! touches words looks at the bits of their bytes, and the other way round, after setting its own. So every race is seen by
//! the later of the two, whatever the order.

use super::Touch;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes of a line of 64 words.
pub(crate) const LINE: u64 = 256;
/// Lines of 64 words in a page.
const WORD_LINES: usize = (PAGE / LINE) as usize;
/// Lines of 64 bytes in a page.
const BYTE_LINES: usize = PAGE as usize / 64;

/// What blocks did to 64 neighbouring words or bytes, one bit each.
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

/// What blocks did to the words, or the bytes, of a page.
struct Lines<const N: usize> {
    common: [Line; N],
    /// Whether `rare` may have bits: stored before any is, in one order with all of them.
    is_rare: AtomicBool,
    rare: OnceLock<Box<[RareLine; N]>>,
}

impl<const N: usize> Lines<N> {
    fn new() -> Self {
        let common = [const { Line { read: AtomicU64::new(0), written: AtomicU64::new(0) } }; N];
        Self { common, is_rare: AtomicBool::new(false), rare: OnceLock::new() }
    }

    /// The rare bits, where there may be any.
    #[inline]
    fn rare(&self, line: usize) -> Option<&RareLine> {
        if self.is_rare.load(Ordering::SeqCst) { self.rare.get().map(|lines| &lines[line]) } else { None }
    }

    /// The rare bits, of which some will be set.
    fn make_rare(&self, line: usize) -> &RareLine {
        let lines = self.rare.get_or_init(|| Box::new(std::array::from_fn(|_| RareLine::default())));
        raise(&self.is_rare);
        &lines[line]
    }

    /// What any block touched.
    fn touched(&self, line: usize) -> u64 {
        let all = get(&self.common[line].read, u64::MAX) | get(&self.common[line].written, u64::MAX);
        all | self.rare(line).map_or(0, |rare| get(&rare.atomic, u64::MAX) | get(&rare.read_only, u64::MAX))
    }
}

/// What blocks did to a page.
struct Page {
    words: Lines<WORD_LINES>,
    /// Whether `bytes` may have bits: stored before any is, in one order with all of them.
    is_split: AtomicBool,
    bytes: OnceLock<Box<Lines<BYTE_LINES>>>,
}

impl Page {
    fn new() -> Self {
        Self { words: Lines::new(), is_split: AtomicBool::new(false), bytes: OnceLock::new() }
    }

    /// The bytes' bits, where there may be any.
    #[inline]
    fn bytes(&self) -> Option<&Lines<BYTE_LINES>> {
        if self.is_split.load(Ordering::SeqCst) { self.bytes.get().map(|lines| &**lines) } else { None }
    }

    /// The bytes' bits, of which some will be set.
    fn make_bytes(&self) -> &Lines<BYTE_LINES> {
        let lines = self.bytes.get_or_init(|| Box::new(Lines::new()));
        raise(&self.is_split);
        lines
    }

    /// How many of its 32-byte sectors were touched at all.
    fn sectors(&self) -> u64 {
        let Some(bytes) = self.bytes() else {
            return (0..WORD_LINES).map(|line| eighths(self.words.touched(line))).sum();
        };
        let count = |line: usize| {
            let words = (self.words.touched(line / 4) >> (16 * (line % 4))) as u16;
            let touched = bytes_of(words) | bytes.touched(line);
            u64::from(touched as u32 != 0) + u64::from(touched >> 32 != 0)
        };
        (0..BYTE_LINES).map(count).sum()
    }
}

/// How many of a word's bytes are not zero.
fn eighths(bits: u64) -> u64 {
    let bits = bits | bits >> 4;
    let bits = bits | bits >> 2;
    ((bits | bits >> 1) & 0x0101_0101_0101_0101).count_ones().into()
}

fn raise(flag: &AtomicBool) {
    if !flag.load(Ordering::SeqCst) {
        flag.store(true, Ordering::SeqCst);
    }
}

/// The bytes of words.
fn bytes_of(words: u16) -> u64 {
    let spread = |bits: u64, by: u32, kept: u64| (bits | bits << by) & kept;
    let bits = spread(words.into(), 24, 0x0000_00ff_0000_00ff);
    let bits = spread(spread(bits, 12, 0x000f_000f_000f_000f), 6, 0x0303_0303_0303_0303);
    spread(bits, 3, 0x1111_1111_1111_1111) * 15
}

/// The words of bytes.
fn words_of(bytes: u64) -> u16 {
    let is_touched = |word: &u32| bytes >> (4 * word) & 15 != 0;
    (0..16).filter(is_touched).fold(0, |words, word| words | 1 << word)
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

/// The most pages that are kept, about 300 bytes each.
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
                *page = Page::new();
                page
            }
            None => Box::new(Page::new()),
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

/// What one block did to a page's words, or bytes.
struct OwnLines<const N: usize> {
    read: [u64; N],
    written: [u64; N],
    atomic: Option<Box<[u64; N]>>,
}

impl<const N: usize> Default for OwnLines<N> {
    fn default() -> Self {
        Self { read: [0; N], written: [0; N], atomic: None }
    }
}

/// What one block did to a page.
struct Own<'l> {
    page: &'l Page,
    words: OwnLines<WORD_LINES>,
    bytes: Option<Box<OwnLines<BYTE_LINES>>>,
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
    #[inline]
    pub fn touch(&mut self, allocation: usize, touch: Touch, start: u64, end: u64) -> Outcome {
        let mut at = start;
        while at < end {
            let whole = at.is_multiple_of(4) && end - at >= 4;
            let to = match whole {
                true => end.min((at / LINE + 1) * LINE) & !3,
                false => end.min((at / 4 + 1) * 4),
            };
            let number = self.number(allocation, at / PAGE);
            let (own, place) = (&mut self.own[number], at % PAGE);
            let touched = match whole {
                true => own.touch_words(touch, (place / LINE) as usize, ones(at / 4, to / 4)),
                false => own.touch_bytes(touch, place as usize / 64, ones(at, to)),
            };
            touched.map_err(|(conflict, byte)| (conflict, at - place + byte))?;
            at = to;
        }
        Ok(())
    }

    /// The block touches words of the line that the byte `at` lies in. Gives the first conflict and its byte.
    #[inline]
    pub fn touch_words(&mut self, allocation: usize, touch: Touch, at: u64, words: u64) -> Outcome {
        let number = self.number(allocation, at / PAGE);
        let (page, line) = (at / PAGE * PAGE, (at % PAGE / LINE) as usize);
        let touched = self.own[number].touch_words(touch, line, words);
        touched.map_err(|(conflict, byte)| (conflict, page + byte))
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
            self.own.push(Own { page, words: OwnLines::default(), bytes: None });
            self.own.len() as u32 - 1
        })
    }
}

/// The bits from `start` to before `end`, of numbers that share a line.
#[inline]
pub(crate) fn ones(start: u64, end: u64) -> u64 {
    (u64::MAX >> (64 - (end - start))) << (start % 64)
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

/// A conflict, and its first byte or the bits of all its words or bytes.
type Outcome = Result<(), (Conflict, u64)>;

/// The conflict, where there are such bits.
#[inline]
fn refuse(bits: u64, conflict: Conflict) -> Outcome {
    if bits == 0 { Ok(()) } else { Err((conflict, bits)) }
}

/// A conflict with its first byte in the page instead of the bits of a line of units of so many bytes.
fn first_byte<const UNIT: u64>(line: usize) -> impl Fn((Conflict, u64)) -> (Conflict, u64) {
    move |(conflict, bits)| (conflict, UNIT * (64 * line as u64 + u64::from(bits.trailing_zeros())))
}

impl Own<'_> {
    /// Touches words of a line; a conflict comes with its first byte in the page.
    #[inline]
    fn touch_words(&mut self, touch: Touch, line: usize, words: u64) -> Outcome {
        let is_new = self.words.touch(&self.page.words, touch, line, words).map_err(first_byte::<4>(line))?;
        match self.page.bytes() {
            Some(bytes) if is_new => self.check_bytes(bytes, touch, line, words),
            _ => Ok(()),
        }
    }

    /// Checks words against what blocks did to their bytes alone.
    fn check_bytes(&self, all: &Lines<BYTE_LINES>, touch: Touch, line: usize, words: u64) -> Outcome {
        let none = OwnLines::default();
        let own = self.bytes.as_deref().unwrap_or(&none);
        (0..4).try_for_each(|part| {
            let (line, bits) = (4 * line + part, bytes_of((words >> (16 * part)) as u16));
            own.check(all, touch, line, bits).map_err(first_byte::<1>(line))
        })
    }

    /// Touches bytes of a word.
    fn touch_bytes(&mut self, touch: Touch, line: usize, bytes: u64) -> Outcome {
        let own = self.bytes.get_or_insert_default();
        own.touch(self.page.make_bytes(), touch, line, bytes).map_err(first_byte::<1>(line))?;
        let words = u64::from(words_of(bytes)) << (16 * (line % 4));
        self.words
            .check(&self.page.words, touch, line / 4, words)
            .map_err(|(conflict, _)| first_byte::<1>(line)((conflict, bytes)))
    }
}

impl<const N: usize> OwnLines<N> {
    /// Notes the access and checks it against those of its kind, words or bytes; gives whether the others may matter.
    #[inline]
    fn touch(&mut self, all: &Lines<N>, touch: Touch, line: usize, bits: u64) -> Result<bool, (Conflict, u64)> {
        match touch {
            Touch::Read => {
                let new = bits & !self.read[line];
                if new == 0 {
                    return Ok(false);
                }
                self.read[line] |= new;
                let before = set(&all.common[line].read, new);
                if before != 0 {
                    set(&all.make_rare(line).read_again, before);
                }
            }
            Touch::Write => {
                let new = bits & !self.written[line];
                if new != 0 {
                    self.written[line] |= new;
                    refuse(set(&all.common[line].written, new), Conflict::Wrote)?;
                }
            }
            Touch::Atomic => {
                let own = &mut self.atomic.get_or_insert_with(|| Box::new([0; N]))[line];
                let new = bits & !*own;
                *own |= new;
                let rare = all.make_rare(line);
                let before = set(&rare.atomic, new);
                if before != 0 {
                    set(&rare.atomic_again, before);
                }
            }
            Touch::ReadOnly => {
                let rare = all.make_rare(line);
                if get(&rare.read_only, bits) == bits {
                    return Ok(false);
                }
                set(&rare.read_only, bits);
            }
        }
        self.check(all, touch, line, bits)?;
        Ok(true)
    }

    /// Checks an access against what others did.
    #[inline]
    fn check(&self, all: &Lines<N>, touch: Touch, line: usize, bits: u64) -> Outcome {
        let (common, rare) = (&all.common[line], all.rare(line));
        let written = get(&common.written, bits);
        if touch == Touch::ReadOnly {
            return refuse(written | rare.map_or(0, |rare| get(&rare.atomic, bits)), Conflict::WroteReadOnly);
        }
        refuse(written & !self.written[line], Conflict::Wrote)?;
        if touch != Touch::Read {
            let again = rare.map_or(0, |rare| get(&rare.read_again, bits));
            refuse(get(&common.read, bits) & !self.read[line] | again, Conflict::Read)?;
        }
        let Some(rare) = rare else { return Ok(()) };
        if touch != Touch::Atomic {
            let own = self.atomic.as_ref().map_or(0, |lines| lines[line]);
            refuse(get(&rare.atomic, bits) & !own | get(&rare.atomic_again, bits), Conflict::Updated)?;
        }
        if touch != Touch::Read { refuse(get(&rare.read_only, bits), Conflict::ReadOnly) } else { Ok(()) }
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
