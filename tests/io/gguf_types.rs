//! Every encoding of ggml that is read, against a formula per element and against gguf's own values.

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::SafeTensors;
use vicugna::io::WeightSource;
use vicugna::io::gguf::Gguf;

use super::files::fixture;
use super::gguf::values;
use super::gguf_file::GgufFile;

/// ggml's number, name, and a block's values and bytes.
const ENCODINGS: [(u32, &str, usize, usize); 15] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (20, "IQ4_NL", 32, 18),
    (23, "IQ4_XS", 256, 136),
    (30, "BF16", 1, 2),
];

const IQ4: [f64; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// Value `i` of a block, in f64, where it is exact, then rounded once.
fn value(encoding: &str, block: &[u8], i: usize) -> f32 {
    let half = |at: usize| f64::from(f16::from_le_bytes([block[at], block[at + 1]]));
    let byte = |at: usize| f64::from(block[at]);
    let exact = match encoding {
        "F32" => return f32::from_le_bytes(block.try_into().unwrap()),
        "F16" => half(0),
        "BF16" => f64::from(bf16::from_le_bytes(block.try_into().unwrap())),
        "Q4_0" => half(0) * (f64::from(nibble(block[2 + i % 16], i / 16)) - 8.0),
        "Q4_1" => half(0) * f64::from(nibble(block[4 + i % 16], i / 16)) + half(2),
        "Q5_0" => half(0) * (f64::from(nibble(block[6 + i % 16], i / 16) + 16 * bit(&block[2..6], i)) - 16.0),
        "Q5_1" => half(0) * f64::from(nibble(block[8 + i % 16], i / 16) + 16 * bit(&block[4..8], i)) + half(2),
        "Q8_0" => half(0) * f64::from(block[2 + i] as i8),
        "IQ4_NL" => half(0) * IQ4[usize::from(nibble(block[2 + i % 16], i / 16))],
        "Q2_K" => {
            let scales = block[i / 16];
            let q = block[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            half(80) * f64::from(scales % 16) * f64::from(q) - half(82) * f64::from(scales / 16)
        }
        "Q3_K" => {
            let run = i / 16;
            let low = nibble(block[96 + run % 8], run / 8);
            let high = block[104 + run % 4] >> (run / 4 * 2) & 3;
            let q = f64::from(block[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3);
            let q = if block[i % 32] >> (i / 32) & 1 == 1 { q } else { q - 4.0 };
            half(108) * (f64::from(low + 16 * high) - 32.0) * q
        }
        "Q4_K" | "Q5_K" => {
            let (run, five) = (i / 32, encoding == "Q5_K");
            let (scale, min) = match run {
                0..4 => (byte(4 + run) % 64.0, byte(8 + run) % 64.0),
                _ => {
                    let (low, high) = (nibble(block[8 + run], 0), nibble(block[8 + run], 1));
                    let (scale_top, min_top) = (block[run] / 64, block[4 + run] / 64);
                    (f64::from(low + 16 * scale_top), f64::from(high + 16 * min_top))
                }
            };
            let quants = if five { &block[48..] } else { &block[16..] };
            let fifth = if five { block[16 + i % 32] >> run & 1 } else { 0 };
            let q = nibble(quants[i / 64 * 32 + i % 32], run % 2) + 16 * fifth;
            half(0) * scale * f64::from(q) - half(2) * min
        }
        "Q6_K" => {
            let (part, quarter, lane) = (i / 128, i % 128 / 32, i % 32);
            let low = nibble(block[part * 64 + quarter % 2 * 32 + lane], quarter / 2);
            let high = block[128 + part * 32 + lane] >> (2 * quarter) & 3;
            half(208) * f64::from(block[192 + i / 16] as i8) * (f64::from(low + 16 * high) - 32.0)
        }
        "IQ4_XS" => {
            let run = i / 32;
            let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * run) & 3;
            let scale = f64::from(nibble(block[4 + run / 2], run % 2)) + 16.0 * f64::from(high) - 32.0;
            half(0) * scale * IQ4[usize::from(nibble(block[8 + run * 16 + i % 16], i % 32 / 16))]
        }
        other => unreachable!("{other}"),
    };
    exact as f32
}

fn nibble(byte: u8, half: usize) -> u8 {
    if half == 0 { byte % 16 } else { byte / 16 }
}

/// Bit `i` of little-endian bytes.
fn bit(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 8] >> (i % 8) & 1
}

fn random_bytes(count: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), count)
}

proptest! {
    #[test]
    fn values_match_a_formula_per_element(which in 0..ENCODINGS.len(), rows in 1..9usize, bytes in random_bytes(8 * 3 * 210)) {
        let (number, name, len, size) = ENCODINGS[which];
        let width = len * if len == 1 { 37 } else { 3 };
        let blocks = &bytes[..rows * width / len * size];
        let file = GgufFile::new("llama").u32("llama.attention.head_count", 1);
        let file = file.tensor("token_embd.weight", &[width as u64, rows as u64], number, blocks).write();
        let found = values(&Gguf::open(&file.path).unwrap(), "model.embed_tokens.weight");
        for (i, found) in found.into_iter().enumerate() {
            let expected = value(name, &blocks[i / len * size..][..size], i % len);
            let equal = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
            prop_assert!(equal, "{name} {i}: {found:e}, not {expected:e}");
        }
    }
}

/// Some of each type's blocks are gguf's quantisation of weights, the others random.
#[test]
fn values_are_those_of_the_gguf_package_bit_for_bit() {
    let gguf = Gguf::open(fixture("gguf_types/types.gguf")).unwrap();
    let expected = std::fs::read(fixture("gguf_types/expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let mut names = expected.names();
    names.sort();
    assert_eq!(gguf.names(), names);
    assert_eq!(names.len(), 7);
    for name in names {
        let view = expected.tensor(name).unwrap();
        assert_eq!(gguf.shape(name).unwrap().dims(), view.shape(), "{name}");
        let found = values(&gguf, name);
        assert!(found.iter().all(|value| value.is_finite()), "{name}");
        assert!(bytemuck::cast_slice::<f32, u8>(&found) == view.data(), "{name} differs");
    }
}

#[test]
fn a_row_that_ends_inside_a_block_is_refused() {
    for (number, name, len, size) in ENCODINGS.into_iter().filter(|(.., len, _)| *len > 1) {
        for width in [1, len - 1, len + 1, 2 * len + len / 2] {
            let data = vec![0; size * width.div_ceil(len)];
            let file = GgufFile::tiny().tensor("output.weight", &[width as u64], number, &data).write();
            let error = Gguf::open(&file.path).unwrap_err().to_string();
            let expected = format!("rows of {width} values are not whole {name} blocks of {len}");
            assert!(error.contains("\"output.weight\"") && error.contains(&expected), "{error}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_type_tensor_and_cure() {
    for (number, name) in [
        (9, "Q8_1"),
        (16, "IQ2_XXS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (99, "type 99"),
    ] {
        let file = GgufFile::tiny().tensor("output.weight", &[256, 8], number, &[0; 2048]).write();
        let error = Gguf::open(&file.path).unwrap().config().unwrap_err();
        let expected = format!("tensor output.weight: is stored as {name}, which is not supported");
        assert!(error.to_string().ends_with(&expected), "{error}");
        let known = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS";
        let hint = format!("quantise the model to one of {known}, or use its Hugging Face folder");
        assert_eq!(error.hint(), Some(hint.as_str()));
    }
}
