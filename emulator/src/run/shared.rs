//! A block's shared memory.

use super::lane_access::{LaneBytes, Touched, lanes};
use super::registers::LANES;
use crate::race::shared::Shadow;
use crate::race::{Access, Touch};
use crate::trap::{Checked, Fault, TrapKind};

/// Shared memory and its shadow.
pub(super) struct Shared {
    data: Vec<u8>,
    pub shadow: Option<Shadow>,
}

impl Shared {
    /// Memory for a block of so many warps.
    pub fn new(bytes: u64, warps: u32, checked: bool) -> Self {
        Self { data: vec![0xff; bytes as usize], shadow: checked.then(|| Shadow::new(bytes, warps)) }
    }

    /// Another block starts.
    pub fn restart(&mut self) {
        self.data.fill(0xff);
        if let Some(shadow) = &mut self.shadow {
            shadow.restart();
        }
    }

    /// Checks an instruction's accesses by `warp` and notes them.
    #[inline(always)]
    pub fn touch(&mut self, touched: &Touched<'_>, warp: u8, touch: Touch) -> Checked<()> {
        self.check(touched, warp, touch, false)
    }

    /// As [`Self::touch`], for a store or, in `flight`, an asynchronous copy that is issued.
    #[inline(always)]
    fn check(&mut self, touched: &Touched<'_>, warp: u8, touch: Touch, flight: bool) -> Checked<()> {
        let length = self.data.len() as u64;
        let last_row = touched.rows.iter().fold(0, |last, &start| start.max(last));
        let rows_past = !touched.rows.is_empty() && last_row > length.saturating_sub(16);
        if rows_past || touched.runs.iter().any(|run| run.end > length || run.end < run.start) {
            return Err(self.outside(touched, touch));
        }
        let Some(shadow) = &mut self.shadow else { return Ok(()) };
        let access = Access { warp, touch, flight };
        let ranges = touched.runs.iter().map(|run| run.start..run.end);
        shadow
            .touch_rows(access, touched.rows)
            .and_then(|()| shadow.touch(access, touched.bytes, ranges))
            .map_err(|fault| named(fault, touched))
    }

    #[cold]
    fn outside(&self, touched: &Touched<'_>, touch: Touch) -> Box<Fault> {
        let length = self.data.len() as u64;
        let past = |&lane: &usize| touched.addresses[lane].saturating_add(touched.bytes) > length;
        let lane = lanes(touched.mask).find(past).unwrap_or(0);
        let verb = if matches!(touch, Touch::Read | Touch::ReadOnly) { "reads" } else { "writes" };
        let (address, bytes) = (touched.addresses[lane], touched.bytes);
        let detail =
            format!("{verb} {bytes} bytes at shared {address:#x}, but the block has {length} bytes of shared memory");
        Fault::new(TrapKind::OutOfBounds, lane as u32, detail)
    }

    /// A value of up to 8 bytes; the place was checked.
    #[inline]
    pub fn load(&self, at: u64, bytes: u64) -> u64 {
        let at = at as usize;
        match bytes {
            1 => self.data[at].into(),
            2 => u16::from_le_bytes(self.array(at)).into(),
            4 => u32::from_le_bytes(self.array(at)).into(),
            _ => u64::from_le_bytes(self.array(at)),
        }
    }

    #[inline]
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.data[at..at + N].try_into().unwrap_or([0; N])
    }

    #[inline]
    pub fn store(&mut self, at: u64, bytes: u64, value: u64) {
        let at = at as usize;
        match bytes {
            1 => self.data[at] = value as u8,
            2 => self.data[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes()),
            4 => self.data[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes()),
            _ => self.data[at..at + 8].copy_from_slice(&value.to_le_bytes()),
        }
    }

    /// Each lane's bytes, up to 16; the places were checked.
    #[inline]
    pub fn load_lanes(&self, touched: &Touched<'_>) -> LaneBytes {
        let mut out = [[0; 2]; LANES];
        for lane in lanes(touched.mask) {
            let at = touched.addresses[lane];
            out[lane] = match touched.bytes {
                16 => [self.load(at, 8), self.load(at + 8, 8)],
                bytes => [self.load(at, bytes), 0],
            };
        }
        out
    }

    /// Stores each lane's bytes.
    #[inline]
    pub fn store_lanes(&mut self, touched: &Touched<'_>, values: &LaneBytes) {
        for lane in lanes(touched.mask) {
            let (at, value) = (touched.addresses[lane], values[lane]);
            match touched.bytes {
                16 => self.store_row(at, value),
                bytes => self.store(at, bytes, value[0]),
            }
        }
    }

    #[inline(always)]
    fn store_row(&mut self, at: u64, value: [u64; 2]) {
        self.data[at as usize..][..16].copy_from_slice(value.map(u64::to_le_bytes).as_flattened());
    }

    /// The bytes of a dense access; the place was checked.
    #[inline]
    pub fn block(&mut self, touched: &Touched<'_>) -> &mut [u8] {
        &mut self.data[touched.addresses[0] as usize..][..LANES * touched.bytes as usize]
    }

    /// A row of a matrix.
    #[inline]
    pub fn row(&self, at: u64) -> [u32; 4] {
        let row: [u8; 16] = self.array(at as usize);
        std::array::from_fn(|word| {
            u32::from_le_bytes([row[4 * word], row[4 * word + 1], row[4 * word + 2], row[4 * word + 3]])
        })
    }

    /// An asynchronous copy arrives: `bytes` of each lane of `mask`. The places were checked at its issue.
    #[inline(always)]
    pub fn land(&mut self, to: &[u64; LANES], mask: u32, bytes: u64, data: &LaneBytes, warp: u8) {
        for lane in lanes(mask) {
            let at = to[lane];
            if bytes == 16 {
                self.store_row(at, data[lane]);
            } else {
                self.store(at, bytes, data[lane][0]);
            }
            match &mut self.shadow {
                Some(shadow) if bytes == 16 => shadow.land_row(warp, at),
                Some(shadow) => shadow.land(warp, at, at + bytes),
                None => {}
            }
        }
    }

    /// An asynchronous copy is issued.
    #[inline(always)]
    pub fn issue(&mut self, touched: &Touched<'_>, warp: u8) -> Checked<()> {
        self.check(touched, warp, Touch::Write, true)
    }
}

/// The fault with the lane that touches its byte.
fn named((byte, mut fault): (u64, Box<Fault>), touched: &Touched<'_>) -> Box<Fault> {
    fault.lane = Some(touched.lane_at(byte));
    fault
}
