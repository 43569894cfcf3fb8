//! `ldmatrix` and `mma`: instructions of a whole warp.

use super::block::Env;
use super::lane_access::Touched;
use super::mma::Mma;
use super::registers::LANES;
use super::simd::{Avx2, Work};
use super::step::{Access, addresses, count_shared};
use super::warp::Warp;
use crate::program::LoadMatrix;
use crate::race::Touch;
use crate::trap::{Checked, Fault, TrapKind};

/// Every lane must be there: the PTX ISA leaves these undefined once a lane has exited.
fn whole(warp: &Warp, name: &str) -> Checked<()> {
    if warp.active == u32::MAX {
        return Ok(());
    }
    let absent = !warp.active;
    let detail = format!("{name} needs all 32 lanes, but lanes {absent:#010x} have exited or do not exist");
    Err(Fault::new(TrapKind::WarpDivergence, absent.trailing_zeros(), detail))
}

/// Lanes 8 i to 8 i + 7 point to the rows of matrix i, of which each lane gets two neighbours in a row: row lane / 4,
/// columns 2 (lane % 4) and the next; transposed, of the transposed matrix.
impl Work for Access<'_, '_, '_, LoadMatrix> {
    type Output = Checked<()>;

    #[inline(always)]
    fn run(self, _: Option<Avx2>) -> Checked<()> {
        load(self.warp, self.env, self.op)
    }
}

#[inline(always)]
fn load(warp: &mut Warp, env: &mut Env<'_, '_>, op: &LoadMatrix) -> Checked<()> {
    whole(warp, "ldmatrix")?;
    warp.effects += 1;
    let addresses = addresses(&warp.registers, &op.address);
    let touched = Touched::shared(&addresses, u32::MAX >> (32 - 8 * op.count), 16, &mut env.room)?;
    env.shared.touch(&touched, warp.number as u8, Touch::Read)?;
    count_shared(&mut env.counters, &touched);
    for matrix in 0..op.count {
        let mut lanes = [0; LANES];
        for (lanes, &at) in lanes.chunks_exact_mut(4).zip(&addresses[8 * matrix..8 * matrix + 8]) {
            lanes.copy_from_slice(&env.shared.row(at));
        }
        *warp.registers.word_mut(op.rows[matrix]) = if op.transposed { transposed(&lanes) } else { lanes };
    }
    Ok(())
}

/// A matrix of eight rows of four words, of which each has two elements.
fn transposed(words: &[u32; LANES]) -> [u32; LANES] {
    let element = |row: usize, column: usize| words[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    let mut out = [0; LANES];
    for lane in 0..LANES {
        let (column, row) = (lane / 4, 2 * (lane % 4));
        out[lane] = element(row, column) | element(row + 1, column) << 16;
    }
    out
}

pub(super) fn multiply(warp: &mut Warp, env: &mut Env<'_, '_>, op: &Mma) -> Checked<()> {
    whole(warp, "mma")?;
    env.counters.mma += 1;
    env.counters.mma_operations += op.operations();
    op.run(&mut warp.registers);
    Ok(())
}
