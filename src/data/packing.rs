//! Which sequences share a batch. They stand side by side in it, without padding.
//!
//! llama-recipes packs by cutting one long stream of records into equal chunks: records are torn at the cuts, attend to
//! the records before them, count their positions on from those, and the end of the stream is dropped. Here a batch ends
//! where the next record does not fit, attention stays within a record, and positions begin anew in each.

use crate::nn::Sequence;

/// How full a batch gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// As many sequences as fit into this many tokens, at least one.
    Tokens(usize),
    /// This many sequences, whatever their lengths; at least one.
    Sequences(usize),
}

/// Divides `sequences` into batches, in their order.
pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a Sequence>, capacity: Capacity) -> Vec<Vec<&'a Sequence>> {
    let mut batches: Vec<Vec<&Sequence>> = Vec::new();
    let mut tokens = 0;
    for sequence in sequences {
        let length = sequence.input_ids.len();
        let has_room = |batch: &Vec<&Sequence>| match capacity {
            Capacity::Tokens(most) => tokens + length <= most,
            Capacity::Sequences(most) => batch.len() < most,
        };
        match batches.last_mut().filter(|batch| has_room(batch)) {
            Some(batch) => {
                batch.push(sequence);
                tokens += length;
            }
            None => {
                batches.push(vec![sequence]);
                tokens = length;
            }
        }
    }
    batches
}
