use vicugna::ops::attention::{Heads, Segments, attention};

use crate::device::{Bench, Cost, backward_of};

/// A batch of sequences, and all tokens as one: the operations are those of the causal half. One query over them all reads
/// keys and values.
pub fn bench(bench: &mut Bench) {
    let m = bench.model;
    let (rows, scale) = (m.rows, (m.d as f32).sqrt().recip());
    let heads = Heads { num_attention_heads: m.nh, num_key_value_heads: m.nkv, head_dim: m.d };
    let [q, k, v] = [m.nh, m.nkv, m.nkv].map(|n| bench.tensor([rows, n * m.d]).with_grad());
    for t in [m.t, rows] {
        let segments = Segments::packed(&vec![t; rows / t]);
        let product = rows * (t + 1) * m.nh * m.d;
        let run = || attention(&q, &k, &v, &segments, heads, scale).unwrap();
        let size = format!("{}x{t}_{}h_{}", rows / t, m.nh, m.d);
        bench.measure("fwd", &size, Cost::Operations(2 * product), run);
        bench.measure("fwd+bwd", &size, Cost::Operations(7 * product), || backward_of(&run()));
    }
    let (query, segments) = (bench.tensor([1, m.nh * m.d]), Segments::cached(1, rows));
    let [k, v] = [k.detach(), v.detach()];
    let read = bench.bytes(2 * rows * m.nkv * m.d);
    let run = || attention(&query, &k, &v, &segments, heads, scale).unwrap();
    bench.measure("fwd", format!("1_of_{rows}_{}h_{}", m.nh, m.d), read, run);
}
