//! Training data: from a file of records to batches of tokens.
//!
//! [`records::read`] → [`tokenize::tokenize`] → [`split::split`], and for every epoch [`shuffle::order`] →
//! [`packing::pack`] → [`Batch`](crate::nn::Batch).

mod csv;
pub mod packing;
pub mod records;
pub mod rows;
pub mod shuffle;
pub mod split;
pub mod template;
pub mod tokenize;
