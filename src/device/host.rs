//! The CPU as a device: recycled memory, vectorised loops, a fixed split of rows over threads.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

/// One cache line, so that every buffer is aligned for the widest vector.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Smaller blocks are left to the allocator, which keeps them without page faults.
const POOLED_LINES: usize = 1024;

/// Host memory whose blocks are recycled: a training step asks for the same sizes each time, and fresh pages fault.
#[derive(Debug)]
pub(super) struct HostMemory(Vec<Line>);

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

/// Freed blocks by size. Together with what is live they never exceed the most that was ever live at once.
struct Pool {
    free: BTreeMap<usize, Vec<Vec<Line>>>,
    free_lines: usize,
    live_lines: usize,
    peak_lines: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), free_lines: 0, live_lines: 0, peak_lines: 0 });

impl Pool {
    fn take(&mut self, lines: usize) -> Option<Vec<Line>> {
        self.live_lines += lines;
        self.peak_lines = self.peak_lines.max(self.live_lines);
        if let Some(block) = self.free.get_mut(&lines).and_then(Vec::pop) {
            self.free_lines -= lines;
            return Some(block);
        }
        while self.free_lines + self.live_lines > self.peak_lines {
            let Some(mut largest) = self.free.last_entry() else { break };
            match largest.get_mut().pop() {
                Some(block) => self.free_lines -= block.len(),
                None => drop(largest.remove()),
            }
        }
        None
    }

    fn give(&mut self, block: Vec<Line>) {
        self.live_lines -= block.len();
        self.free_lines += block.len();
        self.free.entry(block.len()).or_default().push(block);
    }
}

impl HostMemory {
    pub(super) fn new(bytes: usize) -> Self {
        let lines = bytes.div_ceil(size_of::<Line>());
        let recycled = if lines < POOLED_LINES { None } else { lock().take(lines) };
        let mut block = recycled.unwrap_or_else(|| vec![Line([0; 64]); lines]);
        if cfg!(debug_assertions) {
            block.fill(Line([0xff; 64])); // NaN in every float dtype: a read of what nobody wrote shows
        }
        Self(block)
    }

    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        &bytemuck::cast_slice(&self.0)[..len]
    }

    pub(super) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.0.len() >= POOLED_LINES {
            lock().give(std::mem::take(&mut self.0));
        }
    }
}

fn lock() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `compute` returns, called on a thread of the pool: from outside, each of a pass' thousands of parallel loops would
/// have to wake the pool first.
pub fn in_pool<R: Send>(compute: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| compute())
}

/// Runs `f` compiled for the widest vectors this CPU has.
///
/// `f` itself, written `#[inline(always)] || ..`, and all that it calls must be `#[inline(always)]`: what is not inlined
/// into the vectorised copies stays compiled for the baseline of the target, several times slower.
#[inline(always)]
pub fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Elements that one task of [`par_rows`] handles: large enough to hide the fork, and independent of the thread
/// count, so that sums over a task's rows do not depend on it either.
const TASK_ELEMENTS: usize = 16 * 1024;

/// The number of rows of `width` elements in one task.
pub fn rows_per_task(width: usize) -> usize {
    (TASK_ELEMENTS / width.max(1)).max(1)
}

/// Calls `f(first_row, rows)` for fixed-size runs of rows of `out` (`width` elements each), in parallel, vectorised:
/// `f` must be written `#[inline(always)] |first_row, rows| ..` for that, as for [`vectorize`].
pub fn par_rows<T: Send>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let rows = rows_per_task(width);
    if out.len() <= TASK_ELEMENTS {
        return out.chunks_mut((rows * width).max(1)).enumerate().for_each(|(i, chunk)| task(&f, i * rows, chunk));
    }
    out.par_chunks_mut((rows * width).max(1)).enumerate().for_each(|(i, chunk)| task(&f, i * rows, chunk));
}

/// [`par_rows`] over two outputs of as many rows: `f(first_row, rows_a, rows_b)`.
pub fn par_rows2<A: Send, B: Send>(
    (a, a_width): (&mut [A], usize),
    (b, b_width): (&mut [B], usize),
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let rows = rows_per_task(a_width.max(b_width));
    let (a_width, b_width) = ((rows * a_width).max(1), (rows * b_width).max(1));
    if a.len() <= a_width {
        return a.chunks_mut(a_width).zip(b.chunks_mut(b_width)).for_each(|(a, b)| task2(&f, 0, a, b));
    }
    let pairs = a.par_chunks_mut(a_width).zip(b.par_chunks_mut(b_width));
    pairs.enumerate().for_each(|(i, (a, b))| task2(&f, i * rows, a, b));
}

/// The one place that calls `f`, so that it is inlined into its vectorised copies.
#[inline(never)]
fn task<T>(f: &impl Fn(usize, &mut [T]), first_row: usize, rows: &mut [T]) {
    vectorize(
        #[inline(always)]
        || f(first_row, rows),
    );
}

/// The one place that calls an `f` of two outputs, so that it is inlined into its vectorised copies.
#[inline(never)]
fn task2<A, B>(f: &impl Fn(usize, &mut [A], &mut [B]), first_row: usize, a: &mut [A], b: &mut [B]) {
    vectorize(
        #[inline(always)]
        || f(first_row, a, b),
    );
}
