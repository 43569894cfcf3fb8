use vicugna::ops::rope::{RopeTable, rope};

use crate::device::Bench;

/// One read and one write of q and k, in place.
pub fn bench(bench: &mut Bench) {
    let m = bench.model;
    let table = RopeTable::new(&bench.device, m.d, m.t, 1e5, None).unwrap();
    let positions = bench.ids(1, m.t);
    let mut x = Some((bench.tensor([m.rows, m.nh * m.d]), bench.tensor([m.rows, m.nkv * m.d])));
    let moved = bench.bytes(2 * m.rows * (m.nh + m.nkv) * m.d);
    bench.measure("fwd", format!("{}x{}+{}x{}", m.rows, m.nh, m.nkv, m.d), moved, || {
        let (q, k) = x.take().unwrap();
        x = Some(rope(q, k, &table, &positions).unwrap());
    });
}
