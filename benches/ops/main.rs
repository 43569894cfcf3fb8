//! Every op at a real Llama's size on the device that `VICUGNA_DEVICE` names: timed beside the floor that it is held
//! against on `cpu`, the default, and on `cuda[:N]`; counted on `emulated`, where time says nothing.

use criterion::Criterion;
use device::{Bench, Place};

mod adamw;
mod attention;
mod cross_entropy;
mod device;
mod dropout;
mod elementwise;
mod embedding;
mod floor;
mod grad_norm;
mod int8_matmul;
mod lora;
mod matmul;
mod nf4;
mod rmsnorm;
mod rope;
mod swiglu;

type Run = fn(&mut Bench);

const OPS: [(&str, Run); 14] = [
    ("adamw", adamw::bench),
    ("attention", attention::bench),
    ("cross_entropy", cross_entropy::bench),
    ("dropout", dropout::bench),
    ("elementwise", elementwise::bench),
    ("embedding", embedding::bench),
    ("grad_norm", grad_norm::bench),
    ("int8_matmul", int8_matmul::bench),
    ("lora", lora::bench),
    ("matmul", matmul::bench),
    ("nf4", nf4::bench),
    ("rmsnorm", rmsnorm::bench),
    ("rope", rope::bench),
    ("swiglu", swiglu::bench),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let place = Place::from_env();
    for (op, bench) in OPS {
        for &dtype in place.dtypes() {
            bench(&mut Bench::new(&mut criterion, &place, op, dtype));
        }
    }
    criterion.final_summary();
}
