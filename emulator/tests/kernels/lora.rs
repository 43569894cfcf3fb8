//! The kernel that rounds adapters: matrices of few rows and of few columns, some of which are beyond the source.

use crate::case::{Bf16, Case, F32, Kind, Word};
use crate::catalogue::{draw, name};
use crate::matmul::LORA;

/// Rows and columns of each matrix, and those it is padded to.
const MATRICES: [[usize; 4]; 4] = [[5, 300, 8, 300], [40, 5, 40, 8], [1, 7, 8, 7], [16, 24, 16, 24]];

pub fn cases() -> Vec<Case> {
    [F32, Bf16].map(operands).into()
}

fn operands(kind: Kind) -> Case {
    let scale = 0.75;
    let grid = [MATRICES.len() as u32, 2, 1];
    let mut case = Case::new(LORA, &name("lora_operands", kind), "four matrices", grid, 256);
    let mut words = Vec::new();
    for (i, [rows, columns, padded_rows, padded_columns]) in MATRICES.into_iter().enumerate() {
        let values = draw(F32, i as u64, rows * columns);
        let element = |at: usize| match (at / padded_columns, at % padded_columns) {
            (row, column) if row < rows && column < columns => scale * values[row * columns + column],
            _ => 0.0,
        };
        let expected = (0..padded_rows * padded_columns).map(element).collect();
        let from = case.hidden(F32, &values, None);
        let to = case.hidden(kind, &vec![-1.0; padded_rows * padded_columns], Some(expected));
        let pair = |low: usize, high: usize| Word::Value(low as u64 | (high as u64) << 32);
        words.extend([Word::Address(from), Word::Address(to), pair(rows, columns), pair(padded_rows, padded_columns)]);
        words.push(Word::Value((scale as f32).to_bits().into()));
    }
    case.table(words)
}
