//! Tokens and the places that they have in a text; special tokens that are text.

use proptest::prelude::*;
use vicugna::io::gguf::Gguf;
use vicugna::io::tokenizer::{Token, Tokenizer};

use super::files::fixture;

/// A SentencePiece and a byte-level tokenizer, with a special token of each.
fn tokenizers() -> [(Tokenizer, &'static str); 2] {
    let sentence_piece = Gguf::open(fixture("gguf_llama_spm/tiny.gguf")).unwrap().tokenizer().unwrap();
    let byte_level = Tokenizer::from_folder(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny")).unwrap();
    let eos = byte_level.eos().unwrap();
    let end = byte_level.decode(&[eos], false).unwrap();
    [(sentence_piece, "</s>"), (byte_level, Box::leak(end.into_boxed_str()))]
}

/// Stretches of text, some of them with `special` in them, each meant as it stands or as text.
fn pieces(special: &'static str) -> impl Strategy<Value = Vec<(String, bool)>> {
    let piece = prop_oneof![
        Just(special.to_owned()),
        Just(format!("{special}{special}")),
        Just(format!(" {special} ")),
        Just(special[1..].to_owned()),
        Just("<".to_owned()),
        "[ a-c\n]{0,6}",
        "[é日🦙]{0,3}",
    ];
    prop::collection::vec((piece, any::<bool>()), 0..8)
}

fn is_in_order(tokens: &[Token], text: &str) -> bool {
    let covered =
        tokens.iter().try_fold(0, |end, Token { span, .. }| (span.start <= end && end <= span.end).then_some(span.end));
    covered == Some(text.len()) && tokens.iter().all(|token| text.get(token.span.clone()).is_some())
}

#[test]
fn every_character_has_its_token() {
    for (tokenizer, special) in tokenizers() {
        proptest!(|(pieces in pieces(special), literal: bool)| {
            let text: String = pieces.into_iter().map(|(piece, _)| piece).collect();
            let stretch = 0..text.len();
            let tokens = tokenizer.encode_spans(&text, if literal { std::slice::from_ref(&stretch) } else { &[] }, false).unwrap();
            prop_assert!(is_in_order(&tokens, &text), "{text:?}: {tokens:?}");
        });
    }
}

#[test]
fn special_tokens_in_literal_stretches_are_text() {
    for (tokenizer, special) in tokenizers() {
        let id = tokenizer.token_to_id(special).unwrap();
        proptest!(|(pieces in pieces(special))| {
            let (mut text, mut literal, mut meant) = (String::new(), Vec::new(), Vec::new());
            for (piece, is_literal) in &pieces {
                let start = text.len();
                text += piece;
                match is_literal {
                    true => literal.push(start..text.len()),
                    false => meant.extend(piece.match_indices(special).map(|(at, _)| start + at)),
                }
            }
            let tokens = tokenizer.encode_spans(&text, &literal, false).unwrap();
            let found: Vec<usize> = tokens.iter().filter(|token| token.id == id).map(|token| token.span.start).collect();
            for at in &meant {
                prop_assert!(found.contains(at), "{text:?}: the special token at {at} is not in {tokens:?}");
            }
            for token in tokens.iter().filter(|token| token.id == id) {
                let touched = literal.iter().any(|stretch| stretch.start < token.span.end && token.span.start < stretch.end);
                prop_assert!(!touched, "{text:?}: {token:?} touches text");
            }
            let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{ids:?}");
            if found.is_empty() {
                let decoded = tokenizer.decode(&ids, false).unwrap();
                prop_assert_eq!(decoded.trim_start(), text.trim_start());
            }
        });
    }
}

#[test]
fn a_blank_before_a_word_is_of_its_token() {
    for (tokenizer, _) in tokenizers() {
        let tokens = tokenizer.encode_spans("a a", &[], false).unwrap();
        assert_eq!(tokens.last().unwrap().span, 1..3, "{tokens:?}");
    }
}

#[test]
fn a_text_begins_once() {
    let [(tokenizer, _), _] = tokenizers();
    let once = tokenizer.encode("<s>a", false).unwrap();
    assert_eq!(tokenizer.encode("<s>a", true).unwrap(), once);
    assert_eq!(tokenizer.encode("<s><s>a", true).unwrap(), [vec![1], once].concat(), "what is written twice stays");
    let literal = tokenizer.encode_spans("<s>a", std::slice::from_ref(&(0..4)), true).unwrap();
    assert_eq!(literal.iter().filter(|token| token.id == 1).count(), 1);
}
