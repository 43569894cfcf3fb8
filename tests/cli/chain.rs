//! Models that say what they are told: after each token a certain other one.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

/// H.
pub const HIDDEN: usize = 16;
/// The rows of the embedding: 256 bytes and a few tokens.
pub const VOCABULARY: usize = 264;

/// The id of a byte without a form of its own, which the tokenizers here number as `alphabet` does.
pub fn id(letter: char) -> u32 {
    alphabet().iter().position(|&c| c == letter).unwrap() as u32
}

/// The characters that stand for bytes in byte-level BPE, sorted.
fn alphabet() -> Vec<char> {
    let plain = |c: &char| matches!(c, '!'..='~' | '¡'..='¬' | '®'..='ÿ');
    let mut letters: Vec<char> = ('\0'..='ÿ').filter(plain).collect();
    letters.extend(('Ā'..).take(256 - letters.len()));
    letters.sort_unstable();
    letters
}

/// A tokenizer.json of bytes, with special tokens from 256 on.
pub fn tokenizer(specials: &[&str]) -> Value {
    let vocab: serde_json::Map<String, Value> =
        alphabet().iter().enumerate().map(|(id, c)| (c.to_string(), id.into())).collect();
    let special = |(id, content): (usize, &&str)| {
        json!({"id": 256 + id, "content": content, "special": true, "normalized": false, "single_word": false,
               "lstrip": false, "rstrip": false})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": bytes,
           "added_tokens": specials.iter().enumerate().map(special).collect::<Value>(), "post_processor": null,
           "decoder": bytes, "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": vocab, "merges": []}})
}

/// Writes a model folder to `folder`: its config.json has `config` over what a tiny Llama's has, other files are as given.
pub fn write(folder: &Path, next: &[(u32, u32)], config: &Value, files: &[(&str, &Value)]) {
    std::fs::create_dir_all(folder).unwrap();
    let mut fields = json!({"model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": HIDDEN,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": VOCABULARY,
        "max_position_embeddings": 256, "tie_word_embeddings": false});
    fields.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    for (name, content) in [("config.json", &fields)].iter().chain(files) {
        std::fs::write(folder.join(name), content.to_string()).unwrap();
    }
    weights(&folder.join("model.safetensors"), next);
}

/// The row of a token in the embedding points where only the row of the next one in the head does. Blocks add next to
/// nothing, so that an adapter of them has a gradient and no say.
fn weights(path: &Path, next: &[(u32, u32)]) {
    assert!(next.len() <= HIDDEN);
    let row = |id: u32, i: usize| id as usize * HIDDEN + i;
    let (mut embedding, mut head) = (vec![0f32; VOCABULARY * HIDDEN], vec![0f32; VOCABULARY * HIDDEN]);
    for (i, &(token, follower)) in next.iter().enumerate() {
        embedding[row(token, i)] = 1.0;
        head[row(follower, i)] = 1.0;
    }
    let mut tensors = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), (vec![VOCABULARY, HIDDEN], embedding)),
        ("lm_head.weight".to_owned(), (vec![VOCABULARY, HIDDEN], head)),
        ("model.norm.weight".to_owned(), (vec![HIDDEN], vec![1.0; HIDDEN])),
    ]);
    for name in ["input_layernorm", "post_attention_layernorm"] {
        tensors.insert(format!("model.layers.0.{name}.weight"), (vec![HIDDEN], vec![1.0; HIDDEN]));
    }
    for name in ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"] {
        let small = (vec![HIDDEN, HIDDEN], vec![1e-3; HIDDEN * HIDDEN]);
        tensors.insert(format!("model.layers.0.{name}_proj.weight"), small);
    }
    let bytes: BTreeMap<_, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| (name, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let view = |name: &String| TensorView::new(Dtype::F32, tensors[name].0.clone(), &bytes[name]).unwrap();
    serialize_to_file(tensors.keys().map(|name| (name.clone(), view(name))), None, path).unwrap();
}
