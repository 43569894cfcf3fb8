use criterion::{Criterion, Throughput};
use vicugna::autograd::backward_from;
use vicugna::ops::attention::{Heads, Segments, attention};

use crate::floor;
use crate::matmul::filled;

/// SmolLM2-135M at 4 x 256 tokens, and a Llama-3 layer's heads at 2048. Operations are those of the causal half.
pub fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    floor::flops(&mut group);
    for (lengths, nh, nkv, d) in [(vec![256; 4], 9, 3, 64), (vec![2048], 32, 8, 128)] {
        let rows: usize = lengths.iter().sum();
        let heads = Heads { num_attention_heads: nh, num_key_value_heads: nkv, head_dim: d };
        let [q, k, v] = [nh, nkv, nkv].map(|n| filled([rows, n * d]).with_grad());
        let segments = Segments::packed(&lengths);
        let pairs: usize = lengths.iter().map(|t| t * (t + 1) / 2).sum();
        let run = || attention(&q, &k, &v, &segments, heads, 0.125).unwrap();
        group.sample_size(10).throughput(Throughput::Elements(4 * (pairs * nh * d) as u64));
        group.bench_function(format!("fwd_f32/{rows}_{nh}h_{d}"), |b| b.iter(run));
        group.throughput(Throughput::Elements(14 * (pairs * nh * d) as u64));
        group.bench_function(format!("fwd+bwd_f32/{rows}_{nh}h_{d}"), |b| {
            b.iter(|| {
                let y = run();
                let dy = y.detach();
                backward_from([(&y, dy)]).unwrap()
            });
        });
    }
    group.finish();
}
