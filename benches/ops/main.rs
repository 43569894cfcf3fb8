//! Every op at a real Llama's size, with the floor that it is held against.

use criterion::{criterion_group, criterion_main};

mod dropout;
mod elementwise;
mod embedding;
mod floor;
mod rmsnorm;
mod rope;
mod swiglu;

criterion_group!(
    benches,
    dropout::bench,
    elementwise::bench,
    embedding::bench,
    rmsnorm::bench,
    rope::bench,
    swiglu::bench,
);
criterion_main!(benches);
