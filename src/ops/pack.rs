//! How kernels read rows: in packs of neighbours, one access each (`cuda/common.cuh`).

use crate::dtype::DType;

/// Elements of a pack: 16 bytes, where every row begins on such a boundary.
pub fn pack(columns: usize, dtype: DType) -> usize {
    let pack = 16 / dtype.size();
    if columns.is_multiple_of(pack) { pack } else { 1 }
}

/// Threads of a block that takes a row, a pack each, up to 256.
pub fn block(columns: usize, dtype: DType) -> usize {
    columns.div_ceil(pack(columns, dtype)).next_multiple_of(32).clamp(32, 256)
}
