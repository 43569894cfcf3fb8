//! A device: its memory, and launches on it.

use crate::module::Module;
use crate::race::global::Spare;
use crate::run::raw::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A GPU that is imitated: what differs between them is how much shared memory a block may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arch {
    /// Compute capability 8.0: 163 KiB of shared memory for a block.
    #[default]
    Sm80,
    /// Compute capability 8.6: 99 KiB.
    Sm86,
    /// Compute capability 8.9: 99 KiB.
    Sm89,
}

impl Arch {
    /// The most bytes of shared memory that a block may have.
    pub fn shared_limit(self) -> u64 {
        match self {
            Self::Sm80 => 163 << 10,
            Self::Sm86 | Self::Sm89 => 99 << 10,
        }
    }

    /// Major and minor compute capability.
    pub fn compute_capability(self) -> (u32, u32) {
        match self {
            Self::Sm80 => (8, 0),
            Self::Sm86 => (8, 6),
            Self::Sm89 => (8, 9),
        }
    }
}

/// Why device memory could not be had or touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The device or the machine has no room.
    #[error("out of memory: {asked} bytes asked, {free} free")]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes that the device has free.
        free: u64,
    },
    /// The range is not wholly inside one allocation.
    #[error("{length} bytes at {address:#x} are not inside an allocation")]
    NotAllocated {
        /// Where the range starts.
        address: u64,
        /// Bytes of the range.
        length: u64,
    },
    /// What is freed is not the start of an allocation.
    #[error("{address:#x} is not the start of an allocation")]
    NotAnAllocation {
        /// The address.
        address: u64,
    },
}

/// One allocation: its bytes, one bit for each byte that was ever written, and which pages are known to be written whole.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub base: u64,
    pub length: u64,
    pub bytes: Bytes,
    written: Bytes,
    whole: Vec<AtomicBool>,
}

/// Bytes of a page, of which an allocation knows whether it was written whole.
const PAGE: u64 = 4096;

impl Allocation {
    pub fn end(&self) -> u64 {
        self.base + self.length
    }

    /// Calls `f` with each 64-bit word of the map that the range touches, and the range's bits in it, until it says no.
    fn words(start: u64, end: u64, mut f: impl FnMut(u64, u64) -> bool) {
        let mut at = start;
        while at < end {
            let word = at / 64;
            let to = end.min((word + 1) * 64);
            if !f(word * 8, (u64::MAX >> (64 - (to - at))) << (at % 64)) {
                return;
            }
            at = to;
        }
    }

    /// Whether the range is known to be written, since its pages are.
    #[inline(always)]
    pub fn is_whole(&self, start: u64, end: u64) -> bool {
        let pages = self.whole.get((start / PAGE) as usize..end.div_ceil(PAGE) as usize);
        start < end && pages.is_some_and(|pages| pages.iter().all(|page| page.load(Ordering::Relaxed)))
    }

    /// Notes whether the page that a written range ends with is now written whole.
    #[inline]
    fn close_page(&self, end: u64) {
        if end.is_multiple_of(PAGE) && self.all_written(end.saturating_sub(PAGE), end) {
            self.whole[(end / PAGE) as usize - 1].store(true, Ordering::Relaxed);
        }
    }

    /// The words of the map that lie wholly in the range, where the range is some of those alone.
    #[inline(always)]
    fn whole_words(&self, start: u64, end: u64) -> Option<&[AtomicU64]> {
        let whole = start.is_multiple_of(64) && end.is_multiple_of(64) && end > start;
        whole.then(|| self.written.words(start / 8, ((end - start) / 64) as usize))
    }

    #[inline(always)]
    fn all_written(&self, start: u64, end: u64) -> bool {
        let written = |words: &[AtomicU64]| words.iter().all(|word| word.load(Ordering::Relaxed) == u64::MAX);
        self.whole_words(start, end).is_some_and(written)
    }

    /// Notes that the range was written.
    #[inline]
    pub fn mark_written(&self, start: u64, end: u64) {
        if self.is_whole(start, end) {
            return;
        }
        if let Some(words) = self.whole_words(start, end) {
            words.iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
            (start.div_ceil(PAGE)..end / PAGE)
                .for_each(|page| self.whole[page as usize].store(true, Ordering::Relaxed));
            return self.close_page(end);
        }
        Self::words(start, end, |word, bits| {
            if self.written.load_u64(word) & bits != bits {
                self.written.set_bits(word, bits);
            }
            true
        });
    }

    /// The first byte of the range that nobody wrote.
    #[inline]
    pub fn unwritten(&self, start: u64, end: u64) -> Option<u64> {
        if self.is_whole(start, end) {
            return None;
        }
        if self.all_written(start, end) {
            self.close_page(end);
            return None;
        }
        let mut found = None;
        Self::words(start, end, |word, bits| {
            let missing = bits & !self.written.load_u64(word);
            if missing != 0 {
                found = Some(word * 8 + u64::from(missing.trailing_zeros()));
            }
            missing == 0
        });
        found
    }

    fn forget(&self, start: u64, end: u64) {
        let pages = (start / PAGE) as usize..end.div_ceil(PAGE) as usize;
        self.whole.iter().skip(pages.start).take(pages.len()).for_each(|page| page.store(false, Ordering::Relaxed));
        Self::words(start, end, |word, bits| {
            self.written.update(word, 8, |old| old & !bits);
            true
        });
    }
}

/// A device's memory. Addresses are never used twice, so a stale pointer is always told.
#[derive(Debug)]
pub struct Device {
    arch: Arch,
    allocations: Vec<Allocation>,
    freed: VecDeque<(u64, u64)>,
    next: u64,
    limit: u64,
    used: u64,
    /// Module number to the addresses of its variables.
    variables: HashMap<u64, Vec<u64>>,
    /// What launches track races in.
    pub(crate) shadow_pages: Spare,
}

/// The first address.
const FIRST: u64 = 0x7_0000_0000;
/// Allocations start at multiples of this.
const ALIGN: u64 = 512;
/// Bytes between allocations that belong to none.
const GUARD: u64 = 64 << 10;
/// How many freed allocations are remembered for messages.
const REMEMBERED: usize = 4096;

impl Device {
    /// A device with 64 GiB, of which no more is taken from the machine than is touched.
    pub fn new(arch: Arch) -> Self {
        Self::with_memory(arch, 64 << 30)
    }

    /// A device with so many bytes of memory.
    pub fn with_memory(arch: Arch, bytes: u64) -> Self {
        Self {
            arch,
            allocations: Vec::new(),
            freed: VecDeque::new(),
            next: FIRST,
            limit: bytes,
            used: 0,
            variables: HashMap::new(),
            shadow_pages: Spare::default(),
        }
    }

    /// Which GPU this is.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Bytes free and bytes in all.
    pub fn memory_info(&self) -> (u64, u64) {
        (self.limit - self.used, self.limit)
    }

    /// Allocates memory that nobody has written yet; reading it in a kernel is a trap.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, MemoryError> {
        self.alloc_at(self.next, bytes)?;
        Ok(self.reserve(bytes))
    }

    /// Addresses for so many bytes, which [`Device::alloc_at`] makes memory of.
    pub fn reserve(&mut self, bytes: u64) -> u64 {
        let base = self.next;
        self.next += (bytes.max(1) + GUARD).next_multiple_of(ALIGN);
        base
    }

    /// Allocates memory at reserved addresses, for the first time or after it was freed: like any other it is fresh.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`], also where the addresses are in use.
    pub fn alloc_at(&mut self, base: u64, bytes: u64) -> Result<(), MemoryError> {
        let free = self.limit - self.used;
        let none = MemoryError::OutOfMemory { asked: bytes, free };
        let place = self.allocations.binary_search_by_key(&base, |allocation| allocation.base);
        let (Err(at), true) = (place, bytes <= free) else { return Err(none) };
        let room = |bytes: u64| usize::try_from(bytes).ok().and_then(Bytes::new);
        let (Some(content), Some(written)) = (room(bytes), room(bytes.div_ceil(8))) else { return Err(none) };
        self.used += bytes;
        let whole = (0..bytes / PAGE).map(|_| AtomicBool::new(false)).collect();
        self.allocations.insert(at, Allocation { base, length: bytes, bytes: content, written, whole });
        Ok(())
    }

    /// Frees an allocation; its addresses stay dead.
    ///
    /// # Errors
    /// [`MemoryError::NotAnAllocation`].
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        let found = self.allocations.binary_search_by_key(&address, |allocation| allocation.base);
        let at = found.map_err(|_| MemoryError::NotAnAllocation { address })?;
        let allocation = self.allocations.remove(at);
        self.used -= allocation.length;
        self.freed.truncate(REMEMBERED - 1);
        self.freed.push_front((allocation.base, allocation.length));
        Ok(())
    }

    /// The start and length of the allocation that holds `address`.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        self.find(address, 1).ok().map(|(allocation, _)| (allocation.base, allocation.length))
    }

    fn find(&self, address: u64, length: u64) -> Result<(&Allocation, u64), MemoryError> {
        find(&self.allocations, address, length)
            .map(|at| (&self.allocations[at], address - self.allocations[at].base))
            .ok_or(MemoryError::NotAllocated { address, length })
    }

    /// Copies `data` to the device.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`].
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let (allocation, start) = self.find(address, data.len() as u64)?;
        allocation.bytes.write(start, data);
        allocation.mark_written(start, start + data.len() as u64);
        Ok(())
    }

    /// Copies from the device; bytes that nobody wrote come as `0xff`.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let (allocation, start) = self.find(address, out.len() as u64)?;
        allocation.bytes.read(start, out);
        let end = start + out.len() as u64;
        let mut at = start;
        while let Some(missing) = allocation.unwritten(at, end) {
            out[(missing - start) as usize] = 0xff;
            at = missing + 1;
        }
        Ok(())
    }

    /// The first byte of a range, counted from its start, that nobody wrote.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`].
    pub fn first_unwritten(&self, address: u64, length: u64) -> Result<Option<u64>, MemoryError> {
        let (allocation, start) = self.find(address, length)?;
        Ok(allocation.unwritten(start, start + length).map(|at| at - start))
    }

    /// Copies within the device; what nobody wrote stays unwritten in the copy.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`].
    pub fn copy(&mut self, to: u64, from: u64, length: u64) -> Result<(), MemoryError> {
        let (source, first) = self.find(from, length)?;
        let (target, start) = self.find(to, length)?;
        let mut data = vec![0; length as usize];
        source.bytes.read(first, &mut data);
        let mut holes = Vec::new();
        let mut at = first;
        while let Some(missing) = source.unwritten(at, first + length) {
            holes.push(missing - first);
            at = missing + 1;
        }
        target.bytes.write(start, &data);
        target.mark_written(start, start + length);
        holes.iter().for_each(|at| target.forget(start + at, start + at + 1));
        Ok(())
    }

    /// Fills a range with copies of `pattern`.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`].
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let (allocation, start) = self.find(address, count.saturating_mul(pattern.len() as u64))?;
        let chunk = pattern.repeat((count as usize).min(4096));
        let mut at = start;
        let mut left = count as usize * pattern.len();
        while left > 0 {
            let length = left.min(chunk.len());
            allocation.bytes.write(at, &chunk[..length]);
            (at, left) = (at + length as u64, left - length);
        }
        allocation.mark_written(start, at);
        Ok(())
    }

    /// Forgets that a range was written, as if it were fresh.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`].
    pub fn poison(&mut self, address: u64, length: u64) -> Result<(), MemoryError> {
        let (allocation, start) = self.find(address, length)?;
        allocation.forget(start, start + length);
        Ok(())
    }

    /// Address and bytes of a module's `.global` or `.const` variable, which exist from the first launch or question on.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn variable(&mut self, module: &Module, name: &str) -> Result<Option<(u64, u64)>, MemoryError> {
        let Some((number, bytes)) = module.variable(name) else { return Ok(None) };
        let address = self.instantiate(module.variables())?[number];
        Ok(Some((address, bytes)))
    }

    /// Frees a module's variables.
    pub fn unload(&mut self, module: &Module) {
        for address in self.variables.remove(&module.variables().number).unwrap_or_default() {
            let _ = self.free(address);
        }
    }

    /// The addresses of a module's variables, which are made at the first call.
    pub(crate) fn instantiate(&mut self, variables: &crate::module::Variables) -> Result<Vec<u64>, MemoryError> {
        if let Some(addresses) = self.variables.get(&variables.number) {
            return Ok(addresses.clone());
        }
        let mut addresses = Vec::new();
        for variable in &variables.list {
            let address = self.alloc(variable.bytes)?;
            self.fill(address, &[0], variable.bytes)?;
            self.write(address, &variable.initial)?;
            addresses.push(address);
        }
        self.variables.insert(variables.number, addresses.clone());
        Ok(addresses)
    }

    pub(crate) fn allocations(&self) -> &[Allocation] {
        &self.allocations
    }

    /// What is around an address that is in no allocation, in words.
    pub(crate) fn around(&self, address: u64) -> String {
        let freed = self.freed.iter().find(|(base, length)| (*base..base + length).contains(&address));
        if let Some((base, length)) = freed {
            return format!("inside the {length} bytes at {base:#x}, which were freed");
        }
        let after = self.allocations.partition_point(|allocation| allocation.base <= address);
        if let Some(before) = after.checked_sub(1).map(|at| &self.allocations[at])
            && address - before.base < before.length + GUARD
        {
            let (base, length) = (before.base, before.length);
            return match address.checked_sub(before.end()) {
                Some(0) => format!("at the end of the {length} bytes at {base:#x}"),
                Some(past) => format!("{past} bytes past the end of the {length} bytes at {base:#x}"),
                None => format!("across the end of the {length} bytes at {base:#x}"),
            };
        }
        match self.allocations.get(after) {
            Some(next) if next.base - address <= GUARD => {
                format!("{} bytes before the {} bytes at {:#x}", next.base - address, next.length, next.base)
            }
            _ => "far from any allocation".into(),
        }
    }
}

/// The number of the allocation that holds the whole range.
#[inline]
pub(crate) fn find(allocations: &[Allocation], address: u64, length: u64) -> Option<usize> {
    let at = allocations.partition_point(|allocation| allocation.base <= address).checked_sub(1)?;
    let inside = address - allocations[at].base;
    (inside.checked_add(length)? <= allocations[at].length).then_some(at)
}
