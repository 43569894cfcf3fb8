use half::bf16;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use safetensors::SafeTensors;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::error::Error;
use vicugna::io::WeightSource;
use vicugna::io::gguf::Gguf;
use vicugna::ops::rope::RopeScaling;

use super::files::{fixture, load};
use super::gguf_file::*;

pub fn values(gguf: &Gguf, name: &str) -> Vec<f32> {
    load(gguf, name).to_vec().unwrap()
}

#[test]
fn weights_are_the_references_bit_for_bit() {
    let gguf = Gguf::open(fixture("gguf_llama_spm/tiny.gguf")).unwrap();
    let expected = std::fs::read(fixture("gguf_llama_spm/expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let mut names: Vec<_> = expected.names().into_iter().filter(|name| !name.starts_with("logits")).collect();
    names.sort();
    assert_eq!(gguf.names(), names);
    for name in names {
        let view = expected.tensor(name).unwrap();
        let shape = gguf.shape(name).unwrap();
        assert_eq!(shape.dims(), view.shape(), "{name}");
        let found = values(&gguf, name);
        assert!(bytemuck::cast_slice::<f32, u8>(&found) == view.data(), "{name} differs");
        let rounded = gguf.load(name, shape, DType::Bf16, &Device::Cpu).unwrap();
        let expected: Vec<bf16> = found.iter().map(|&value| bf16::from_f32(value)).collect();
        assert!(rounded.slice::<bf16>().unwrap() == expected, "{name} differs in bf16");
    }
}

#[test]
fn the_config_is_that_of_the_fixture() {
    let config = Gguf::open(fixture("gguf_llama_spm/tiny.gguf")).unwrap().config().unwrap();
    let sizes = [config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.head_dim];
    assert_eq!(sizes, [32, 256, 2, 8]);
    let sizes =
        [config.num_attention_heads, config.num_key_value_heads, config.vocab_size, config.max_position_embeddings];
    assert_eq!(sizes, [4, 2, 400, 128]);
    assert_eq!((config.rms_norm_eps as f32, config.rope_theta, config.rope_scaling), (1e-5, 10000.0, None));
    assert_eq!((config.bos_token_id, config.eos_token_ids, config.tie_word_embeddings), (Some(1), vec![2], false));
}

proptest! {
    /// Row `half * D/2 + i` of a head is stored as its row `2 i + half`.
    #[test]
    fn query_rows_are_put_back(heads in 1..4usize, half in 1..9usize) {
        let (rows, head_dim) = (heads * 2 * half, 2 * half);
        let stored: Vec<u8> = (0..rows).flat_map(|row| (row as f32).to_le_bytes()).collect();
        let file = GgufFile::new("llama").u32("llama.attention.head_count", heads as u32);
        let file = file.tensor("blk.0.attn_q.weight", &[1, rows as u64], 0, &stored).write();
        let found = values(&Gguf::open(&file.path).unwrap(), "model.layers.0.self_attn.q_proj.weight");
        for (row, found) in found.into_iter().enumerate() {
            let (head, within) = (row / head_dim, row % head_dim);
            prop_assert_eq!(found, (head * head_dim + within % half * 2 + within / half) as f32);
        }
    }

    #[test]
    fn damaged_files_are_refused_or_read(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        kept in prop_oneof![Just(None), any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let mut bytes = with_tokenizer(GgufFile::tiny()).bytes();
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        bytes.truncate(kept.map_or(bytes.len(), |kept| kept.index(bytes.len())));
        read_everything(&bytes)?;
    }

    /// Sizes and counts that are far too large, wherever 8 bytes could be one.
    #[test]
    fn absurd_sizes_are_refused_or_read(at in any::<prop::sample::Index>(), shift in 0..64u32) {
        let mut bytes = with_tokenizer(GgufFile::tiny()).bytes();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&(u64::MAX >> shift).to_le_bytes());
        read_everything(&bytes)?;
    }
}

fn with_tokenizer(file: GgufFile) -> GgufFile {
    file.string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"])
        .f32s("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -1.0, -2.0])
        .i32s("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 1, 1])
        .string("tokenizer.chat_template", "{{ messages[0].content }}")
}

/// Whatever is wrong is an error that names the file; nothing panics.
fn read_everything(bytes: &[u8]) -> TestCaseResult {
    let file = write(bytes);
    let refusal = |error: Error| {
        prop_assert!(error.to_string().starts_with(&file.path.display().to_string()), "{}", error);
        Ok(())
    };
    let gguf = match Gguf::open(&file.path) {
        Ok(gguf) => gguf,
        Err(error) => return refusal(error),
    };
    gguf.config().map(drop).or_else(refusal)?;
    for name in gguf.names() {
        let shape = gguf.shape(&name).unwrap();
        gguf.load(&name, shape, DType::Bf16, &Device::Cpu).map(drop).or_else(refusal)?;
    }
    match gguf.tokenizer() {
        Ok(tokenizer) => tokenizer.encode("ab <s>a é", true).map(drop).or_else(refusal),
        Err(error) => refusal(error),
    }
}

fn refused(file: &GgufFile) -> String {
    let file = file.write();
    let error = Gguf::open(&file.path).and_then(|gguf| gguf.config()).unwrap_err();
    error.to_string().replace(&file.path.display().to_string(), "FILE")
}

#[test]
fn a_whole_file_is_read() {
    let file = GgufFile::tiny().write();
    let config = Gguf::open(&file.path).unwrap().config().unwrap();
    assert_eq!((config.head_dim, config.vocab_size, config.tie_word_embeddings), (16, 8, true));
    let mut old = GgufFile::tiny();
    old.version = 2;
    assert!(Gguf::open(old.write().path).unwrap().config().is_ok());
}

#[test]
fn refusals_of_the_header_name_key_or_tensor_and_byte() {
    let tiny = GgufFile::tiny;
    let [mut v1, mut v4, mut big_endian] = [tiny(), tiny(), tiny()];
    (v1.version, v4.version, big_endian.version) = (1, 4, 3u32.swap_bytes());
    let [mut entries, mut tensors] = [tiny(), tiny()];
    (entries.excess[0], tensors.excess[1]) = (u64::MAX - 100, u64::MAX - 100);
    let array_of_arrays = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    let endless_string = u64::MAX.to_le_bytes().to_vec();
    let endless_array = |kind: u32| [&kind.to_le_bytes()[..], &(u64::MAX / 2).to_le_bytes()].concat();
    for (file, expected) in [
        (v1, "FILE: header, at byte 4: GGUF version 1 is not supported"),
        (v4, "FILE: header, at byte 4: GGUF version 4 is not supported, only 2 and 3"),
        (big_endian, "FILE: header, at byte 4: big-endian files are not supported"),
        (entries, "FILE: metadata entry 9 of 18446744073709551523, at byte 397: needs 2251799813685248 bytes"),
        (tensors, "FILE: tensor "),
        (tiny().raw("k", 13, vec![]), "FILE: metadata key \"k\", at byte 367: value type 13 is not known"),
        (tiny().raw("k", ARRAY, array_of_arrays), "an array of arrays is not supported"),
        (tiny().raw("k", STRING, endless_string), "metadata key \"k\", at byte 379: needs 18446744073709551615 bytes"),
        (tiny().raw("k", ARRAY, endless_array(U8)), "metadata key \"k\", at byte 383: needs 9223372036854775807 bytes"),
        (tiny().raw("k", ARRAY, endless_array(U64)), "9223372036854775807 values are too many"),
        (tiny().u32("llama.block_count", 1), "metadata key \"llama.block_count\", at byte 358: occurs twice"),
        (tiny().u32("general.alignment", 48), "metadata key \"general.alignment\": must be a power of two, got 48"),
        (tiny().string("general.alignment", "x"), "metadata key \"general.alignment\": must be a 32-bit number"),
        (tiny().u32("general.alignment", 1024), "is not a multiple of the alignment 1024"),
        (
            tiny().tensor("token_embd.weight", &[1], 0, &[0; 4]),
            "tensor \"token_embd.weight\", at byte 994: occurs twice",
        ),
        (tiny().tensor("t", &[], 0, &[]), "tensor \"t\", at byte 1003: 0 dimensions, must be 1 to 4"),
        (tiny().tensor("t", &[1; 5], 0, &[]), "5 dimensions, must be 1 to 4"),
        (tiny().tensor("t", &[u64::MAX; 4], 0, &[]), "are too large"),
        (tiny().tensor("t", &[0, u64::MAX, u64::MAX], 0, &[]), "are too large"),
        (tiny().tensor("t", &[33], 2, &[0; 36]), "rows of 33 values are not whole Q4_0 blocks of 32"),
        (tiny().tensor("t", &[32, 1 << 20], 2, &[0; 36]), "its data, [1048576, 32] in Q4_0 at offset"),
    ] {
        let found = refused(&file);
        assert!(found.contains(expected), "{found:?} should contain {expected:?}");
    }
    for (bytes, expected) in
        [(&b"GGML"[..], "is not a GGUF file"), (b"", "is not a GGUF file"), (b"GGUF", "needs 4 bytes")]
    {
        let error = Gguf::open(&write(bytes).path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(matches!(Gguf::open("no/such.gguf"), Err(Error::File { .. })));
}

#[test]
fn models_that_are_not_supported_are_refused_by_name() {
    let tiny = GgufFile::tiny;
    for (file, expected) in [
        (GgufFile::new("gemma3"), "metadata key \"general.architecture\": must be llama or qwen2, is gemma3"),
        (GgufFile::new("llama"), "metadata key \"llama.embedding_length\": is missing"),
        (tiny().u32("llama.expert_count", 8), "metadata key \"llama.expert_count\": is not supported"),
        (tiny().bool("llama.attention.causal", false), "metadata key \"llama.attention.causal\": must be true"),
        (tiny().u32("llama.vocab_size", 9), "is 9, but token_embd.weight has 8 rows"),
        (tiny().u32("llama.rope.dimension_count", 8), "must be that of a head, 16, is 8"),
        (
            tiny().string("llama.rope.scaling.type", "longrope"),
            "metadata key \"llama.rope.scaling.type\": longrope is not supported",
        ),
        (tiny().string("llama.rope.freq_base", "10"), "metadata key \"llama.rope.freq_base\": must be a number"),
        (tiny().f32("llama.rope.freq_base", -1.0), "rope_theta must be positive, got -1"),
        (tiny().raw("tokenizer.ggml.bos_token_id", U64, vec![0xff; 8]), "bos_token_id\": must be a whole number"),
        (
            tiny().tensor("blk.0.attn_norm.bias", &[32], 0, &[0; 128]),
            "tensor blk.0.attn_norm.bias: is not part of a Llama",
        ),
        (tiny().tensor("output.weight", &[256, 1], 18, &[0; 98]), "tensor output.weight: is stored as IQ3_XXS"),
        (tiny().tensor("output.weight", &[1], 99, &[0; 4]), "tensor output.weight: is stored as type 99"),
    ] {
        let found = refused(&file);
        assert!(found.contains(expected), "{found:?} should contain {expected:?}");
    }
}

#[test]
fn loading_refuses_what_the_config_does_not_ask_for() {
    let file = GgufFile::tiny().write();
    let gguf = Gguf::open(&file.path).unwrap();
    let message = |name, shape: [usize; 2]| {
        let error = gguf.load(name, shape.into(), DType::F32, &Device::Cpu).unwrap_err().to_string();
        error.replace(&file.path.display().to_string(), "FILE")
    };
    let expected = "FILE: tensor model.embed_tokens.weight: must be [9, 32], is [8, 32]";
    assert_eq!(message("model.embed_tokens.weight", [9, 32]), expected);
    assert_eq!(message("lm_head.weight", [8, 32]), "FILE: tensor lm_head.weight: is missing");
    assert_eq!(message("token_embd.weight", [8, 32]), "FILE: tensor token_embd.weight: is missing");
    let error = gguf.load("model.embed_tokens.weight", [8, 32].into(), DType::I32, &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::DType { .. }));
}

/// As llama.cpp's converter computes them.
fn rope_factors(factor: f32, original: f32) -> Vec<u8> {
    let frequencies = (0..8).map(|i| 1.0 / 500_000f32.powf(2.0 * i as f32 / 16.0));
    let factors = frequencies.map(|frequency| {
        let wavelength = std::f32::consts::TAU / frequency;
        match wavelength {
            w if w < original / 4.0 => 1.0,
            w if w > original => factor,
            w => {
                let smooth = (original / w - 1.0) / (4.0 - 1.0);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        }
    });
    factors.flat_map(f32::to_le_bytes).collect()
}

#[test]
fn llama3_scaling_is_recovered_from_its_factors() {
    let with = |factors: &[u8]| {
        let file = GgufFile::tiny().f32("llama.rope.freq_base", 500_000.0);
        file.tensor("rope_freqs.weight", &[factors.len() as u64 / 4], 0, factors)
    };
    for factor in [8.0, 32.0] {
        let config = Gguf::open(with(&rope_factors(factor, 8192.0)).write().path).unwrap().config().unwrap();
        let expected = RopeScaling::Llama3 {
            factor: factor.into(),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        assert_eq!(config.rope_scaling, Some(expected));
    }
    let none = 1f32.to_le_bytes().repeat(8);
    assert_eq!(Gguf::open(with(&none).write().path).unwrap().config().unwrap().rope_scaling, None);
    let nan = f32::NAN.to_le_bytes().repeat(8);
    for (file, expected) in [
        (with(&rope_factors(8.0, 4096.0)), "tensor rope_freqs.weight: divides frequency"),
        (with(&nan), "tensor rope_freqs.weight: divides frequency"),
        (with(&none[4..]), "tensor rope_freqs.weight: must be [8]"),
        (with(&none).f32("llama.rope.scaling.factor", 2.0), "is not supported together with another scaling"),
    ] {
        let found = refused(&file);
        assert!(found.contains(expected), "{found:?} should contain {expected:?}");
    }
    let linear = GgufFile::tiny().f32("llama.rope.scaling.factor", 4.0).write();
    let config = Gguf::open(&linear.path).unwrap().config().unwrap();
    assert_eq!(config.rope_scaling, Some(RopeScaling::Linear { factor: 4.0 }));
}
