//! Layers made of ops, the batch they run on, and the hook around every transformer block.

mod batch;
mod hook;
mod kv_cache;
mod layers;
mod lora;
mod parameter;
mod weight;

pub use batch::{Batch, DropoutSeed, Pass, Sequence};
pub use hook::{Checkpoint, Plain, Unit, UnitFn, UnitHook};
pub use kv_cache::{KvCache, LayerCache};
pub use layers::{Embedding, Linear, RmsNorm, int8_threshold, operands, project};
pub use lora::{Lora, LoraInit};
pub use parameter::{Parameter, Visitor};
pub use weight::Weight;
