//! The tokens at which generation stops, as far as a tokenizer knows them.

use super::Tokenizer;

/// Tokens that end a text or a turn wherever they are added to a vocabulary.
///
/// Source: `special_eog_ids` in `src/llama-vocab.cpp` of <https://github.com/ggml-org/llama.cpp>, without those that
/// only fill in the middle of code.
const NAMES: [&str; 21] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

impl Tokenizer {
    /// The tokens at which generation stops: `of_model`, those that the model's configuration names, then the ends that
    /// the tokenizer's files name, then ends of turns that are known by name.
    pub fn ends(&self, of_model: &[u32]) -> Vec<u32> {
        let added = self.inner.get_added_vocabulary().get_vocab();
        // Where these two are, a message has several parts, and this token is between them.
        let has_parts = [["<|return|>", "<|call|>"], ["<|calls|>", "<|flush|>"]]
            .iter()
            .any(|pair| pair.iter().all(|name| added.contains_key(*name)));
        let known = NAMES.iter().filter(|name| !(has_parts && **name == "<|end|>")).filter_map(|name| added.get(*name));
        let mut ends = Vec::new();
        for &id in of_model.iter().chain(&self.ends).chain(known) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        ends
    }
}
