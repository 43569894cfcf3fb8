//! Models made of layers. None knows how it is trained, stored or sharded.

pub mod llama;
