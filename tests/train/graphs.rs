//! Steps as CUDA graphs: the same bits as without. `VICUGNA_DEVICE=cuda` takes a GPU; the default, the emulator, has no
//! graphs and says so.

use crate::command::fixture;
use crate::run::{Place, Sequence, results};

const NOTE: &str = "note: emulated has no CUDA graphs and runs kernels one by one";

/// Adapters with dropout, adapters on int8 with outliers, all weights with checkpoints, and steps of several batches; and how many of the steps have a
/// shape that was seen before.
const KINDS: [(&str, &[&str], u64); 4] = [
    ("mha", &["--target-modules", "all-linear", "--lora-dropout", "0.1", "--eval-every", "3"], 13),
    (
        "gqa",
        &["--quantize", "int8", "--int8-threshold", "2", "--target-modules", "all-linear", "--eval-every", "3"],
        13,
    ),
    ("gqa", &["--full", "--activation-checkpointing", "--max-grad-norm", "0.5", "--dtype", "f32"], 13),
    ("gqa", &["--gradient-accumulation-steps", "2", "--lora-dropout", "0.1", "--save-every", "2"], 4),
];

/// Eight records: five of one shape, two of another, one that is alone, all with tokens of their own.
fn records() -> Vec<Sequence> {
    let record = |(i, length): (usize, &usize)| {
        let input_ids: Vec<u32> = (0..*length).map(|t| ((7 * i + 3 * t + i * t * t) % 97) as u32).collect();
        let labels = input_ids.iter().enumerate().map(|(t, &id)| if t < 2 { -100 } else { id as i32 });
        Sequence { labels: labels.collect(), input_ids }
    };
    [6, 6, 9, 6, 6, 9, 6, 14].iter().enumerate().map(record).collect()
}

#[test]
fn steps_as_graphs_have_the_same_bits() {
    let gpu = std::env::var("VICUGNA_DEVICE").unwrap_or("emulated".into());
    for (model, options, recurring) in KINDS {
        let place = Place::new();
        let data = place.records("data.jsonl", &records());
        let eval = place.records("eval.jsonl", &records()[..2]);
        let common = [
            ["--device", &gpu],
            ["--epochs", "2"],
            ["--batch-size", "1"],
            ["--max-input-length", "24"],
            ["--learning-rate", "3e-3"],
            ["--eval", &eval],
        ];
        let common = [&common.concat()[..], &["--no-packing", "--no-shuffle"], options].concat();
        let run = |out: &str, extra: &[&str]| {
            let ran = place.finetune(&fixture(model), &data, out, &[&common, extra].concat());
            (ran.json(), ran.stderr, place.column(out, "loss"), results(&place.path(out)))
        };
        let (plain, said, losses, weights) = run("plain", &[]);
        assert!(plain["graph_launches"].is_null() && !said.contains(NOTE));
        let (json, said, graph_losses, graph_weights) = run("graphs", &["--cuda-graphs"]);
        assert_eq!(graph_losses, losses, "{model} {options:?}");
        assert!(graph_weights == weights, "{model} {options:?}: the weights differ");
        assert_eq!(json["peak_device_bytes"], plain["peak_device_bytes"], "{model} {options:?}");
        match gpu.as_str() {
            "emulated" => assert!(said.contains(NOTE) && json["graph_launches"].is_null(), "{said}"),
            _ => assert_eq!(json["graph_launches"], recurring, "{model} {options:?}"),
        }
    }
}
