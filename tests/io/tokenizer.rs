use std::collections::HashMap;
use std::fs;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use vicugna::error::Error;
use vicugna::io::gguf::Gguf;
use vicugna::io::tokenizer::{Conversation, Tokenizer};

use super::files::fixture;
use super::gguf_file::{GgufFile, I32};

fn expected(case: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(case).join("expected.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn open(file: &GgufFile) -> Result<Tokenizer, Error> {
    Gguf::open(&file.write().path)?.tokenizer()
}

fn sentence_piece() -> Tokenizer {
    Gguf::open(fixture("gguf_llama_spm/tiny.gguf")).unwrap().tokenizer().unwrap()
}

#[test]
fn sentence_piece_ids_are_the_references() {
    let tokenizer = sentence_piece();
    for case in expected("gguf_llama_spm")["tokenizer"].as_array().unwrap() {
        let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{text:?}");
        let bos = if text.starts_with("<s>") { vec![] } else { vec![1] };
        assert_eq!(tokenizer.encode(text, true).unwrap(), [bos, expected.clone()].concat(), "{text:?}");
        assert_eq!(tokenizer.decode(&expected, false).unwrap(), case["decoded"].as_str().unwrap());
    }
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos()), (400, Some(1), Some(2)));
    assert_eq!((tokenizer.token_to_id("</s>"), tokenizer.token_to_id("no such token")), (Some(2), None));
}

/// A byte-level tokenizer trained on a few sentences, as Llama 3's is built, with a token that no merge makes.
fn byte_level() -> Value {
    let text =
        "The vicuña lives in the high Andes, and so does the guanaco. It's 4800 metres up there; they're fine!\n\n";
    let mut tokenizer: tokenizers::Tokenizer = tokenizers::Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    let alphabet = ByteLevel::alphabet().into_iter().collect();
    let trainer = BpeTrainerBuilder::new().vocab_size(400).show_progress(false).initial_alphabet(alphabet).build();
    let mut trainer: TrainerWrapper = trainer.into();
    tokenizer.train(&mut trainer, std::iter::once(text)).unwrap();
    let mut tokenizer = serde_json::to_value(&tokenizer).unwrap();
    let size = tokenizer["model"]["vocab"].as_object().unwrap().len();
    tokenizer["model"]["vocab"]["Ġllama"] = size.into();
    tokenizer["model"]["ignore_merges"] = true.into();
    let added = ["<|begin|>", "<|end|>"].into_iter().enumerate().map(|(i, content)| {
        json!({"id": size + 1 + i, "content": content, "special": true, "normalized": false,
               "single_word": false, "lstrip": false, "rstrip": false})
    });
    tokenizer["added_tokens"] = added.collect();
    let split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": false}, bytes]});
    tokenizer["decoder"] = bytes;
    tokenizer["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [size + 1], "tokens": ["<|begin|>"]}}});
    tokenizer
}

/// The same as a GGUF's metadata.
fn as_gguf(tokenizer: &Value, pre: &str) -> GgufFile {
    let vocab: HashMap<String, usize> = serde_json::from_value(tokenizer["model"]["vocab"].clone()).unwrap();
    let mut tokens = vec![String::new(); vocab.len()];
    vocab.into_iter().for_each(|(token, id)| tokens[id] = token);
    let begin = tokens.len() as u32;
    let mut kinds = vec![1; tokens.len()];
    for added in tokenizer["added_tokens"].as_array().unwrap() {
        tokens.push(added["content"].as_str().unwrap().to_owned());
        kinds.push(3);
    }
    let merges: Vec<[String; 2]> = serde_json::from_value(tokenizer["model"]["merges"].clone()).unwrap();
    let merges: Vec<String> = merges.iter().map(|pair| pair.join(" ")).collect();
    let file = GgufFile::new("llama").string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", pre);
    let file = file.strings("tokenizer.ggml.tokens", &tokens).i32s("tokenizer.ggml.token_type", &kinds);
    let file = file.strings("tokenizer.ggml.merges", &merges);
    file.u32("tokenizer.ggml.bos_token_id", begin).u32("tokenizer.ggml.eos_token_id", begin + 1)
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| fs::write(folder.0.path().join(name), text).unwrap());
        folder
    }

    fn tokenizer(&self) -> Result<Tokenizer, Error> {
        Tokenizer::from_folder(self.0.path())
    }
}

fn folder(tokenizer: &Value, config: &Value) -> Folder {
    Folder::new(&[("tokenizer.json", &tokenizer.to_string()), ("tokenizer_config.json", &config.to_string())])
}

/// Texts with what tokenizers trip over.
fn texts() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        4 => "[a-zA-Z ]{1,8}",
        2 => "[0-9 .,]{1,6}",
        1 => "[ \t\r\n\u{a0}\u{3000}]{1,4}",
        1 => prop::sample::select(vec!["'s", "'RE", " llama", "vicuña", "你好", "😀👍🏽", "e\u{301}", "<|begin|>", "<|end|>"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

fn streams_as_decoded(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> TestCaseResult {
    let whole = tokenizer.decode(ids, skip_special).unwrap();
    let mut stream = tokenizer.stream(skip_special);
    let mut pieces = Vec::new();
    for &id in ids {
        pieces.push(stream.push(id).unwrap());
        let ended = pieces.last().is_none_or(|piece| !piece.ends_with(char::REPLACEMENT_CHARACTER));
        prop_assert!(ended, "{pieces:?} ends inside a character");
    }
    pieces.push(stream.finish().unwrap());
    prop_assert_eq!(pieces.concat(), whole);
    Ok(())
}

#[test]
fn a_gguf_and_a_folder_of_one_tokenizer_agree() {
    let tokenizer = byte_level();
    let folder = folder(&tokenizer, &json!({"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}}));
    let (a, b) = (folder.tokenizer().unwrap(), open(&as_gguf(&tokenizer, "llama-bpe")).unwrap());
    assert_eq!((a.bos(), a.eos(), a.vocab_size()), (b.bos(), b.eos(), b.vocab_size()));
    let llama = a.token_to_id("Ġllama").unwrap();
    assert_eq!(a.encode(" llama", true).unwrap(), [a.bos().unwrap(), llama]);
    proptest!(|(text in texts(), special: bool)| {
        let ids = a.encode(&text, special).unwrap();
        prop_assert_eq!(&ids, &b.encode(&text, special).unwrap());
        let begins = special && !text.starts_with("<|begin|>");
        prop_assert_eq!(a.decode(&ids, false).unwrap(), if begins { format!("<|begin|>{text}") } else { text });
        streams_as_decoded(&b, &ids, special)?;
    });
}

#[test]
fn streaming_gives_the_pieces_of_the_whole_text() {
    for tokenizer in [sentence_piece(), open(&as_gguf(&byte_level(), "smollm")).unwrap()] {
        let size = tokenizer.vocab_size() as u32;
        // Bytes and specials are among the first ids and the last; ids beyond the vocabulary have no text.
        let id = prop_oneof![0..size + 3, 0..260u32, size - 5..size];
        proptest!(|(ids in prop::collection::vec(id, 0..30), skip_special: bool)| {
            streams_as_decoded(&tokenizer, &ids, skip_special)?;
        });
        proptest!(|(text in texts())| streams_as_decoded(&tokenizer, &tokenizer.encode(&text, true).unwrap(), true)?);
    }
}

#[test]
fn streaming_does_not_wait_for_more_than_it_needs() {
    let tokenizer = open(&as_gguf(&byte_level(), "llama-bpe")).unwrap();
    let ids = tokenizer.encode("The vicuña é", false).unwrap();
    let mut stream = tokenizer.stream(true);
    for (i, &id) in ids.iter().enumerate() {
        let whole = tokenizer.decode(&ids[..=i], true).unwrap();
        assert_eq!(stream.push(id).unwrap().is_empty(), whole.ends_with(char::REPLACEMENT_CHARACTER), "{whole}");
    }
}

/// llama.cpp's SentencePiece: of the neighbours whose union is a piece, those of the highest score are joined first.
fn greedy(pieces: &[(String, f32)], text: &str) -> Vec<u32> {
    let id = |text: &str| pieces.iter().position(|(piece, _)| piece == text);
    let mut symbols: Vec<String> = format!("▁{}", text.replace(' ', "▁")).chars().map(String::from).collect();
    loop {
        let unions = symbols.windows(2).enumerate().filter_map(|(i, pair)| Some((pieces[id(&pair.concat())?].1, i)));
        let Some((_, best)) = unions.reduce(|a, b| if b.0 > a.0 { b } else { a }) else { break };
        let right = symbols.remove(best + 1);
        symbols[best] += &right;
    }
    let bytes = |symbol: &str| symbol.bytes().map(|b| id(&format!("<0x{b:02X}>")).unwrap()).collect();
    symbols
        .iter()
        .flat_map(|symbol| id(symbol).map_or_else(|| bytes(symbol), |id| vec![id]))
        .map(|id| id as u32)
        .collect()
}

proptest! {
    /// Pieces are unions of pieces before them, as training makes them, so later ones score lower.
    #[test]
    fn sentence_piece_joins_by_score(
        unions in prop::collection::vec(any::<[prop::sample::Index; 2]>(), 0..40),
        text in prop_oneof!["[ab]{1,40}", "[abcdé 你]{1,30}"],
    ) {
        let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
        let bytes = (0..=255).map(|b| format!("<0x{b:02X}>"));
        let mut tokens: Vec<String> = special.into_iter().chain(bytes).collect();
        let first = tokens.len();
        tokens.extend(["▁", "a", "b", "c", "d", "é"].map(str::to_owned));
        for [left, right] in unions {
            let candidates = &tokens[first..];
            let union = [left, right].map(|half| half.get(candidates).as_str()).concat();
            if !tokens.contains(&union) && union.len() < 12 {
                tokens.push(union);
            }
        }
        let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
        let kinds: Vec<i32> = (0..tokens.len()).map(|id| [2, 3, 3].get(id).copied().unwrap_or(if id < first { 6 } else { 1 })).collect();
        let file = GgufFile::new("llama").string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", &tokens);
        let tokenizer = open(&file.f32s("tokenizer.ggml.scores", &scores).i32s("tokenizer.ggml.token_type", &kinds)).unwrap();
        let pieces: Vec<(String, f32)> = tokens.into_iter().zip(scores).collect();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(&ids, &greedy(&pieces, &text));
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn the_space_prefix_can_be_left_out() {
    let with_tokens = |file: GgufFile| {
        let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "▁a"];
        file.string("tokenizer.ggml.model", "llama")
            .strings("tokenizer.ggml.tokens", &tokens)
            .i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1])
            .f32s("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -3.0, -2.0, -1.0])
    };
    let prefixed = open(&with_tokens(GgufFile::new("llama"))).unwrap();
    let plain = GgufFile::new("llama").bool("tokenizer.ggml.add_space_prefix", false);
    let plain = open(&with_tokens(plain.bool("tokenizer.ggml.add_bos_token", false))).unwrap();
    for (tokenizer, text, ids, decoded) in [
        (&prefixed, "a a<s>a", vec![1, 5, 5, 1, 5], "<s> a a<s> a"),
        (&plain, "a a<s>a", vec![4, 5, 1, 4], "a a<s>a"),
        (&prefixed, " a", vec![1, 3, 5], "<s>  a"),
        (&plain, " a", vec![5], " a"),
        (&plain, "éb", vec![0], "<unk>"),
    ] {
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids, "{text}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), decoded);
    }
}

#[test]
fn what_is_put_around_a_text_is_what_the_tokenizer_says() {
    let tokenizer = byte_level();
    let tokens = json!({"bos_token": "<|begin|>", "eos_token": "<|end|>"});
    let with = |flags: Value| {
        let mut config = tokens.clone();
        config.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        folder(&tokenizer, &config).tokenizer().unwrap()
    };
    for (flags, before, after) in [
        (json!({}), "<|begin|>", ""),
        (json!({"add_bos_token": false}), "", ""),
        (json!({"add_bos_token": true}), "<|begin|>", ""),
        (json!({"add_eos_token": true}), "<|begin|>", ""),
        (json!({"add_bos_token": false, "add_eos_token": true}), "", ""),
        (json!({"add_bos_token": null}), "<|begin|>", ""),
        (json!({"add_bos_token": true, "eos_token": "<|begin|>"}), "<|begin|>", ""),
    ] {
        let tokenizer = with(flags.clone());
        let ids = tokenizer.encode("fine", true).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), format!("{before}fine{after}"), "{flags}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "fine");
    }
    let from_map =
        Folder::new(&[("tokenizer.json", &tokenizer.to_string()), ("special_tokens_map.json", &tokens.to_string())]);
    assert_eq!(from_map.tokenizer().unwrap().eos(), with(json!({})).eos());
    let file = as_gguf(&tokenizer, "gpt-2");
    for (file, before, after) in [
        (file.clone(), "", ""),
        (as_gguf(&tokenizer, "llama-bpe"), "<|begin|>", ""),
        (as_gguf(&tokenizer, "llama-bpe").bool("tokenizer.ggml.add_bos_token", false), "", ""),
        (file.bool("tokenizer.ggml.add_eos_token", true), "", ""),
    ] {
        let tokenizer = open(&file).unwrap();
        let ids = tokenizer.encode("fine", true).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), format!("{before}fine{after}"));
    }
}

#[test]
fn truncation_and_padding_of_the_file_are_left_out() {
    let mut tokenizer = byte_level();
    tokenizer["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    tokenizer["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
    let cut = folder(&tokenizer, &json!({})).tokenizer().unwrap();
    let whole = folder(&byte_level(), &json!({})).tokenizer().unwrap();
    let text = "The vicuña lives in the high Andes";
    assert_eq!(cut.encode(text, true).unwrap(), whole.encode(text, true).unwrap());
}

#[test]
fn a_written_tokenizer_is_the_same() {
    let config = json!({"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": "{{ bos_token }}{{ messages[0].content }}"});
    let template = "{{ bos_token }}{{ messages[0].content }}";
    let originals = [
        sentence_piece(),
        open(&as_gguf(&byte_level(), "llama-bpe").string("tokenizer.chat_template", template)).unwrap(),
        folder(&byte_level(), &config).tokenizer().unwrap(),
    ];
    for original in originals {
        let written = tempfile::tempdir().unwrap();
        original.write(&written.path().join("new")).unwrap();
        let read = Tokenizer::from_folder(written.path().join("new")).unwrap();
        assert_eq!(
            (read.bos(), read.eos(), read.vocab_size()),
            (original.bos(), original.eos(), original.vocab_size())
        );
        let messages = Conversation::from_json(json!([{"role": "user", "content": "hi"}])).unwrap();
        let [a, b] = [&original, &read].map(|tokenizer| tokenizer.apply_chat_template(&messages, true).ok());
        assert_eq!(a, b);
        proptest!(|(text in texts(), special: bool)| {
            let ids = original.encode(&text, special).unwrap();
            prop_assert_eq!(&read.encode(&text, special).unwrap(), &ids);
            prop_assert_eq!(read.decode(&ids, special).unwrap(), original.decode(&ids, special).unwrap());
        });
    }
}

#[test]
fn metadata_that_makes_no_tokenizer_is_refused_by_key() {
    let plain = |model: &str| GgufFile::new("llama").string("tokenizer.ggml.model", model);
    let tokens = |model: &str| plain(model).strings("tokenizer.ggml.tokens", &["a", "b", "ab"]);
    let bpe = || tokens("gpt2").strings("tokenizer.ggml.merges", &["a b"]);
    let spm = || tokens("llama").f32s("tokenizer.ggml.scores", &[0.0, -1.0, -2.0]);
    let pre = |file: GgufFile| file.string("tokenizer.ggml.pre", "gpt-2");
    for (file, expected) in [
        (plain("gpt2"), "metadata key \"tokenizer.ggml.tokens\": is missing"),
        (tokens("bert"), "metadata key \"tokenizer.ggml.model\": must be gpt2 or llama, is bert"),
        (bpe(), "metadata key \"tokenizer.ggml.pre\": is missing"),
        (bpe().string("tokenizer.ggml.pre", "gpt-9"), "metadata key \"tokenizer.ggml.pre\": \"gpt-9\" is not known"),
        (pre(tokens("gpt2")), "metadata key \"tokenizer.ggml.merges\": is missing"),
        (
            pre(tokens("gpt2").strings("tokenizer.ggml.merges", &["a b", "b a"])),
            "merge 1, \"b a\", is not of two tokens",
        ),
        (pre(tokens("gpt2").strings("tokenizer.ggml.merges", &["ab"])), "merge 0, \"ab\", is not of two tokens"),
        (pre(tokens("gpt2").u32("tokenizer.ggml.merges", 1)), "must be an array of strings"),
        (pre(bpe().u32("tokenizer.ggml.bos_token_id", 3)), "\"tokenizer.ggml.bos_token_id\": 3 is not one of 3 tokens"),
        (pre(bpe().bool("tokenizer.ggml.add_bos_token", true)), "add_bos_token is true, but bos_token is not a token"),
        (bpe().i32s("tokenizer.ggml.token_type", &[1]), "\"tokenizer.ggml.token_type\": 1 types for 3 tokens"),
        (plain("llama").strings("tokenizer.ggml.tokens", &["a", "b", "a"]), "tokens 0 and 2 are both \"a\""),
        (tokens("llama"), "metadata key \"tokenizer.ggml.scores\": is missing"),
        (tokens("llama").f32s("tokenizer.ggml.scores", &[0.0]), "\"tokenizer.ggml.scores\": 1 scores for 3 tokens"),
        (spm().string("tokenizer.ggml.add_space_prefix", "no"), "must be true or false"),
    ] {
        let error = open(&file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
    let error = open(&bpe().string("tokenizer.ggml.pre", "gpt-9")).unwrap_err();
    assert!(error.hint().unwrap().contains("smollm"), "{error:?}");
    assert!(open(&spm()).is_ok() && open(&pre(bpe())).is_ok());
}

/// llama.cpp warns of such an id and goes on: with SentencePiece's own where there is one, else with none.
#[test]
fn ids_of_no_token_matter_only_where_one_is_needed() {
    const MINUS_ONE: u32 = u32::MAX;
    let spm = || {
        let file = GgufFile::new("llama").string("tokenizer.ggml.model", "llama");
        let file = file.strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "▁", "a", "▁a"]);
        let file = file.i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1]);
        file.f32s("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -3.0, -2.0, -1.0])
    };
    let bpe = || as_gguf(&byte_level(), "llama-bpe");
    for file in [spm(), bpe()] {
        let plain = open(&file).unwrap();
        for (name, id) in [("padding", 6000), ("padding", MINUS_ONE), ("unknown", 6000), ("unknown", MINUS_ONE)] {
            let odd = open(&file.clone().u32(&format!("tokenizer.ggml.{name}_token_id"), id)).unwrap();
            for text in ["a a", "éa<s>", ""] {
                assert_eq!(odd.encode(text, true).unwrap(), plain.encode(text, true).unwrap(), "{name} {id}: {text}");
            }
            assert_eq!((odd.bos(), odd.eos()), (plain.bos(), plain.eos()));
        }
        let signed = file.raw("tokenizer.ggml.padding_token_id", I32, (-1i32).to_le_bytes().to_vec());
        assert_eq!(open(&signed).unwrap().encode("a", true).unwrap(), plain.encode("a", true).unwrap());
    }
    assert_eq!(
        open(&spm().u32("tokenizer.ggml.unknown_token_id", 6000)).unwrap().encode("b", true).unwrap(),
        [1, 3, 0]
    );
    for name in ["bos", "eos"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let error = open(&spm().u32(&key, 6)).unwrap_err().to_string();
        assert!(error.ends_with(&format!("metadata key \"{key}\": 6 is not one of 6 tokens")), "{error}");
        let none = open(&spm().u32(&key, MINUS_ONE)).unwrap();
        assert_eq!((none.bos(), none.eos()), (Some(1), Some(2)));
    }
    let without = Gguf::open(&GgufFile::tiny().u32("tokenizer.ggml.eos_token_id", MINUS_ONE).write().path).unwrap();
    assert!(without.config().unwrap().eos_token_ids.is_empty());
}

#[test]
fn folders_without_a_tokenizer_are_refused_by_file() {
    let [good, mut overlong, mut unknown, mut unlisted, mut second] = std::array::from_fn(|_| byte_level());
    overlong["model"]["merges"] = json!([["Ġllama", "Ġllama"]]);
    unknown["model"]["merges"] = json!(["a q"]);
    unlisted["post_processor"]["special_tokens"] = json!({});
    let processor = second["post_processor"].take();
    second["post_processor"] = json!({"type": "Sequence", "processors": [processor]});
    second["post_processor"]["processors"][0]["single"][1]["Sequence"]["id"] = "B".into();
    let no_decoder = good.to_string().replacen("\"decoder\":{", "\"decoder\":{,", 1);
    for (files, expected) in [
        (vec![], "has neither tokenizer.json nor tokenizer.model"),
        (vec![("tokenizer.json", "{")], "tokenizer.json: line 1, column 1: EOF while parsing"),
        (
            vec![("tokenizer.json", &*overlong.to_string())],
            "tokenizer.json: merge 0, \"Ġllama\" and \"Ġllama\", makes no token",
        ),
        (vec![("tokenizer.json", &*unknown.to_string())], "Token `aq` out of vocabulary"),
        // The `tokenizers` crate panics on these three.
        (vec![("tokenizer.json", &*no_decoder)], ": key must be a string"),
        (
            vec![("tokenizer.json", &*unlisted.to_string())],
            "tokenizer.json: post_processor: {\"SpecialToken\":{\"id\":\"<|begin|>\",\"type_id\":0}} is neither the text nor",
        ),
        (
            vec![("tokenizer.json", &*second.to_string())],
            "tokenizer.json: post_processor: {\"Sequence\":{\"id\":\"B\",\"type_id\":0}} is neither the text nor",
        ),
        (
            vec![("tokenizer.json", &*good.to_string()), ("tokenizer_config.json", "[]")],
            "tokenizer_config.json: line 1, column 0: invalid type: sequence, expected a map",
        ),
    ] {
        let error = Folder::new(&files).tokenizer().unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    for (file, hint) in [
        ("LICENSE", "get the model's tokenizer files too"),
        ("tekken.json", "tekken.json is Mistral's own format"),
        ("vocab.json", "vocab.json and merges.txt alone are not read"),
    ] {
        let error = Folder::new(&[(file, "")]).tokenizer().unwrap_err();
        assert!(error.hint().unwrap().starts_with(hint), "{error:?}");
    }
}
