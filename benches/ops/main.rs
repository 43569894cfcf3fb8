//! Every op at a real Llama's size, with the floor that it is held against.

use criterion::{criterion_group, criterion_main};

mod adamw;
mod attention;
mod cross_entropy;
mod dropout;
mod elementwise;
mod embedding;
mod floor;
mod grad_norm;
mod lora;
mod matmul;
mod rmsnorm;
mod rope;
mod swiglu;

criterion_group!(
    benches,
    adamw::bench,
    attention::bench,
    cross_entropy::bench,
    dropout::bench,
    elementwise::bench,
    embedding::bench,
    grad_norm::bench,
    lora::bench,
    matmul::bench,
    rmsnorm::bench,
    rope::bench,
    swiglu::bench,
);
criterion_main!(benches);
