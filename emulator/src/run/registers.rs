//! A warp's registers: one row of 32 lanes for each register, constant and special register.

use crate::types::File;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// All lanes.
pub(crate) const FULL: u32 = u32::MAX;

/// One value a lane, on its own cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Row<T>(pub [T; LANES]);

/// The three register files of a warp. A row's number is checked against these lengths when a program is decoded.
#[derive(Debug, Clone)]
pub(crate) struct Registers {
    /// Registers of up to 32 bits; narrower ones are zero-extended.
    pub words: Vec<Row<u32>>,
    /// 64-bit registers.
    pub wides: Vec<Row<u64>>,
    /// Predicates, one bit a lane.
    pub preds: Vec<u32>,
}

/// How many rows each file has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FileSizes {
    pub words: usize,
    pub wides: usize,
    pub preds: usize,
}

impl FileSizes {
    pub fn of(&mut self, file: File) -> &mut usize {
        match file {
            File::Word => &mut self.words,
            File::Wide => &mut self.wides,
            File::Pred => &mut self.preds,
        }
    }
}

impl Registers {
    pub fn new(sizes: FileSizes) -> Self {
        Self {
            words: vec![Row([0; LANES]); sizes.words],
            wides: vec![Row([0; LANES]); sizes.wides],
            preds: vec![0; sizes.preds],
        }
    }

    pub fn word(&self, row: u16) -> &[u32; LANES] {
        &self.words[row as usize].0
    }

    pub fn word_mut(&mut self, row: u16) -> &mut [u32; LANES] {
        &mut self.words[row as usize].0
    }

    pub fn wide(&self, row: u16) -> &[u64; LANES] {
        &self.wides[row as usize].0
    }

    pub fn wide_mut(&mut self, row: u16) -> &mut [u64; LANES] {
        &mut self.wides[row as usize].0
    }

    pub fn pred(&self, row: u16) -> u32 {
        self.preds[row as usize]
    }

    /// Sets the predicate of the lanes in `mask` to their bits of `value`.
    pub fn set_pred(&mut self, row: u16, value: u32, mask: u32) {
        let pred = &mut self.preds[row as usize];
        *pred = *pred & !mask | value & mask;
    }
}
