//! Every op against its f64 specification, on random ragged shapes.

mod harness;

mod dropout;
mod cross_entropy;
mod matmul;
mod rmsnorm;
