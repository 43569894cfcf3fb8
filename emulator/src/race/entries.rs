//! What shared memory's shadow knows of bytes: an entry each, packed so that many are checked at once.

use super::{Access, Touch};
use std::ops::Range;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Entry {
    /// Who wrote last.
    pub write: Write,
    /// Who read since the last write, as bits; atomics read as well.
    pub readers: u32,
    /// When they read; [`APART`] where they did at different times that matter.
    pub read_time: u32,
}

/// The readers' times are in `Shadow::apart`.
pub(super) const APART: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) enum Write {
    #[default]
    Never,
    /// The parts have entries of their own.
    Split,
    Plain(u8, u32),
    Atomic(u8, u32),
    /// An asynchronous copy that its warp has not waited for.
    InFlight(u8),
}

/// The entries of all words, or sixteens of bytes, each part beside its like, so that many are checked at once.
#[derive(Debug)]
pub(super) struct Words {
    /// The last write's time, kind and warp.
    writes: Vec<u64>,
    /// When it was read since, and by whom.
    reads: Vec<u64>,
}

/// The kinds in [`Words::writes`], beside the warp. What has never been written is 0, so that memory needs no filling.
const KIND: u64 = COMMON | 0xff00;
const COMMON: u64 = 1 << 62;
const NEVER: u64 = 0;
const SPLIT: u64 = 1 << 8;
const PLAIN: u64 = COMMON | 2 << 8;
const ATOMIC: u64 = 3 << 8;
const IN_FLIGHT: u64 = 4 << 8;

/// As in [`Words::writes`].
fn write_bits(kind: u64, warp: u8, time: u32) -> u64 {
    u64::from(time) << 16 | kind | u64::from(warp)
}

/// As in [`Words::reads`].
fn read_bits(time: u32, readers: u32) -> u64 {
    u64::from(time) << 32 | u64::from(readers)
}

impl Words {
    pub fn new(words: usize) -> Self {
        Self { writes: vec![0; words], reads: vec![0; words] }
    }

    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether the parts of all of these have entries of their own.
    #[inline(always)]
    pub fn are_split(&self, range: Range<usize>) -> bool {
        self.writes.get(range).is_some_and(|writes| writes.iter().all(|&write| write == SPLIT))
    }

    pub fn restart(&mut self) {
        self.writes.fill(NEVER);
        self.reads.fill(0);
    }

    pub fn get(&self, at: usize) -> Entry {
        let (write, read) = (self.writes[at], self.reads[at]);
        let (warp, time) = (write as u8, (write >> 16) as u32);
        let write = match write & KIND {
            NEVER => Write::Never,
            SPLIT => Write::Split,
            PLAIN => Write::Plain(warp, time),
            ATOMIC => Write::Atomic(warp, time),
            _ => Write::InFlight(warp),
        };
        Entry { write, readers: read as u32, read_time: (read >> 32) as u32 }
    }

    #[inline(always)]
    pub fn set(&mut self, at: usize, entry: Entry) {
        self.writes[at] = match entry.write {
            Write::Never => NEVER,
            Write::Split => SPLIT,
            Write::Plain(warp, time) => write_bits(PLAIN, warp, time),
            Write::Atomic(warp, time) => write_bits(ATOMIC, warp, time),
            Write::InFlight(warp) => write_bits(IN_FLIGHT, warp, 0),
        };
        self.reads[at] = read_bits(entry.read_time, entry.readers);
    }

    /// The common accesses to `N` entries, noted; false where it is none of these, with nothing noted.
    #[inline(always)]
    pub fn common<const N: usize>(&mut self, common: Common, first: usize) -> bool {
        fn part<const N: usize>(all: &mut [u64], first: usize) -> Option<&mut [u64; N]> {
            all.get_mut(first..)?.first_chunk_mut()
        }
        match (part(&mut self.writes, first), part(&mut self.reads, first)) {
            (Some(writes), Some(reads)) => common.note::<N>(writes, reads),
            _ => false,
        }
    }

    /// As [`Self::common`], for the entries that these bytes start; gives the first that is none of these.
    #[inline(always)]
    pub fn common_rows(&mut self, common: Common, starts: &[u64]) -> Option<usize> {
        let writes = self.writes.as_mut_slice();
        let reads = &mut self.reads[..writes.len()];
        for (number, start) in starts.iter().enumerate() {
            let at = (start / 16) as usize;
            if at >= writes.len()
                || !common.note(std::array::from_mut(&mut writes[at]), std::array::from_mut(&mut reads[at]))
            {
                return Some(number);
            }
        }
        None
    }
}

/// What makes an access common: all is in order, and known to be by the time that every warp's deeds are known up to.
#[derive(Clone, Copy)]
pub(super) struct Common {
    pub access: Access,
    pub now: u32,
    pub known: u32,
}

impl Common {
    /// Notes the access to `N` entries; false where it is not common, with nothing noted.
    #[inline(always)]
    fn note<const N: usize>(self, writes: &mut [u64; N], reads: &mut [u64; N]) -> bool {
        let Self { access: Access { warp, touch, flight }, now, known } = self;
        let (mine, bit) = (write_bits(PLAIN, warp, 0), 1 << warp);
        // Without the mark of common kinds, a time orders those before all others.
        let wrote = |write: u64| (write as u16 != mine as u16) & (write ^ COMMON >= write_bits(0, 0, known));
        let read = |read: u64| (read as u32 & !bit != 0) & (read >= read_bits(known, 0));
        let mut odd = false;
        match touch {
            Touch::Read => {
                let now_too = |read: u64| read >> 32 == u64::from(now);
                for at in 0..N {
                    odd |= wrote(writes[at]) | read(reads[at]) & !now_too(reads[at]);
                }
                if !odd {
                    for read in reads {
                        *read = if now_too(*read) { *read | u64::from(bit) } else { read_bits(now, bit) };
                    }
                }
            }
            Touch::Write => {
                for at in 0..N {
                    odd |= wrote(writes[at]) & (writes[at] != NEVER) | read(reads[at]);
                }
                if !odd {
                    *writes = [if flight { write_bits(IN_FLIGHT, warp, 0) } else { write_bits(PLAIN, warp, now) }; N];
                    *reads = [0; N];
                }
            }
            Touch::Atomic | Touch::ReadOnly => odd = true,
        }
        !odd
    }
}
