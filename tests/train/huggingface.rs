//! The names of transformers' TrainingArguments, TRL's SFTConfig and LLaMA-Factory.

use crate::settings::Setting;

/// Pairs of a name and a value as a command line.
fn line<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<&'a str> {
    pairs.iter().flat_map(|&(name, value)| [name, value]).collect()
}

#[test]
fn names_that_change_the_result_are_ours() {
    let setting = Setting::new();
    let theirs = [
        ("--num_train_epochs", "2.0"),
        ("--per_device_train_batch_size", "2"),
        ("--learning_rate", "0.01"),
        ("--lr_scheduler_type", "cosine"),
        ("--warmup_ratio", "0.3"),
        ("--optim", "adamw_torch"),
        ("--max_grad_norm", "0.5"),
        ("--bf16", "True"),
        ("--gradient_checkpointing", "True"),
        ("--eval_strategy", "steps"),
        ("--eval_steps", "2"),
        ("--save_strategy", "steps"),
        ("--save_steps", "3"),
        ("--max_seq_length", "20"),
        ("--packing", "False"),
        ("--completion_only_loss", "False"),
        ("--lora_rank", "4"),
        ("--lora_target", "q_proj,o_proj"),
        ("--train_sampling_strategy", "sequential"),
        ("--val_size", "0.1"),
        ("--use_cpu", "True"),
    ];
    let ours = [
        ("--epochs", "2"),
        ("--batch-size", "2"),
        ("--learning-rate", "0.01"),
        ("--lr-schedule", "cosine"),
        ("--warmup-ratio", "0.3"),
        ("--max-grad-norm", "0.5"),
        ("--dtype", "bf16"),
        ("--activation-checkpointing", "true"),
        ("--eval-every", "2"),
        ("--save-every", "3"),
        ("--max-input-length", "20"),
        ("--no-packing", "true"),
        ("--train-on-prompt", "true"),
        ("--lora-r", "4"),
        ("--target-modules", "q_proj,o_proj"),
        ("--no-shuffle", "true"),
        ("--validation-split-ratio", "0.1"),
        ("--device", "cpu"),
    ];
    setting.same(&line(&theirs), &line(&ours));
    let scheduled = [("--lr_scheduler_type", "constant_with_warmup"), ("--warmup_steps", "2")];
    setting.same(&line(&scheduled), &["--lr-schedule", "constant", "--warmup-steps", "2"]);
    setting.same(&["--eval_strategy", "no"], &["--validation-split-ratio", "0"]);
    setting.same(&["--finetuning_type", "full"], &["--full"]);
    setting.same(&["--lora_target", "all"], &["--target-modules", "all-linear"]);
    setting.same(&["--lora_target_modules", "q_proj", "k_proj"], &["--target-modules", "q_proj,k_proj"]);
    setting
        .same(&["--torch_dtype", "bfloat16", "--max_length", "24"], &["--dtype", "bf16", "--max-input-length", "24"]);
}

/// What their own defaults say, and what changes speed or what is shown, leaves all as it is.
#[test]
fn names_without_effect_pass() {
    let setting = Setting::new();
    let pairs = [
        ("--max_steps", "-1"),
        ("--warmup_ratio", "0.0"),
        ("--adam_beta1", "0.90"),
        ("--adam_beta2", "0.999"),
        ("--adam_epsilon", "1e-08"),
        ("--label_smoothing_factor", "0.0"),
        ("--neftune_noise_alpha", "None"),
        ("--bf16", "False"),
        ("--fp16", "False"),
        ("--tf32", "True"),
        ("--logging_steps", "10"),
        ("--report_to", "none"),
        ("--run_name", "a run"),
        ("--evaluation_strategy", "epoch"),
        ("--save_strategy", "epoch"),
        ("--save_total_limit", "1"),
        ("--load_best_model_at_end", "True"),
        ("--metric_for_best_model", "eval_loss"),
        ("--greater_is_better", "False"),
        ("--overwrite_output_dir", "True"),
        ("--resume_from_checkpoint", "False"),
        ("--remove_unused_columns", "False"),
        ("--dataloader_num_workers", "4"),
        ("--group_by_length", "False"),
        ("--data_seed", "None"),
        ("--push_to_hub", "False"),
        ("--torch_compile", "True"),
        ("--deepspeed", "None"),
        ("--fsdp", ""),
        ("--local_rank", "-1"),
        ("--do_train", "True"),
        ("--gradient_accumulation_steps", "1"),
        ("--completion_only_loss", "None"),
        ("--assistant_only_loss", "True"),
        ("--padding_free", "True"),
        ("--neat_packing", "True"),
        ("--packing", "True"),
        ("--use_dora", "False"),
        ("--stage", "sft"),
        ("--finetuning_type", "lora"),
        ("--load_in_4bit", "False"),
        ("--trust_remote_code", "True"),
        ("--attn_implementation", "sdpa"),
    ];
    setting.same(&line(&pairs), &["--eval-every", "0", "--save-every", "0"]);
}

#[test]
fn bitsandbytes_options_choose_a_scheme() {
    let setting = Setting::new();
    let defaults = [
        ("--load_in_8bit", "False"),
        ("--load_in_4bit", "False"),
        ("--llm_int8_threshold", "6.0"),
        ("--bnb_4bit_quant_type", "nf4"),
        ("--bnb_4bit_compute_dtype", "bfloat16"),
        ("--bnb_4bit_quant_storage", "uint8"),
        ("--bnb_4bit_use_double_quant", "True"),
    ];
    setting.same(&line(&defaults), &[]);
    let with = |changes: &[(&'static str, &'static str)]| {
        let changed = defaults.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        line(&changed.chain(changes).copied().collect::<Vec<_>>())
    };
    setting.same(&with(&[("--load_in_8bit", "True")]), &["--quantize", "int8"]);
    setting.same(
        &with(&[("--load_in_8bit", "True"), ("--llm_int8_threshold", "2.7")]),
        &["--quantize", "int8", "--int8-threshold", "2.7"],
    );
    setting.same(&with(&[("--load_in_4bit", "True")]), &["--quantize", "nf4", "--double-quant"]);
    setting.same(
        &with(&[
            ("--load_in_4bit", "True"),
            ("--bnb_4bit_quant_type", "fp4"),
            ("--bnb_4bit_use_double_quant", "False"),
        ]),
        &["--quantize", "fp4"],
    );
    setting.same(&["--load_in_4bit"], &["--quantize", "fp4"]);
    setting.same(&["--load_in_4bit", "--use_bnb_nested_quant"], &["--quantize", "fp4", "--double-quant"]);
    setting.same(&["--quantization_bit", "8"], &["--quantize", "int8"]);
    setting.same(&["--quantization_bit", "None", "--double_quantization", "True"], &[]);
    setting
        .same(&["--quantization_bit", "4", "--quantization_method", "bnb"], &["--quantize", "nf4", "--double-quant"]);
    setting.same(
        &["--quantization_bit=4", "--quantization_type=fp4", "--double_quantization=False"],
        &["--quantize", "fp4"],
    );
    assert_eq!(setting.config(&with(&[("--load_in_8bit", "True")]))["int8_threshold"].as_float(), Some(6.0));
}

#[test]
fn values_that_mean_something_else_are_refused_by_name() {
    let setting = Setting::new();
    for (options, message) in [
        (
            ["--lr_scheduler_type", "polynomial"],
            "--lr_scheduler_type: polynomial cannot be honoured: \
             it is constant or constant_with_warmup or linear or cosine",
        ),
        (
            ["--optim", "adamw_8bit"],
            "--optim: adamw_8bit cannot be honoured: AdamW with PyTorch's betas and epsilon is the one optimizer here",
        ),
        (
            ["--adam_beta2", "0.95"],
            "--adam_beta2: 0.95 cannot be honoured: AdamW with PyTorch's betas and epsilon is the one optimizer here",
        ),
        (
            ["--label_smoothing_factor", "0.1"],
            "--label_smoothing_factor: 0.1 cannot be honoured: the loss is the cross-entropy of the next token",
        ),
        (["--fp16", "True"], "--fp16: True cannot be honoured: use --dtype bf16 or --dtype f32"),
        (["--report_to", "wandb"], "--report_to: wandb cannot be honoured: metrics.jsonl and loss.svg have the curves"),
        (["--deepspeed", "ds.json"], "--deepspeed: ds.json cannot be honoured: use --shard full or --shard grad-op"),
        (["--bnb_4bit_quant_type", "int4"], "--quant_type: int4 cannot be honoured: it is nf4 or fp4"),
        (["--quantization_bit", "2"], "--quantization_bit: 2 cannot be honoured: it is 8 or 4 or none or null"),
        (
            ["--quantization_method", "hqq"],
            "--quantization_method: hqq cannot be honoured: bitsandbytes' are the schemes here",
        ),
        (["--use_dora", "True"], "--use_dora: True cannot be honoured: LoRA is the one method here"),
        (["--eval_strategy", "sometimes"], "--eval_strategy: sometimes cannot be honoured: it is no or steps or epoch"),
        (["--save_strategy", "steps"], "--save_strategy: steps needs --save_steps"),
        (
            ["--resume_from_checkpoint", "out/checkpoint-5"],
            "--resume_from_checkpoint: out/checkpoint-5 cannot be honoured: it is true or false or none",
        ),
        (["--data_seed", "7"], "--data_seed: 7 cannot be honoured: --seed decides the order of the records too"),
    ] {
        setting.run(&options).0.refused(message);
    }
    let constant = ["--lr_scheduler_type", "constant", "--warmup_ratio", "0.1"];
    setting.run(&constant).0.refused("--lr_scheduler_type: constant has no warm-up");
    let data = setting.data.clone();
    setting
        .run(&["--eval_strategy", "no", "--eval", &data])
        .0
        .refused("--eval_strategy: no cannot be honoured: --eval names what to evaluate on");
}

#[test]
fn warmup_by_ratio_is_rounded_up_to_steps() {
    let setting = Setting::new();
    let options = ["--batch-size", "1", "--no-packing", "--epochs", "1", "--learning-rate", "0.5"];
    let (_, config) = setting.run(&[&options[..], &["--warmup-ratio", "0.25"]].concat());
    assert_eq!(config["warmup_ratio"].as_float(), Some(0.25));
    let rates = setting.place.column("out-1", "learning_rate");
    assert_eq!(rates.len(), 9);
    let expected: Vec<f64> = (0..9).map(|step: i32| if step < 3 { 0.5 * f64::from(step) / 3.0 } else { 0.5 }).collect();
    assert!(rates.iter().zip(&expected).all(|(f, e)| (f - e).abs() < 1e-12), "{rates:?}");
    setting.run(&["--warmup-ratio", "1"]).0.refused("--warmup-ratio: must be from 0 to below 1, got 1");
}
