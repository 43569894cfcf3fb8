use vicugna::ops::dropout::{Dropout, dropout};

use crate::device::Bench;

/// One read and one write of the rows.
pub fn bench(bench: &mut Bench) {
    let (rows, h) = (bench.model.rows, bench.model.h);
    let x = bench.tensor([rows, h]);
    let key = Dropout { p: 0.05, seed: 42, step: 7, site: 3, first_element: 0 };
    bench.measure("fwd", format!("{rows}x{h}"), bench.bytes(2 * rows * h), || dropout(&x, key).unwrap());
}
