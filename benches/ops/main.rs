//! Every op at a real Llama's size, with the floor that it is held against.

use criterion::{criterion_group, criterion_main};

mod dropout;
mod floor;
mod rmsnorm;
mod rope;

criterion_group!(benches, dropout::bench, rmsnorm::bench, rope::bench);
criterion_main!(benches);
