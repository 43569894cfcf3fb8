use criterion::{Criterion, Throughput};
use vicugna::autograd::backward_from;
use vicugna::ops::lora::lora;

use crate::floor;
use crate::matmul::filled;

/// SmolLM2-135M's q_proj with rank 8 at 4 x 256 tokens. Only the base products are counted, so the distance to the floor
/// shows what the adapter costs.
pub fn bench(c: &mut Criterion) {
    let (rows, k, n, r) = (1024, 576, 576, 8);
    let (x, weight) = (filled([rows, k]).with_grad(), filled([n, k]));
    let (a, b) = (filled([r, k]).with_grad(), filled([n, r]).with_grad());
    let mut group = c.benchmark_group("lora");
    floor::flops(&mut group);
    group.throughput(Throughput::Elements(4 * (rows * k * n) as u64));
    group.bench_function("fwd+bwd_f32/1024x576x576_r8", |bench| {
        bench.iter(|| {
            let y = lora(&x, &weight, &a, &b, 4.0, None).unwrap();
            let dy = y.detach();
            backward_from([(&y, dy)]).unwrap()
        });
    });
    group.finish();
}
