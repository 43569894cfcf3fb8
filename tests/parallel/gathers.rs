//! What moves between ranks for the weights of a model.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Result;
use vicugna::models::llama::{Llama, LlamaConfig, Load, ModelType};
use vicugna::nn::{Parameter, Weight};
use vicugna::ops::int8_matmul::{Int8, Method};
use vicugna::ops::nf4::{self, Kind};
use vicugna::ops::weight::Quantized;
use vicugna::parallel::{Communicator, Exchange, Parts, Sharded, Strategy, threads};
use vicugna::shape::Shape;

/// One rank's way to itself, which counts what is gathered of frozen weights.
struct Counted {
    way: Arc<dyn Communicator>,
    gathered: AtomicUsize,
}

impl Communicator for Counted {
    fn rank(&self) -> usize {
        self.way.rank()
    }

    fn world_size(&self) -> usize {
        self.way.world_size()
    }

    fn all_gather(&self, what: &str, mine: Parts, lengths: &[Vec<usize>]) -> Result<Box<dyn Exchange>> {
        if what.starts_with("gather of Block") {
            self.gathered.fetch_add(lengths.iter().flatten().sum(), Ordering::Relaxed);
        }
        self.way.all_gather(what, mine, lengths)
    }

    fn all_to_all(&self, what: &str, parts: Vec<Parts>, lengths: &[Vec<usize>]) -> Result<Box<dyn Exchange>> {
        self.way.all_to_all(what, parts, lengths)
    }

    fn abort(&self, why: &str, code: i32) {
        self.way.abort(why, code);
    }
}

type Hold = fn(&Tensor) -> Weight;

/// A loader of zeros, whose linear layers are held as `hold` says, and kept by `sharded`.
struct Zeros<'a> {
    sharded: &'a Sharded,
    hold: Hold,
}

impl Load for Zeros<'_> {
    fn tensor(&mut self, name: &str, shape: Shape) -> Result<Tensor> {
        let tensor = Tensor::zeros(&Device::Cpu, DType::F32, shape)?;
        Ok(self.sharded.keep(name, tensor.into(), false)?.parameter().map(Parameter::get).unwrap())
    }

    fn linear(&mut self, name: &str, shape: Shape) -> Result<Weight> {
        let weight = (self.hold)(&Tensor::zeros(&Device::Cpu, DType::F32, shape)?);
        self.sharded.keep(name, weight, false)
    }
}

/// The bytes that a forward pass gathers for the blocks of a model at SmolLM2's widths.
fn gathered(hold: Hold) -> usize {
    let config = LlamaConfig {
        model_type: ModelType::default(),
        vocab_size: 16,
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: 2,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    };
    let way = threads(1, Duration::from_secs(10)).swap_remove(0);
    let counted = Arc::new(Counted { way, gathered: AtomicUsize::new(0) });
    let sharded = Sharded::new(counted.clone(), Strategy::Full, &Device::Cpu, (2, false), false);
    Llama::new(config, DType::F32, &mut Zeros { sharded: &sharded, hold }).unwrap();
    sharded.idle(false).unwrap();
    counted.gathered.load(Ordering::Relaxed)
}

#[test]
fn codes_move_as_the_bytes_they_are() {
    let floats = gathered(|weight| weight.clone().into());
    let int8 = gathered(|weight| Quantized::Int8(Int8::quantize(weight, Method::default()).unwrap()).into());
    let four = gathered(|weight| Quantized::FourBit(nf4::quantize(weight, Kind::Nf4, 64, false).unwrap()).into());
    println!("f32 {floats}, int8 {int8}, nf4 {four} bytes a forward pass");
    // Norms are floats in all of them.
    assert!(int8 as f64 <= 0.26 * floats as f64, "{int8} bytes of int8, {floats} of f32");
    assert!(four as f64 <= 0.145 * floats as f64, "{four} bytes of nf4, {floats} of f32");
}
