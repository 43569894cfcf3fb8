use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use vicugna::dtype::DType;
use vicugna::io::config::{notes, read_config, write_config};
use vicugna::models::llama::{LlamaConfig, ModelType};
use vicugna::ops::rope::RopeScaling;

use crate::files::{assert_refused, fixture};

fn folder(config: &Value) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn read(config: &Value) -> LlamaConfig {
    read_config(folder(config).path()).unwrap()
}

/// A small Llama with some keys changed; a null removes one.
fn tiny(changes: Value) -> Value {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 101, "max_position_embeddings": 128,
    });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

#[track_caller]
fn refused(changes: Value, message: &str) {
    refused_with(changes, message, None);
}

#[track_caller]
fn refused_with(changes: Value, message: &str, hint: Option<&str>) {
    let folder = folder(&tiny(changes));
    assert_refused(read_config(folder.path()), folder.path(), &format!("config.json: {message}"), hint);
}

#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let llama_2_7b = LlamaConfig {
        model_type: ModelType::default(),
        hidden_size: 4096,
        intermediate_size: 11008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        vocab_size: 32000,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 10000.0,
        rope_scaling: None,
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_ids: vec![],
    };
    assert_eq!(read(&json!({"model_type": "llama"})), llama_2_7b);
    assert_eq!(read(&json!({"architectures": ["LlamaForCausalLM"]})), llama_2_7b);
}

#[test]
fn smollm2_is_read() {
    // As published, with the keys that only its authors' own tools know.
    let config = read(&json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null,
        "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers.js_config": {
        "kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}, "use_cache": true, "vocab_size": 49152
    }));
    assert_eq!((config.head_dim, config.num_key_value_heads, config.rope_theta), (64, 3, 100_000.0));
    assert!(config.tie_word_embeddings);
}

#[test]
fn llama_3_2_is_read() {
    let config = read(&json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256
    }));
    assert_eq!(config.eos_token_ids, [128001, 128008, 128009]);
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_eq!((config.rope_theta, config.rope_scaling), (500_000.0, Some(scaling)));
}

#[test]
fn keys_of_transformers_4_and_5_mean_the_same() {
    let folder = TempDir::new().unwrap();
    std::fs::copy(fixture("llama3_rope/config.transformers5.json"), folder.path().join("config.json")).unwrap();
    let config = read_config(folder.path()).unwrap();
    assert_eq!(config, read_config(&fixture("llama3_rope")).unwrap());
    assert!(matches!(config.rope_scaling, Some(RopeScaling::Llama3 { .. })));
}

#[test]
fn head_dim_is_given_null_or_implied() {
    assert_eq!(read(&tiny(json!({}))).head_dim, 8);
    assert_eq!(read(&tiny(json!({"head_dim": null}))).head_dim, 8);
    assert_eq!(read(&tiny(json!({"head_dim": 10}))).head_dim, 10);
    // Given, it need not be hidden_size / num_attention_heads, nor need that be whole.
    assert_eq!(read(&tiny(json!({"num_attention_heads": 6, "head_dim": 16}))).head_dim, 16);
    assert_eq!(read_config(&fixture("gqa_head_dim")).unwrap().head_dim, 16);
}

#[test]
fn rope_is_found_where_transformers_finds_it() {
    let theta = |changes| read(&tiny(changes)).rope_theta;
    assert_eq!(theta(json!({"rope_theta": 5e5})), 5e5);
    assert_eq!(theta(json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})), 5e5);
    assert_eq!(theta(json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}})), 5e5);
    assert_eq!(theta(json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}})), 5e5);
    let scaling = |changes| read(&tiny(changes)).rope_scaling;
    assert_eq!(
        scaling(json!({"rope_scaling": {"type": "linear", "factor": 2}})),
        Some(RopeScaling::Linear { factor: 2.0 })
    );
    assert_eq!(scaling(json!({"rope_scaling": {}, "rope_parameters": {"rope_type": "default"}})), None);
    let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
    let Some(RopeScaling::Llama3 { original_max_position_embeddings, .. }) = scaling(json!({"rope_scaling": llama3}))
    else {
        panic!("no llama3 scaling")
    };
    assert_eq!(original_max_position_embeddings, 128);
}

#[test]
fn token_ids_may_be_one_many_or_none() {
    let ids = |changes| {
        let config = read(&tiny(changes));
        (config.bos_token_id, config.eos_token_ids)
    };
    // Transformers' default for the end is 2, which is any token where the tokenizer does not say that it is the end.
    assert_eq!(ids(json!({})), (Some(1), vec![]));
    assert_eq!(ids(json!({"bos_token_id": null, "eos_token_id": null})), (None, vec![]));
    assert_eq!(ids(json!({"eos_token_id": [5, 6]})), (Some(1), vec![5, 6]));
    // As in Llama 3 Instruct, where only generation_config.json lists the end of a turn.
    let folder = folder(&tiny(json!({"eos_token_id": 5})));
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [5, 9]}"#).unwrap();
    assert_eq!(read_config(folder.path()).unwrap().eos_token_ids, [5, 9]);
    // A file that lists fewer does not make the others less.
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": 9}"#).unwrap();
    assert_eq!(read_config(folder.path()).unwrap().eos_token_ids, [9, 5]);
}

#[test]
fn a_generation_config_gets_the_ends_of_the_config() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("generation_config.json");
    let config = LlamaConfig { eos_token_ids: vec![5, 9], ..read(&tiny(json!({}))) };
    write_config(folder.path(), &config, DType::F32, None).unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "\u{feff}{\"temperature\": 0.5, \"eos_token_id\": 7}").unwrap();
    write_config(folder.path(), &config, DType::F32, None).unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(written, json!({"temperature": 0.5, "eos_token_id": [5, 9]}));
    assert_eq!(read_config(folder.path()).unwrap(), config);
}

#[test]
fn what_changes_the_math_is_refused() {
    refused(json!({"hidden_act": "gelu"}), r#"hidden_act is "gelu", which is not supported"#);
    refused(json!({"attention_dropout": 0.1}), "attention_dropout is 0.1, which is not supported");
    refused(json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5, which is not supported");
    let supported = "llama, mistral, qwen2, iquestcoder and internlm3";
    for other in ["gemma2", "mixtral", "phi3", "qwen3"] {
        let message = format!(r#"model_type is "{other}", which does not compute as Llama does"#);
        let hint = format!("the model types that are read are {supported}");
        refused_with(json!({"model_type": other}), &message, Some(&hint));
    }
    refused(json!({"model_type": null}), &format!("model_type must be one of {supported}, and is missing"));
    for other in ["longrope", "proportional", "su"] {
        let message = format!(r#"rope_scaling.rope_type is "{other}", which is not supported"#);
        let hint = "of the changes of rotary frequencies linear, dynamic, yarn and llama3 are";
        refused_with(json!({"rope_scaling": {"rope_type": other, "factor": 2.0}}), &message, Some(hint));
    }
    let yarn = json!({"type": "yarn", "factor": 2.0, "attn_factor": 0.5});
    refused(json!({"rope_parameters": yarn}), "rope_parameters.attn_factor is 0.5, which is not supported");
    let message = "rope_parameters.partial_rotary_factor is 0.25, which is not supported";
    refused(json!({"rope_parameters": {"partial_rotary_factor": 0.25}}), message);
}

#[test]
fn what_changes_nothing_is_not_refused() {
    let plain = read(&tiny(json!({})));
    for (key, value) in [
        ("pretraining_tp", json!(4)),
        ("attention_bias", json!(false)),
        ("sliding_window", json!(null)),
        ("sliding_window", json!(4)),
        ("sliding_window", json!(4096)),
        ("quantization_config", json!(null)),
        ("quantization_config", json!({})),
        ("quantization_config", json!({"load_in_4bit": false, "load_in_8bit": false, "bnb_4bit_quant_type": "fp4"})),
        ("quantization_config", json!({"quant_method": "bitsandbytes", "llm_int8_threshold": 6.0})),
        ("hidden_act", json!("swish")),
        ("partial_rotary_factor", json!(1.0)),
        ("attention_dropout", json!(0)),
        ("initializer_range", json!(0.1)),
        ("somebody_elses_key", json!({"a": [1, "b"]})),
    ] {
        assert_eq!(read(&tiny(json!({key: value}))), plain, "{key}");
    }
}

#[test]
fn biases_are_those_of_the_model_type() {
    let biases = |changes| {
        let parameters = read(&tiny(changes)).parameters().into_iter();
        let biases = parameters.filter_map(|(name, _)| {
            Some(name.strip_prefix("model.layers.1.")?.strip_suffix("_proj.bias")?.to_string())
        });
        biases.collect::<Vec<_>>()
    };
    let attention = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"];
    assert_eq!(biases(json!({})), [""; 0]);
    assert_eq!(biases(json!({"attention_bias": true})), attention);
    assert_eq!(biases(json!({"mlp_bias": true})), ["mlp.gate", "mlp.up", "mlp.down"]);
    assert_eq!(biases(json!({"model_type": "qwen2"})), attention[..3]);
    assert_eq!(biases(json!({"model_type": "mistral", "attention_bias": true})), [""; 0]);
    assert_eq!(biases(json!({"model_type": "iquestcoder", "attention_bias": true})), attention);
    assert_eq!(biases(json!({"model_type": "internlm3", "qkv_bias": true, "bias": true})).len(), 7);
    // Their defaults are not Llama's.
    refused(
        json!({"model_type": "mistral", "num_key_value_heads": null}),
        "num_key_value_heads must be a whole number, and is missing",
    );
}

#[test]
fn a_window_limits_the_context_of_a_mistral_alone() {
    let context = |changes| read(&tiny(changes)).context();
    let mistral = |window: Value| json!({"model_type": "mistral", "sliding_window": window});
    assert_eq!(context(mistral(json!(null))), 128);
    assert_eq!(context(mistral(json!(128))), 128);
    assert_eq!(context(mistral(json!(100))), 100);
    assert_eq!(context(json!({"model_type": "mistral", "max_position_embeddings": 8192})), 4096);
    refused(mistral(json!(0)), "sliding_window must be at least 1, got 0");
    assert_eq!(context(json!({"sliding_window": 100})), 128);
    let qwen2 = |window, used| json!({"model_type": "qwen2", "sliding_window": window, "use_sliding_window": used});
    assert_eq!(context(qwen2(100, false)), 128);
    assert_eq!(context(qwen2(128, true)), 128);
    let message = "sliding_window is 100, less than the context of 128, which is not supported";
    let hint = "for texts of up to 100 tokens nothing changes without it: set use_sliding_window to false and \
                max_position_embeddings to 100";
    refused_with(qwen2(100, true), message, Some(hint));
}

#[test]
fn what_a_person_might_wonder_about_is_noted() {
    let noted = |changes| {
        let folder = folder(&tiny(changes));
        notes(folder.path(), &read_config(folder.path()).unwrap()).unwrap()
    };
    let mistral = |window: u32| json!({"model_type": "mistral", "sliding_window": window});
    assert_eq!(noted(json!({"sliding_window": null})), [""; 0]);
    assert_eq!(noted(mistral(128)), [""; 0]);
    let passed_over = "sliding_window in config.json is passed over, as in transformers: Llama's attention has none";
    assert_eq!(noted(json!({"sliding_window": 64})), [passed_over]);
    assert!(noted(mistral(64))[0].starts_with("the context is 64 tokens, the attention's sliding_window"));
}

#[test]
fn scaling_says_how_long_a_text_may_be() {
    let context = |scaling: Value| read(&tiny(json!({"rope_scaling": scaling}))).context();
    assert_eq!(context(json!({"type": "linear", "factor": 2.5})), 320);
    assert_eq!(context(json!({"type": "dynamic", "factor": 2})), 256);
    // max_position_embeddings is the one or the other.
    assert_eq!(context(json!({"type": "yarn", "factor": 4, "original_max_position_embeddings": 32})), 128);
    assert_eq!(context(json!({"type": "yarn", "factor": 4, "original_max_position_embeddings": 128})), 512);
    assert_eq!(context(json!({"type": "yarn", "factor": 4})), 512);
    let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
    assert_eq!(context(llama3), 128);
}

#[test]
fn yarn_is_read_as_transformers_reads_it() {
    let yarn = |mut rope: Value| {
        rope["rope_type"] = json!("yarn");
        match read(&tiny(json!({"rope_parameters": rope}))).rope_scaling {
            Some(RopeScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, truncate, .. }) => {
                ([factor, attention_factor, beta_fast, beta_slow], truncate)
            }
            other => panic!("{other:?}"),
        }
    };
    let inferred = 0.1 * 4f64.ln() + 1.0;
    assert_eq!(yarn(json!({"factor": 4})), ([4.0, inferred, 32.0, 1.0], true));
    assert_eq!(yarn(json!({"original_max_position_embeddings": 32})), ([4.0, inferred, 32.0, 1.0], true));
    let all = json!({"factor": 4, "attention_factor": 0.7, "beta_fast": 16, "beta_slow": 2, "truncate": false});
    assert_eq!(yarn(all), ([4.0, 0.7, 16.0, 2.0], false));
    let mscale = json!({"factor": 4, "mscale": 2, "mscale_all_dim": 0.5});
    let expected = (0.2 * 4f64.ln() + 1.0) / (0.05 * 4f64.ln() + 1.0);
    assert!((yarn(mscale).0[1] / expected - 1.0).abs() < 1e-15);
    assert_eq!(yarn(json!({"factor": 4, "mscale": 2, "mscale_all_dim": 0})).0[1], inferred);
}

#[test]
fn quantised_weights_are_refused_by_their_method() {
    let hint = "use the model it was made from, or have transformers dequantize() and save it; if its weights are whole, \
                remove the key";
    for config in [
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
        json!({"load_in_8bit": true, "load_in_4bit": false}),
        json!({"quant_method": "bitsandbytes", "load_in_8bit": false}),
    ] {
        read(&tiny(json!({"quantization_config": config})));
    }
    let kind = json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "int4"});
    let message = "quantization_config.bnb_4bit_quant_type must be nf4 or fp4, got \"int4\"";
    refused_with(json!({"quantization_config": kind}), message, None);
    for (config, method) in [
        (json!({"quant_method": "gptq", "bits": 4}), "gptq"),
        (json!({"quant_method": "awq"}), "awq"),
        (json!({"quant_method": "fp8", "activation_scheme": "dynamic"}), "fp8"),
        (json!({"quant_method": "compressed-tensors"}), "compressed-tensors"),
        (json!({"bits": 3}), "a method that it does not name"),
    ] {
        let message =
            format!("quantization_config says that the weights are quantised by {method}: only bitsandbytes is read");
        refused_with(json!({"quantization_config": config}), &message, Some(hint));
    }
}

#[test]
fn models_with_another_head_are_refused_by_what_they_are() {
    for (name, what) in [
        ("LlamaForSequenceClassification", "a classifier or reward model, which scores texts and"),
        ("LlamaForRewardModel", "a classifier or reward model, which scores texts and"),
        ("MistralForTokenClassification", "a classifier of tokens and"),
        ("LlamaForQuestionAnswering", "a model that marks answers in texts and"),
        ("LlavaForConditionalGeneration", "no causal language model and"),
    ] {
        let message = format!(r#"architectures is ["{name}"]: {what} has no output layer for tokens"#);
        let hint = Some("name a causal language model, such as the one this was made from");
        refused_with(json!({"architectures": [name]}), &message, hint);
    }
    for name in ["LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel", "YiForCausalLM"] {
        assert_eq!(read(&tiny(json!({"architectures": [name]}))), read(&tiny(json!({}))));
    }
}

#[test]
fn contradictions_are_refused() {
    refused(json!({"num_key_value_heads": 3}), "num_attention_heads 4 is not a multiple of num_key_value_heads 3");
    refused(json!({"num_attention_heads": 0}), "num_attention_heads must be from 1 to 268435456, got 0");
    refused(json!({"vocab_size": 0}), "vocab_size must be from 1 to 268435456, got 0");
    refused(json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers must be from 1 to 16384, got 1000000");
    refused(json!({"head_dim": 7}), "head_dim must be even, got 7");
    let message = "hidden_size 32 is not a multiple of num_attention_heads 6, and head_dim is not given";
    refused(json!({"num_attention_heads": 6}), message);
    refused(json!({"rms_norm_eps": -1.0}), "rms_norm_eps must not be negative, got -1");
    refused(json!({"rope_theta": 0}), "rope_theta must be positive, got 0");
    let message = "the factor of the rope scaling must be at least 1, got 0.5";
    refused(json!({"rope_scaling": {"type": "linear", "factor": 0.5}}), message);
    let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4});
    refused(json!({"rope_scaling": llama3}), "high_freq_factor 4 must be above low_freq_factor 4, and both above 0");
}

#[test]
fn wrong_types_are_refused() {
    refused(json!({"hidden_size": "32"}), r#"hidden_size must be a whole number, got "32""#);
    refused(json!({"hidden_size": -32}), "hidden_size must be a whole number, got -32");
    refused(json!({"hidden_size": 32.5}), "hidden_size must be a whole number, got 32.5");
    refused(json!({"rope_scaling": "linear"}), r#"rope_scaling must be an object, got "linear""#);
    refused(json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor must be a number, and is missing");
    refused(json!({"eos_token_id": [1, "x"]}), r#"eos_token_id must be a token id or a list of them, got [1,"x"]"#);
    let folder = TempDir::new().unwrap();
    let message = "config.json: No such file or directory (os error 2)";
    assert_refused(read_config(folder.path()), folder.path(), message, None);
    std::fs::write(folder.path().join("config.json"), r#"{"model_type": "llama","#).unwrap();
    let message = "config.json: line 1, column 23: EOF while parsing a value";
    assert_refused(read_config(folder.path()), folder.path(), message, None);
}

fn rope_scaling() -> impl Strategy<Value = Option<RopeScaling>> {
    let llama3 =
        (1.0..64.0, 0.1..2.0, 2.1..9.0, 1..9000usize).prop_map(|(factor, low, high, original)| RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        });
    let yarn = (1.0..64.0, 0.1..2.0, (2.1..40.0, 0.1..2.0), any::<bool>(), 1..9000usize);
    let yarn = yarn.prop_map(|(factor, attention_factor, (fast, slow), truncate, original)| RopeScaling::Yarn {
        factor,
        attention_factor,
        beta_fast: fast,
        beta_slow: slow,
        truncate,
        original_max_position_embeddings: original,
    });
    let linear = (1.0..8.0).prop_map(|factor| RopeScaling::Linear { factor });
    let dynamic = (1.0..8.0).prop_map(|factor| RopeScaling::Dynamic { factor, original_max_position_embeddings: 0 });
    prop::option::of(prop_oneof![linear, dynamic, yarn, llama3])
}

fn model_type() -> impl Strategy<Value = ModelType> {
    let llama = any::<[bool; 2]>().prop_map(|[attention_bias, mlp_bias]| ModelType::Llama { attention_bias, mlp_bias });
    let mistral = prop::option::of(1..9000usize).prop_map(|sliding_window| ModelType::Mistral { sliding_window });
    prop_oneof![llama, mistral, Just(ModelType::Qwen2)]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        (kv, group, half) in (1..5usize, 1..4usize, 1..9usize),
        (layers, vocab) in (1..9usize, 1..999usize),
        (eps, theta, tied) in (1e-9..1e-3, 1.0..1e7, any::<bool>()),
        (model_type, mut rope_scaling) in (model_type(), rope_scaling()),
        bos in any::<Option<u32>>(),
        eos in prop::collection::vec(any::<u32>(), 0..4),
    ) {
        if let Some(RopeScaling::Dynamic { original_max_position_embeddings, .. }) = &mut rope_scaling {
            *original_max_position_embeddings = vocab;
        }
        let config = LlamaConfig {
            model_type, hidden_size: 7 * half, intermediate_size: 3 * half, num_hidden_layers: layers,
            num_attention_heads: kv * group, num_key_value_heads: kv, head_dim: 2 * half, vocab_size: vocab,
            max_position_embeddings: vocab, rms_norm_eps: eps, rope_theta: theta, rope_scaling,
            tie_word_embeddings: tied, bos_token_id: bos, eos_token_ids: eos,
        };
        let folder = TempDir::new().unwrap();
        write_config(folder.path(), &config, DType::Bf16, None).unwrap();
        prop_assert_eq!(read_config(folder.path()).unwrap(), config);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0..500usize, byte: u8) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, bytes).unwrap();
        prop_assert!(read_config(folder.path()).is_err());
        let mut spoilt = std::fs::read(fixture("llama3_rope/config.json")).unwrap();
        spoilt[at] = byte;
        std::fs::write(&path, spoilt).unwrap();
        let _ = read_config(folder.path());
    }
}
