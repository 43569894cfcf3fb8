//! Every op against its f64 specification, on random ragged shapes.

mod harness;

mod attention;
mod rmsnorm;
