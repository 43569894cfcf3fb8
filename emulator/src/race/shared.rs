//! Shared memory's shadow: for each byte who wrote and read it last, and whether a barrier lies between.
//!
//! Agents are warps. Time counts completed barriers. `known[v][r]` is the time up to which warp v knows what warp r did:
//! a barrier hands what each of its warps knows to all of them. An access at time t by r lies before v's present where
//! t < known[v][r]. Sixteen bytes that are written at once have one entry until parts of them are touched; then each word
//! has its own, and each byte of a word of which parts are touched.

use super::entries::{APART, Common, Entry, Words, Write};
use super::reason::Reason;
use super::{Access, Touch};
use crate::trap::Fault;
use std::collections::HashMap;
use std::ops::Range;

/// The most warps of a block.
const WARPS: usize = 32;

/// The shadow of one block's shared memory.
#[derive(Debug)]
pub(crate) struct Shadow {
    sixteens: Words,
    /// Counts where the sixteen is split.
    words: Words,
    /// Counts where the word is split.
    bytes: Vec<Entry>,
    apart: HashMap<usize, Box<[u32; WARPS]>>,
    /// Of the readers of a byte that atomics wrote, those that read it plainly.
    plain: HashMap<usize, u32>,
    now: u32,
    known: Box<[[u32; WARPS]; WARPS]>,
    /// The time up to which each warp knows what every warp of the block did.
    known_of_all: [u32; WARPS],
    warps: usize,
}

/// The byte at fault and what is wrong there.
pub(crate) type Outcome = Result<(), (u64, Box<Fault>)>;

impl Shadow {
    /// A shadow for a block of so many warps.
    pub fn new(bytes: u64, warps: u32) -> Self {
        let sixteens = (bytes as usize).div_ceil(16);
        Self {
            sixteens: Words::new(sixteens),
            words: Words::new(4 * sixteens),
            bytes: Vec::new(),
            apart: HashMap::new(),
            plain: HashMap::new(),
            now: 1,
            known: Box::new([[0; WARPS]; WARPS]),
            known_of_all: [0; WARPS],
            warps: (warps as usize).min(WARPS),
        }
    }

    /// Another block starts.
    pub fn restart(&mut self) {
        self.sixteens.restart();
        self.bytes.clear();
        self.apart.clear();
        self.plain.clear();
        self.now = 1;
        *self.known = [[0; WARPS]; WARPS];
        self.known_of_all = [0; WARPS];
    }

    fn common(&self, access: Access) -> Common {
        Common { access, now: self.now, known: self.known_of_all[access.warp as usize] }
    }

    /// A warp touches 16 bytes at each of these.
    #[inline(always)]
    pub fn touch_rows(&mut self, access: Access, mut starts: &[u64]) -> Outcome {
        let common = self.common(access);
        while let Some(at) = self.sixteens.common_rows(common, starts) {
            self.sixteen(access, (starts[at] / 16) as usize)?;
            starts = &starts[at + 1..];
        }
        Ok(())
    }

    /// A warp touches the bytes of these ranges, `unit` at a time.
    #[inline(always)]
    pub fn touch(&mut self, access: Access, unit: u64, ranges: impl Iterator<Item = Range<u64>>) -> Outcome {
        for range in ranges {
            match unit {
                16 => self.access_sixteens(access, range.start, range.end)?,
                _ => self.access(access, range.start, range.end)?,
            }
        }
        Ok(())
    }

    /// A copy of `warp` into 16 bytes has arrived.
    #[inline(always)]
    pub fn land_row(&mut self, warp: u8, start: u64) {
        self.sixteens.set((start / 16) as usize, Entry { write: Write::Plain(warp, self.now), ..Entry::default() });
    }

    /// A copy of `warp` into words has arrived.
    pub fn land(&mut self, warp: u8, start: u64, end: u64) {
        let entry = Entry { write: Write::Plain(warp, self.now), ..Entry::default() };
        self.split_sixteen((start / 16) as usize);
        (start / 4..end / 4).for_each(|word| self.words.set(word as usize, entry));
    }

    /// An access by words or bytes.
    #[inline(always)]
    fn access(&mut self, access: Access, start: u64, end: u64) -> Outcome {
        let sixteens = (start / 16) as usize..end.div_ceil(16) as usize;
        if !self.sixteens.are_split(sixteens.clone()) {
            sixteens.for_each(|at| self.split_sixteen(at));
        }
        if !start.is_multiple_of(4) || !end.is_multiple_of(4) {
            return self.access_bytes(access, start, end);
        }
        let (mut word, last) = ((start / 4) as usize, (end / 4) as usize);
        let common = self.common(access);
        while word < last {
            let (count, is_common) = match last - word {
                8.. => (8, self.words.common::<8>(common, word)),
                4.. => (4, self.words.common::<4>(common, word)),
                _ => (1, self.words.common::<1>(common, word)),
            };
            if !is_common {
                self.whole_words(access, word, count)?;
            }
            word += count;
        }
        Ok(())
    }

    /// An access by sixteens of bytes.
    #[inline(always)]
    fn access_sixteens(&mut self, access: Access, start: u64, end: u64) -> Outcome {
        let (mut at, last) = ((start / 16) as usize, (end / 16) as usize);
        let common = self.common(access);
        while at < last {
            let (count, is_common) = match last - at {
                8.. => (8, self.sixteens.common::<8>(common, at)),
                _ => (1, self.sixteens.common::<1>(common, at)),
            };
            if !is_common {
                (at..at + count).try_for_each(|at| self.sixteen(access, at))?;
            }
            at += count;
        }
        Ok(())
    }

    /// An access to sixteen bytes that may not be common, or where their words have entries of their own.
    #[inline(never)]
    fn sixteen(&mut self, access: Access, at: usize) -> Outcome {
        let common = self.common(access);
        if self.sixteens.common::<1>(common, at) {
            return Ok(());
        }
        self.split_sixteen(at);
        if !self.words.common::<4>(common, 4 * at) {
            self.whole_words(access, 4 * at, 4)?;
        }
        if access.touch == Touch::Write {
            self.sixteens.set(at, self.words.get(4 * at));
        }
        Ok(())
    }

    /// Gives each word of sixteen bytes its own entry.
    fn split_sixteen(&mut self, at: usize) {
        let entry = self.sixteens.get(at);
        if entry.write != Write::Split {
            (4 * at..4 * at + 4).for_each(|word| self.words.set(word, entry));
            self.sixteens.set(at, Entry { write: Write::Split, ..Entry::default() });
        }
    }

    #[inline(never)]
    fn whole_words(&mut self, access: Access, first: usize, count: usize) -> Outcome {
        (first..first + count).try_for_each(|word| self.whole_word(access, word))
    }

    fn access_bytes(&mut self, access: Access, start: u64, end: u64) -> Outcome {
        let mut at = start;
        while at < end {
            let word = (at / 4) as usize;
            if at.is_multiple_of(4) && at + 4 <= end {
                self.whole_word(access, word)?;
                at += 4;
            } else {
                self.split(word);
                self.one(access, at as usize, true)?;
                at += 1;
            }
        }
        Ok(())
    }

    fn whole_word(&mut self, access: Access, word: usize) -> Outcome {
        if self.words.get(word).write != Write::Split {
            return self.one(access, word, false);
        }
        (4 * word..4 * word + 4).try_for_each(|byte| self.one(access, byte, true))?;
        if access.touch == Touch::Write {
            self.words.set(word, self.bytes[4 * word]);
        }
        Ok(())
    }

    /// Gives each byte of a word its own entry.
    fn split(&mut self, word: usize) {
        let entry = self.words.get(word);
        if entry.write == Write::Split {
            return;
        }
        if self.bytes.is_empty() {
            self.bytes = vec![Entry::default(); 4 * self.words.len()];
        }
        let times = self.apart.get(&self.key(word, false)).cloned();
        for byte in 4 * word..4 * word + 4 {
            self.bytes[byte] = entry;
            if let (APART, Some(times)) = (entry.read_time, &times) {
                self.apart.insert(self.key(byte, true), times.clone());
            }
        }
        self.words.set(word, Entry { write: Write::Split, ..Entry::default() });
    }

    fn key(&self, at: usize, byte: bool) -> usize {
        2 * at + usize::from(byte)
    }

    /// An access to one entry.
    fn one(&mut self, access: Access, at: usize, byte: bool) -> Outcome {
        let entry = if byte { self.bytes[at] } else { self.words.get(at) };
        let place = if byte { at } else { 4 * at };
        self.check(access, entry, self.key(at, byte)).map_err(|reason| reason.fault(access, place))?;
        let entry = self.after(access, entry, self.key(at, byte));
        if byte {
            self.bytes[at] = entry;
        } else {
            self.words.set(at, entry);
        }
        Ok(())
    }

    /// Whether what `warp` did at `time` lies before `access`.
    fn before(&self, access: Access, warp: u8, time: u32) -> bool {
        warp == access.warp || time < self.known[access.warp as usize][warp as usize]
    }

    fn check(&self, access: Access, entry: Entry, key: usize) -> Result<(), Reason> {
        let reads = access.touch != Touch::Write;
        match entry.write {
            Write::Never | Write::Split if reads => return Err(Reason::Unwritten),
            Write::Never | Write::Split => {}
            Write::InFlight(warp) => return Err(Reason::InFlight(warp)),
            Write::Plain(warp, time) if !self.before(access, warp, time) => return Err(Reason::Wrote(warp)),
            Write::Atomic(warp, time) if access.touch != Touch::Atomic && !self.before(access, warp, time) => {
                return Err(Reason::Wrote(warp));
            }
            Write::Plain(..) | Write::Atomic(..) => {}
        }
        let atomic = matches!(entry.write, Write::Atomic(..));
        // Every reader matters to a writer, atomics to a reader, plain readers to an atomic.
        let readers = match access.touch {
            Touch::Read | Touch::ReadOnly if !atomic => 0,
            Touch::Atomic if atomic => entry.readers & self.plain.get(&key).copied().unwrap_or(0),
            _ => entry.readers,
        };
        match self.unordered(access, Entry { readers, ..entry }, key) {
            Some(warp) => Err(Reason::Read(warp)),
            None => Ok(()),
        }
    }

    /// A reader that does not lie before `access`.
    fn unordered(&self, access: Access, entry: Entry, key: usize) -> Option<u8> {
        let mut left = entry.readers;
        std::iter::from_fn(|| {
            let warp = (left != 0).then(|| left.trailing_zeros() as u8);
            left &= left.wrapping_sub(1);
            warp
        })
        .find(|&warp| !self.before(access, warp, self.read_time(entry, key, warp)))
    }

    fn read_time(&self, entry: Entry, key: usize, warp: u8) -> u32 {
        match entry.read_time {
            APART => self.apart.get(&key).map_or(0, |times| times[warp as usize]),
            time => time,
        }
    }

    /// The entry once `access` has happened.
    fn after(&mut self, access: Access, entry: Entry, key: usize) -> Entry {
        let Access { warp, touch, flight } = access;
        let read = |entry: Entry, shadow: &mut Self| {
            let (readers, read_time) = shadow.readers_after(access, entry, key);
            Entry { readers, read_time, ..entry }
        };
        if touch == Touch::Write && !self.plain.is_empty() {
            self.plain.remove(&key);
        }
        if touch == Touch::Read && matches!(entry.write, Write::Atomic(..)) {
            *self.plain.entry(key).or_default() |= 1 << warp;
        }
        match touch {
            Touch::Write if flight => Entry { write: Write::InFlight(warp), ..Entry::default() },
            Touch::Write => Entry { write: Write::Plain(warp, self.now), ..Entry::default() },
            Touch::Atomic => Entry { write: Write::Atomic(warp, self.now), ..read(entry, self) },
            Touch::Read | Touch::ReadOnly => read(entry, self),
        }
    }

    fn readers_after(&mut self, access: Access, entry: Entry, key: usize) -> (u32, u32) {
        let bit = 1 << access.warp;
        if entry.readers & !bit == 0 || self.unordered(access, entry, key).is_none() && entry.read_time != self.now {
            return (bit, self.now);
        }
        if entry.read_time == self.now {
            return (entry.readers | bit, self.now);
        }
        let now = self.now;
        if entry.read_time != APART {
            self.apart.insert(key, Box::new([entry.read_time; WARPS]));
        }
        if let Some(times) = self.apart.get_mut(&key) {
            times[access.warp as usize] = now;
        }
        (entry.readers | bit, APART)
    }

    /// A warp passes a barrier without waiting; the time tells later what came before.
    pub fn pass(&mut self) -> u32 {
        self.now += 1;
        self.now
    }

    /// A barrier is complete: the warps that waited now know what all that arrived knew. One that did not wait arrived at
    /// its time.
    pub fn complete(&mut self, waiting: u32, arrived: &[(u8, u32)]) {
        self.now += 1;
        let mut together = [0; WARPS];
        for &(warp, time) in arrived {
            for (all, one) in together.iter_mut().zip(self.known[warp as usize]) {
                *all = (*all).max(one);
            }
            let time = if waiting >> warp & 1 != 0 { self.now } else { time };
            together[warp as usize] = together[warp as usize].max(time);
        }
        let known_of_all = together[..self.warps].iter().copied().min().unwrap_or(0);
        for &(warp, _) in arrived.iter().filter(|(warp, _)| waiting >> warp & 1 != 0) {
            self.known[warp as usize] = together;
            self.known_of_all[warp as usize] = known_of_all;
        }
    }
}
