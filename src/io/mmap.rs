//! Files as memory. The only file of `io` with unsafe code.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use super::{missing, text};
use crate::error::{Error, Result};

/// A file mapped read-only. Its pages are read when first touched, and count as this process' memory until
/// [released](Self::release).
#[derive(Debug)]
pub(super) struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the whole file, unless it is a Git LFS pointer.
    #[expect(unsafe_code, reason = "a mapped file can change under the map")]
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| missing::unopened(path, e))?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(Error::file(path, "is not a file"));
        }
        // SAFETY: the map is private and read-only, and this crate never writes a file in place: `io::atomic` renames.
        // Another process that shortens the file meanwhile ends this one with SIGBUS, as for every mapped file.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        text::refuse_pointer(path, &map)?;
        Ok(Self(map))
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Gives the pages of `range` back to the system; the next access reads them from the file again.
    #[cfg_attr(unix, expect(unsafe_code, reason = "advice to drop pages can change what memory holds"))]
    pub fn release(&self, range: Range<usize>) {
        if range.is_empty() || range.end > self.0.len() {
            return;
        }
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the range is inside the map (checked above), and its pages are an unmodified read-only copy of
            // the file, so that what a later access finds there are the same bytes. A refusal costs memory only.
            let _ = unsafe { self.0.unchecked_advise_range(advice, range.start, range.len()) };
        }
    }
}
