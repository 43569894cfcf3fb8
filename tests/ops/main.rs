//! Every op against its f64 specification, on random ragged shapes.

mod harness;

mod adamw;
mod agreement;
mod attention;
mod cross_entropy;
mod dropout;
mod elementwise;
mod embedding;
mod grad_norm;
mod int8_matmul;
mod lora;
mod lora_quantized;
mod matmul;
mod nf4;
mod quantized_counters;
mod rmsnorm;
mod rope;
mod swiglu;
