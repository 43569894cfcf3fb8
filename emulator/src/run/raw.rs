//! Bytes that many threads read and write at once, as a GPU's memory: every access is a relaxed atomic.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A zeroed block of memory.
#[derive(Debug)]
pub(crate) struct Bytes {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Bytes` owns its memory, and touches it through atomics alone.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

/// What the size is rounded up to.
const LINE: usize = 256;
/// How the memory is aligned: for more, the standard library would write the zeros that a fresh page has anyway.
const ALIGN: usize = 16;

impl Bytes {
    /// `length` zeroed bytes; nothing where the machine has no memory for them.
    pub fn new(length: usize) -> Option<Self> {
        let size = length.checked_next_multiple_of(LINE)?.max(LINE);
        let layout = Layout::from_size_align(size, ALIGN).ok()?;
        // SAFETY: the layout's size is at least LINE, so not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { start, layout })
    }

    /// The address of a value of `size` bytes, a power of two, that lies inside and is aligned.
    #[inline(always)]
    fn at(&self, offset: u64, size: usize) -> *mut u8 {
        let offset = offset as usize;
        assert!(offset <= self.layout.size() - size && offset.is_multiple_of(size), "access outside of memory");
        // SAFETY: offset + size is within the allocation, as just checked.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this layout, and is freed here alone.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

macro_rules! accessors {
    ($($load:ident $store:ident $update:ident $atomic:ty, $ty:ty;)+) => {
        impl Bytes {$(
            #[inline(always)]
            fn $update(&self, offset: u64) -> &$atomic {
                let place = self.at(offset, size_of::<$ty>()).cast::<$ty>();
                // SAFETY: `at` gives an aligned place inside the allocation, which lives as long as `self`, and all
                // accesses to it are atomic.
                unsafe { <$atomic>::from_ptr(place) }
            }

            #[inline(always)]
            pub fn $load(&self, offset: u64) -> $ty {
                self.$update(offset).load(Ordering::Relaxed)
            }

            #[inline(always)]
            pub fn $store(&self, offset: u64, value: $ty) {
                self.$update(offset).store(value, Ordering::Relaxed);
            }
        )+}
    };
}

accessors! {
    load_u8 store_u8 atomic_u8 AtomicU8, u8;
    load_u16 store_u16 atomic_u16 AtomicU16, u16;
    load_u32 store_u32 atomic_u32 AtomicU32, u32;
    load_u64 store_u64 atomic_u64 AtomicU64, u64;
}

fn wide<T: Into<u64>>(result: Result<T, T>) -> Result<u64, u64> {
    result.map(Into::into).map_err(Into::into)
}

impl Bytes {
    /// Replaces a value of 2, 4 or 8 bytes by what `f` makes of it, as one step; gives the value before.
    pub fn update(&self, offset: u64, bytes: u64, f: impl Fn(u64) -> u64) -> u64 {
        let order = Ordering::Relaxed;
        let kept = |before: Result<u64, u64>| before.unwrap_or_default();
        match bytes {
            2 => kept(wide(self.atomic_u16(offset).fetch_update(order, order, |old| Some(f(old.into()) as u16)))),
            4 => kept(wide(self.atomic_u32(offset).fetch_update(order, order, |old| Some(f(old.into()) as u32)))),
            _ => kept(self.atomic_u64(offset).fetch_update(order, order, |old| Some(f(old)))),
        }
    }

    /// Sets bits of the 64-bit word at `offset`, as one step in one order for all threads; gives the word before.
    #[inline(always)]
    pub fn set_bits(&self, offset: u64, bits: u64) -> u64 {
        self.atomic_u64(offset).fetch_or(bits, Ordering::SeqCst)
    }

    /// The 64-bit words from `offset` on, which must be a multiple of 8.
    #[inline(always)]
    pub fn words(&self, offset: u64, count: usize) -> &[AtomicU64] {
        let start = self.at(offset, 8).cast::<AtomicU64>();
        assert!(count <= (self.layout.size() - offset as usize) / 8, "access outside of memory");
        // SAFETY: `start` is aligned for u64, `count` words after it are inside the allocation, as just checked, and all
        // accesses to them are atomic.
        unsafe { std::slice::from_raw_parts(start, count) }
    }

    /// Reads from `offset` on.
    #[inline]
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        let (head, rest) = out.split_at_mut(out.len().min(unaligned(offset)));
        for (byte, at) in head.iter_mut().zip(offset..) {
            *byte = self.load_u8(at);
        }
        let at = offset + head.len() as u64;
        let (words, tail) = rest.as_chunks_mut::<8>();
        let middle = if words.is_empty() { &[] } else { self.words(at, words.len()) };
        let (pairs, last) = words.as_chunks_mut::<2>();
        let (pairs_from, last_from) = middle.as_chunks::<2>();
        for (pair, from) in pairs.iter_mut().zip(pairs_from) {
            load_pair(from, pair);
        }
        for (word, from) in last.iter_mut().zip(last_from) {
            *word = from.load(Ordering::Relaxed).to_le_bytes();
        }
        for (byte, at) in tail.iter_mut().zip(at + 8 * middle.len() as u64..) {
            *byte = self.load_u8(at);
        }
    }

    /// Writes from `offset` on.
    #[inline]
    pub fn write(&self, offset: u64, data: &[u8]) {
        let (head, rest) = data.split_at(data.len().min(unaligned(offset)));
        for (&byte, at) in head.iter().zip(offset..) {
            self.store_u8(at, byte);
        }
        let at = offset + head.len() as u64;
        let (words, tail) = rest.as_chunks::<8>();
        let middle = if words.is_empty() { &[] } else { self.words(at, words.len()) };
        let (pairs, last) = words.as_chunks::<2>();
        let (pairs_to, last_to) = middle.as_chunks::<2>();
        for (pair, to) in pairs.iter().zip(pairs_to) {
            store_pair(pair, to);
        }
        for (word, to) in last.iter().zip(last_to) {
            to.store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
        for (&byte, at) in tail.iter().zip(at + 8 * middle.len() as u64..) {
            self.store_u8(at, byte);
        }
    }
}

/// Two relaxed loads, as one instruction where the processor has one.
#[inline(always)]
fn load_pair(from: &[AtomicU64; 2], to: &mut [[u8; 8]; 2]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads the 16 bytes of `from`, as relaxed loads do, and writes those of `to`, which nobody else has.
    unsafe {
        asm!("movups {value}, [{from}]", "movups [{to}], {value}", from = in(reg) from, to = in(reg) to,
            value = out(xmm_reg) _, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.iter_mut().zip(from).for_each(|(word, from)| *word = from.load(Ordering::Relaxed).to_le_bytes());
}

/// Two relaxed stores, as one instruction where the processor has one.
#[inline(always)]
fn store_pair(from: &[[u8; 8]; 2], to: &[AtomicU64; 2]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads the 16 bytes of `from`, and writes those of `to`, as relaxed stores do.
    unsafe {
        asm!("movups {value}, [{from}]", "movups [{to}], {value}", from = in(reg) from, to = in(reg) to,
            value = out(xmm_reg) _, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    from.iter().zip(to).for_each(|(word, to)| to.store(u64::from_le_bytes(*word), Ordering::Relaxed));
}

/// Bytes from `offset` to the next multiple of 8.
fn unaligned(offset: u64) -> usize {
    (offset.wrapping_neg() % 8) as usize
}
