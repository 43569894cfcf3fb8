//! Relatives of Llama as GGUF files, made from the fixtures' folders as llama.cpp's converter makes them.

use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::io::WeightSource;
use vicugna::io::gguf::Gguf;
use vicugna::io::model::ModelFiles;
use vicugna::models::llama::{LlamaConfig, ModelType};
use vicugna::ops::rope::RopeScaling;

use crate::files::{fixture, load};
use crate::gguf_file::GgufFile;

fn folder(case: &str) -> ModelFiles {
    ModelFiles::open(&fixture(case)).unwrap()
}

/// The sizes of `config` in the metadata of `architecture`.
fn with_sizes(architecture: &str, config: &LlamaConfig) -> GgufFile {
    let sizes = [
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("block_count", config.num_hidden_layers),
        ("context_length", config.max_position_embeddings),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
    ];
    let file = GgufFile::new(architecture).f32(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-5);
    sizes.iter().fold(file, |file, (key, size)| file.u32(&format!("{architecture}.{key}"), *size as u32))
}

/// llama.cpp's name of a tensor.
fn gguf_name(name: &str) -> String {
    let parts = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    parts.iter().fold(name.to_string(), |name, (hf, gguf)| name.replace(hf, gguf))
}

/// The weights of a case in f32. Of a llama the rows of q and k, which are as many numbers of a bias, come with the two
/// halves of each head interleaved.
fn as_gguf(case: &str, architecture: &str) -> GgufFile {
    let files = folder(case);
    let (config, d) = (files.config(), files.config().head_dim);
    let mut file = with_sizes(architecture, config);
    for (name, shape) in config.parameters() {
        let values = load(&files.weights(), &name).to_vec::<f32>().unwrap();
        let width = if shape.dims().len() == 1 { 1 } else { shape.last() };
        let rows: Vec<&[f32]> = values.chunks(width).collect();
        let permuted = architecture == "llama" && (name.contains("q_proj") || name.contains("k_proj"));
        let stored = |row: usize| match permuted {
            true => row / d * d + row % 2 * (d / 2) + row % d / 2,
            false => row,
        };
        let bytes: Vec<u8> = (0..rows.len()).flat_map(|row| rows[stored(row)]).flat_map(|v| v.to_le_bytes()).collect();
        let sizes: Vec<u64> = shape.dims().iter().rev().map(|&size| size as u64).collect();
        file = file.tensor(&gguf_name(&name), &sizes, 0, &bytes);
    }
    file
}

#[track_caller]
fn assert_same(case: &str, file: &GgufFile) {
    let (folder, written) = (folder(case), file.write());
    let gguf = ModelFiles::open(&written.path).unwrap();
    let (expected, found) = (folder.config(), gguf.config());
    assert_eq!((found.model_type, found.context()), (expected.model_type, expected.context()), "{case}");
    assert_eq!(found.parameters(), expected.parameters(), "{case}");
    for (name, _) in expected.parameters() {
        let [found, expected] = [&gguf, &folder].map(|files| load(&files.weights(), &name).to_vec::<f32>().unwrap());
        assert!(found == expected, "{case}: {name} differs");
    }
    gguf.load(DType::F32, &Device::Cpu).unwrap();
}

#[test]
fn biases_are_read_and_those_of_a_llamas_heads_put_in_order() {
    assert_same("bias", &as_gguf("bias", "llama"));
    assert_same("qwen2", &as_gguf("qwen2", "qwen2"));
    // Qwen 2's biases under the name of Llama, whose converter permutes.
    assert_same("qwen2", &as_gguf("qwen2", "llama"));
}

#[test]
fn a_window_limits_the_context() {
    assert_same("mistral", &as_gguf("mistral", "llama").u32("llama.attention.sliding_window", 24));
    let file = as_gguf("mistral", "llama").u32("llama.attention.sliding_window", 24).write();
    let notes = ModelFiles::open(&file.path).unwrap().notes().unwrap();
    assert!(notes[0].starts_with("the context is 24 tokens, the attention's sliding_window"), "{notes:?}");
    let file = as_gguf("mistral", "llama").u32("llama.attention.sliding_window", 0).write();
    assert_eq!(Gguf::open(&file.path).unwrap().config().unwrap().model_type, ModelType::default());
    let file = as_gguf("qwen2", "qwen2").u32("qwen2.attention.sliding_window", 24).write();
    let error = Gguf::open(&file.path).unwrap().config().unwrap_err().to_string();
    assert!(error.ends_with("\"qwen2.attention.sliding_window\": is not supported together with biases"), "{error}");
}

#[test]
fn scaling_is_read_as_llama_cpp_reads_it() {
    let scaled = |kind: &str| {
        let file = as_gguf("linear", "llama").string("llama.rope.scaling.type", kind);
        file.f32("llama.rope.scaling.factor", 4.0)
    };
    let config = |file: GgufFile| Gguf::open(file.write().path).unwrap().config().unwrap();
    let linear = config(scaled("linear"));
    assert_eq!((linear.rope_scaling, linear.context()), (Some(RopeScaling::Linear { factor: 4.0 }), 128));
    let inferred = 0.1 * 4f64.ln() + 1.0;
    let yarn = |attention_factor, original_max_position_embeddings| RopeScaling::Yarn {
        factor: 4.0,
        attention_factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        original_max_position_embeddings,
    };
    let found = config(scaled("yarn").bool("llama.rope.scaling.finetuned", true));
    assert_eq!((found.rope_scaling, found.context()), (Some(yarn(inferred, 32)), 128));
    let found = scaled("yarn").u32("llama.rope.scaling.original_context_length", 8);
    let found = config(found.f32("llama.rope.scaling.attn_factor", 0.5));
    assert_eq!((found.rope_scaling, found.context()), (Some(yarn(0.5 * inferred, 8)), 32));
    let file = scaled("yarn").f32("llama.rope.scaling.yarn_log_multiplier", 0.1).write();
    let error = Gguf::open(&file.path).unwrap().config().unwrap_err().to_string();
    assert!(error.contains("llama.rope.scaling.yarn_log_multiplier"), "{error}");
}

#[test]
fn biases_that_no_model_has_are_refused() {
    let bias = |part: &str, rows: u64| {
        GgufFile::tiny().tensor(&format!("blk.0.{part}.bias"), &[rows], 0, &vec![0; 4 * rows as usize])
    };
    for (file, expected) in [
        (bias("attn_output", 32), "no model that is read has the biases that this one has"),
        (bias("attn_norm", 32), "tensor blk.0.attn_norm.bias: is not part of a Llama that is supported"),
    ] {
        let error = Gguf::open(file.write().path).unwrap().config().unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
    // Queries' alone: the keys' are missed when the model is loaded.
    let file = bias("attn_q", 32).write();
    let error = ModelFiles::open(&file.path).unwrap().load(DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.ends_with("tensor model.layers.0.self_attn.k_proj.bias: is missing"), "{error}");
    let quantised = GgufFile::tiny().tensor("blk.0.attn_q.bias", &[32], 8, &[7; 34]).write();
    let error = Gguf::open(&quantised.path).unwrap();
    let error = error.load("model.layers.0.self_attn.q_proj.bias", [32].into(), DType::F32, &Device::Cpu).unwrap_err();
    assert!(error.to_string().ends_with("is a vector, which must not be quantised"), "{error}");
}
