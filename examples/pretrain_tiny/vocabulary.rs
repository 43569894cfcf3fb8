//! The tiny Llama's tokens: byte-level pairs, learned from its own texts.

use std::path::Path;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, Result as TokenizersResult, TokenizerBuilder};
use vicugna::error::{Error, Result};
use vicugna::io::tokenizer::Tokenizer;

use crate::corpus::Corpus;

/// Tokens, the two special ones included.
const VOCAB_SIZE: usize = 1536;
/// Texts to learn them from.
const TEXTS: usize = 6000;
/// Ends a text; its id is 0.
const END: &str = "<|end|>";
/// Begins a text; its id is 1.
const BEGIN: &str = "<|begin|>";

/// Learns a tokenizer and leaves it in `folder`.
pub fn learn(corpus: &mut Corpus, folder: &Path) -> Result<Tokenizer> {
    std::fs::create_dir_all(folder).map_err(|e| Error::input(folder.display().to_string(), e.to_string()))?;
    let texts: Vec<String> = (0..TEXTS).map(|_| corpus.text()).collect();
    write(texts, folder).map_err(|e| Error::input("tokenizer", e.to_string()))?;
    Tokenizer::from_folder(folder)
}

fn write(texts: Vec<String>, folder: &Path) -> TokenizersResult<()> {
    let special = [END, BEGIN].map(|token| AddedToken::from(token, true));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(VOCAB_SIZE)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let begin = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": BEGIN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {BEGIN: {"id": BEGIN, "ids": [1], "tokens": [BEGIN]}},
    });
    let byte_level = || Some(ByteLevel::default().add_prefix_space(false));
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<NormalizerWrapper>)
        .with_pre_tokenizer(byte_level())
        .with_decoder(byte_level())
        .with_post_processor(Some(serde_json::from_value::<PostProcessorWrapper>(begin)?))
        .build()?;
    tokenizer.train(&mut trainer, texts.into_iter())?;
    tokenizer.save(folder.join("tokenizer.json"), false)?;
    let config = serde_json::json!({"add_bos_token": true, "bos_token": BEGIN, "eos_token": END});
    std::fs::write(folder.join("tokenizer_config.json"), format!("{config:#}\n"))?;
    Ok(())
}
