//! `ldmatrix` and `mma`: instructions of a whole warp.

use super::block::Env;
use super::lane_access::Touched;
use super::mma::Mma;
use super::registers::LANES;
use super::step::{addresses, count_shared};
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
pub(super) fn load(warp: &mut Warp, env: &mut Env<'_, '_>, op: &LoadMatrix) -> Checked<()> {
    whole(warp, "ldmatrix")?;
    warp.effects += 1;
    let addresses = addresses(&warp.registers, &op.address);
    let touched = Touched::new(&addresses, u32::MAX >> (32 - 8 * op.count), 16)?;
    env.shared.touch(&touched, warp.number as u8, Touch::Read)?;
    count_shared(env, &touched);
    let mut loaded = [[0; LANES]; 4];
    for matrix in 0..op.count {
        let rows: [[u32; 4]; 8] = std::array::from_fn(|row| env.shared.row(addresses[8 * matrix + row]));
        loaded[matrix] =
            if op.transposed { transposed(&rows) } else { std::array::from_fn(|lane| rows[lane / 4][lane % 4]) };
    }
    for matrix in 0..op.count {
        *warp.registers.word_mut(op.rows[matrix]) = loaded[matrix];
    }
    Ok(())
}

fn transposed(rows: &[[u32; 4]; 8]) -> [u32; LANES] {
    let half = |row: usize, column: usize| rows[row][column / 2] >> (16 * (column % 2)) & 0xffff;
    std::array::from_fn(|lane| {
        let (column, row) = (lane / 4, 2 * (lane % 4));
        half(row, column) | half(row + 1, column) << 16
    })
}

pub(super) fn multiply(warp: &mut Warp, env: &mut Env<'_, '_>, op: &Mma) -> Checked<()> {
    whole(warp, "mma")?;
    env.counters.mma += 1;
    env.counters.mma_operations += op.operations();
    op.run(&mut warp.registers);
    Ok(())
}
