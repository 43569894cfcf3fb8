//! Uploads by way of page-locked memory: the GPU fetches one piece while the host writes the next.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, PinnedHostSlice, result};

use crate::device::host::par_rows;

/// Bytes of a piece.
const PIECE: usize = 16 << 20;

/// Two pieces of page-locked memory, taken in turn.
#[derive(Debug)]
pub(super) struct Staging {
    pieces: [Piece; 2],
    next: usize,
}

#[derive(Debug)]
struct Piece {
    memory: PinnedHostSlice<u8>,
    /// When the GPU has fetched what it held.
    fetched: CudaEvent,
}

impl Staging {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        Ok(Self { pieces: [Piece::new(context)?, Piece::new(context)?], next: 0 })
    }

    /// Queues the copy of `src` to the address `dst` on `stream`, and returns when `src` has been read.
    #[expect(unsafe_code, reason = "a call of the driver")]
    pub(super) fn upload(&mut self, dst: u64, src: &[u8], stream: &CudaStream) -> Result<(), DriverError> {
        for (dst, src) in (dst..).step_by(PIECE).zip(src.chunks(PIECE)) {
            let Piece { memory, fetched } = &mut self.pieces[self.next];
            self.next = 1 - self.next;
            fetched.synchronize()?;
            let piece = &mut memory.as_mut_slice()?[..src.len()];
            par_rows(piece, 1, |first, piece| piece.copy_from_slice(&src[first..first + piece.len()]));
            // SAFETY: the caller's `dst` has room for all of `src`; the piece is not written again, nor freed, before
            // `fetched`.
            unsafe { result::memcpy_htod_async(dst, piece, stream.cu_stream()) }?;
            fetched.record(stream)?;
        }
        Ok(())
    }
}

impl Piece {
    #[expect(unsafe_code, reason = "a call of the driver")]
    fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        // SAFETY: it is written before it is read.
        let memory = unsafe { context.alloc_pinned(PIECE) }?;
        Ok(Self { memory, fetched: context.new_event(None)? })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // Before `memory` goes. After an error nothing is under way.
        let _ = self.fetched.synchronize();
    }
}
