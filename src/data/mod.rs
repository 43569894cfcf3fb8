//! Training data: from a file of records to batches of tokens.
//!
//! [`records::read`] → [`tokenize::tokenize`] → [`split::split`], and for every epoch [`shuffle::order`] →
//! [`packing::pack`] → [`Batch`](crate::nn::Batch).

pub mod chat;
mod csv;
mod fields;
pub mod packing;
pub mod reading;
pub mod records;
pub mod rows;
mod sharegpt;
pub mod shuffle;
pub mod split;
pub mod template;
pub mod tokenize;
