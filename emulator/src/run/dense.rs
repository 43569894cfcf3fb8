//! Loads and stores where the lanes of a warp touch one run of memory, each just after the one before: the bytes move as
//! one block.

use super::registers::{LANES, Registers};
use super::simd;
use crate::program::{Extend, Load, Store};
use crate::types::File;

/// The bytes that all lanes touch, as they lie in memory; at most 16 a lane.
pub(super) type Block = [u8; 16 * LANES];

/// Fills a load's destinations.
#[inline(always)]
pub(super) fn put(registers: &mut Registers, op: &Load, block: &[u8]) {
    match (op.bytes, op.count) {
        (1, 1) => spread::<1, 1>(registers, op, block),
        (1, 2) => spread::<1, 2>(registers, op, block),
        (1, _) => spread::<1, 4>(registers, op, block),
        (2, 1) => spread::<2, 1>(registers, op, block),
        (2, 2) => spread::<2, 2>(registers, op, block),
        (2, _) => spread::<2, 4>(registers, op, block),
        (4, 1) => spread::<4, 1>(registers, op, block),
        (4, 2) => spread::<4, 2>(registers, op, block),
        (4, _) if op.file == File::Word => {
            let mut rows = [[0; LANES]; 4];
            simd::split(block.as_chunks().0, &mut rows);
            rows.iter().zip(op.rows).for_each(|(values, row)| *registers.word_mut(row) = *values);
        }
        (4, _) => spread::<4, 4>(registers, op, block),
        (_, 1) => spread::<8, 1>(registers, op, block),
        (..) => spread::<8, 2>(registers, op, block),
    }
}

/// As [`put`], for elements of `N` bytes, of which each lane has `COUNT`.
#[inline(always)]
fn spread<const N: usize, const COUNT: usize>(registers: &mut Registers, op: &Load, block: &[u8]) {
    let block = &block[..N * COUNT * LANES];
    let element = |lane: usize, at: usize| {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(&block[N * (COUNT * lane + at)..][..N]);
        u64::from_le_bytes(bytes)
    };
    for at in 0..COUNT {
        match (op.file, op.extend) {
            (File::Wide, Extend::Zero) => {
                let row = registers.wide_mut(op.rows[at]);
                (0..LANES).for_each(|lane| row[lane] = element(lane, at));
            }
            (_, Extend::Zero) => {
                let row = registers.word_mut(op.rows[at]);
                (0..LANES).for_each(|lane| row[lane] = element(lane, at) as u32);
            }
            (File::Wide, extend) => {
                let row = registers.wide_mut(op.rows[at]);
                (0..LANES).for_each(|lane| row[lane] = extend.apply(element(lane, at), 8 * N as u32));
            }
            (_, extend) => {
                let row = registers.word_mut(op.rows[at]);
                (0..LANES).for_each(|lane| row[lane] = extend.apply(element(lane, at), 8 * N as u32) as u32);
            }
        }
    }
}

/// Fills `block` with what a store's lanes store.
#[inline(always)]
pub(super) fn take(registers: &Registers, op: &Store, block: &mut [u8]) {
    match (op.bytes, op.count) {
        (1, 1) => join::<1, 1>(registers, op, block),
        (1, 2) => join::<1, 2>(registers, op, block),
        (1, _) => join::<1, 4>(registers, op, block),
        (2, 1) => join::<2, 1>(registers, op, block),
        (2, 2) => join::<2, 2>(registers, op, block),
        (2, _) => join::<2, 4>(registers, op, block),
        (4, 1) => join::<4, 1>(registers, op, block),
        (4, 2) => join::<4, 2>(registers, op, block),
        (4, _) if op.file == File::Word => {
            let [a, b, c, d] = op.rows.map(|row| registers.word(row));
            simd::join([a, b, c, d], block.as_chunks_mut().0);
        }
        (4, _) => join::<4, 4>(registers, op, block),
        (_, 1) => join::<8, 1>(registers, op, block),
        (..) => join::<8, 2>(registers, op, block),
    }
}

/// As [`take`], for elements of `N` bytes, of which each lane has `COUNT`.
#[inline(always)]
fn join<const N: usize, const COUNT: usize>(registers: &Registers, op: &Store, block: &mut [u8]) {
    let block = &mut block[..N * COUNT * LANES];
    for at in 0..COUNT {
        match op.file {
            File::Wide => {
                let values = registers.wide(op.rows[at]);
                for lane in 0..LANES {
                    block[N * (COUNT * lane + at)..][..N].copy_from_slice(&values[lane].to_le_bytes()[..N]);
                }
            }
            _ => {
                let values = registers.word(op.rows[at]);
                for lane in 0..LANES {
                    block[N * (COUNT * lane + at)..][..N].copy_from_slice(&u64::from(values[lane]).to_le_bytes()[..N]);
                }
            }
        }
    }
}
