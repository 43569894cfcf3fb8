//! The tiny Llama that the package brings: what it was made of, and that it learns.

#[expect(dead_code, reason = "the example's own main, and what it prints")]
#[path = "../../examples/finetune_dolly.rs"]
mod finetune_dolly;

#[expect(dead_code, reason = "exams are for training")]
#[path = "../../examples/pretrain_tiny/corpus.rs"]
mod corpus;
#[path = "../../examples/pretrain_tiny/grammar.rs"]
mod grammar;
#[path = "../../examples/pretrain_tiny/vocabulary.rs"]
mod vocabulary;

mod pretraining;
mod sample;

use finetune_dolly::{Args, Taught, teach};

/// Seeded: on one kind of processor the numbers are always the same.
#[test]
fn a_tiny_llama_learns_to_answer() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("adapter").to_str().unwrap().to_string();
    let Taught { out, questions, before, after } =
        teach(Args::read(&["--device".into(), "cpu".into(), "--out".into(), out])).unwrap();

    let [before_loss, after_loss] = [&before, &after].map(|exam| exam.evaluation.loss);
    println!("held-out loss {before_loss:.4} before, {after_loss:.4} after");
    assert!(after_loss.exp() <= 0.8 * before_loss.exp());

    let asked = questions.iter().filter(|question| question.is_extractive()).count();
    let [right_before, right] = [&before, &after].map(|exam| exam.right(&questions));
    println!("answers found in the text: {right_before} before, {right} after, of {asked}");
    assert_eq!(asked, sample::extractive().count());
    assert!(3 * right >= asked && 4 * right_before <= right);

    for file in ["adapter_model.safetensors", "adapter_config.json", "metrics.jsonl", "loss.svg"] {
        assert!(out.join(file).exists(), "{file}");
    }
}
