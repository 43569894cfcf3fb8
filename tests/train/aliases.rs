//! The names of JumpStart and llama-recipes.

use crate::command::{fixture, vicugna};
use crate::settings::Setting;

/// JumpStart's defaults for Llama 2, as its notebook sets them, and each of them changed.
#[test]
fn jumpstart() {
    let setting = Setting::new();
    setting.same(
        &[
            "--instruction_tuned",
            "False",
            "--chat_dataset",
            "False",
            "--epoch",
            "3",
            "--learning_rate",
            "1e-4",
            "--lora_r",
            "8",
            "--lora_alpha",
            "32",
            "--lora_dropout",
            "0.05",
            "--target_modules",
            "q_proj,v_proj",
            "--int8_quantization",
            "False",
            "--enable_fsdp",
            "False",
            "--per_device_train_batch_size",
            "4",
            "--per_device_eval_batch_size",
            "1",
            "--max_train_samples",
            "-1",
            "--max_val_samples",
            "-1",
            "--max_input_length",
            "-1",
            "--validation_split_ratio",
            "0.2",
            "--train_data_split_seed",
            "0",
            "--preprocessing_num_workers",
            "None",
            "--seed",
            "42",
            "--add_input_output_demarcation_key",
            "True",
        ],
        &[],
    );
    setting.same(
        &[
            "--instruction-tuned=True",
            "--epoch=1",
            "--per-device-train-batch-size=2",
            "--max-val-samples=1",
            "--max_train_samples=5",
            "--max-input-length=30",
            "--add_input_output_demarcation_key=False",
            "--seed=10",
            "--lora-r=2",
        ],
        &[
            "--epochs",
            "1",
            "--batch-size",
            "2",
            "--max-eval-samples",
            "1",
            "--max-train-samples",
            "5",
            "--max-input-length",
            "30",
            "--no-demarcation",
            "--seed",
            "10",
            "--lora-r",
            "2",
        ],
    );
}

/// llama-recipes' defaults with use_peft, and each that means something here changed.
#[test]
fn llama_recipes() {
    let setting = Setting::new();
    setting.same(
        &[
            "--tokenizer_name",
            "None",
            "--enable_fsdp",
            "False",
            "--low_cpu_fsdp",
            "False",
            "--run_validation",
            "True",
            "--batch_size_training",
            "4",
            "--batching_strategy",
            "packing",
            "--context_length",
            "128",
            "--gradient_accumulation_steps",
            "1",
            "--gradient_clipping",
            "False",
            "--gradient_clipping_threshold",
            "1.0",
            "--num_epochs",
            "3",
            "--max_train_step",
            "0",
            "--max_eval_step",
            "0",
            "--num_workers_dataloader",
            "1",
            "--lr",
            "1e-4",
            "--weight_decay",
            "0.0",
            "--seed",
            "42",
            "--use_fp16",
            "False",
            "--mixed_precision",
            "True",
            "--val_batch_size",
            "1",
            "--dataset",
            "alpaca_dataset",
            "--peft_method",
            "lora",
            "--use_peft",
            "True",
            "--from_peft_checkpoint",
            "",
            "--freeze_layers",
            "False",
            "--num_freeze_layers",
            "1",
            "--freeze_LLM_only",
            "False",
            "--quantization",
            "None",
            "--one_gpu",
            "False",
            "--save_model",
            "True",
            "--dist_checkpoint_root_folder",
            "x",
            "--dist_checkpoint_folder",
            "y",
            "--save_optimizer",
            "False",
            "--use_fast_kernels",
            "False",
            "--use_wandb",
            "False",
            "--save_metrics",
            "False",
            "--flop_counter",
            "False",
            "--flop_counter_start",
            "3",
            "--use_profiler",
            "False",
            "--profiler_dir",
            "z",
            "--fsdp_config.sharding_strategy",
            "FULL_SHARD",
            "--hsdp",
            "False",
            "--sharding_group_size",
            "0",
            "--replica_group_size",
            "0",
            "--checkpoint_type",
            "SHARDED_STATE_DICT",
            "--fsdp_cpu_offload",
            "False",
            "--pure_bf16",
            "False",
            "--optimizer",
            "AdamW",
            "--lora_config.r",
            "8",
            "--lora_config.lora_alpha",
            "32",
            "--bias",
            "none",
            "--task_type",
            "CAUSAL_LM",
            "--inference_mode",
            "False",
            "--adapter_len",
            "10",
            "--adapter_layers",
            "30",
            "--num_virtual_tokens",
            "30",
            "--quantization_config.quant_type",
            "fp4",
            "--compute_dtype",
            "bf16",
            "--use_double_quant",
            "False",
            "--quant_storage",
            "bf16",
        ],
        &[],
    );
    setting.same(
        &[
            "--batch_size_training",
            "2",
            "--batching_strategy",
            "padding",
            "--context_length",
            "20",
            "--num_epochs",
            "2",
            "--lr",
            "0.01",
            "--max_train_step",
            "3",
            "--gamma",
            "0.5",
            "--gradient_clipping",
            "--gradient_clipping_threshold",
            "0.25",
            "--run_validation",
            "False",
            "--fsdp_activation_checkpointing",
            "--pure_bf16",
            "--lora_config.r",
            "4",
            "--weight_decay",
            "0.1",
        ],
        &[
            "--batch-size",
            "2",
            "--no-packing",
            "--max-input-length",
            "20",
            "--epochs",
            "2",
            "--learning-rate",
            "0.01",
            "--max-steps",
            "3",
            "--gamma",
            "0.5",
            "--lr-schedule",
            "step",
            "--max-grad-norm",
            "0.25",
            "--validation-split-ratio",
            "0",
            "--activation-checkpointing",
            "--dtype",
            "bf16",
            "--lora-r",
            "4",
            "--weight-decay",
            "0.1",
        ],
    );
    setting.same(&["--use_peft=False", "--gradient_clipping=True"], &["--full", "--max-grad-norm", "1"]);
    let (adapter, lora, data) = (fixture("lora_qv_rslora/adapter"), fixture("gqa"), &setting.data);
    let elsewhere = setting.place.text("elsewhere");
    let theirs = [
        ["--model_name", &lora],
        ["--alpaca_dataset.data_path", data],
        ["--output_dir", &elsewhere],
        ["--from_peft_checkpoint", &adapter],
    ];
    assert_eq!(vicugna(&[&["finetune", "--json"], theirs.as_flattened()].concat()).json()["out"], elsewhere);
    let (mut found, mut wanted) = (setting.config_in("elsewhere"), setting.config(&["--init-adapter", &adapter]));
    assert_eq!(found.remove("out").unwrap().as_str(), Some(elsewhere.as_str()));
    wanted.remove("out");
    assert_eq!(found, wanted);
    setting.same(&["--adapter", &adapter], &["--init-adapter", &adapter]);
    setting.same(&["--packing", "--shuffle"], &[]);
    setting.same(&["--packing=False", "--shuffle=False"], &["--no-packing", "--no-shuffle"]);
    let alone = ["--shard", "none", "--ranks", "1", "--cpu-offload", "False", "--use_fsdp", "False"];
    setting.same(&alone, &[]);
}

#[test]
fn jumpstarts_and_llama_recipes_quantization() {
    let setting = Setting::new();
    let int8 = ["--quantize", "int8"];
    setting.same(&["--int8_quantization", "True"], &int8);
    setting.same(&["--quantization", "8bit"], &int8);
    setting.same(&["--quantization", "True"], &int8);
    setting.same(&["--quantization"], &int8);
    setting.same(&["--quantization", "4bit"], &["--quantize", "fp4"]);
    let of_4_bits = ["--quantization", "4bit", "--quantization_config.quant_type"];
    setting.same(&[&of_4_bits[..], &["nf4"]].concat(), &["--quantize", "nf4"]);
    setting.same(&[&of_4_bits[..], &["fp4"]].concat(), &["--quantize", "fp4"]);
    let double = ["NF4", "--quantization_config.use_double_quant", "True", "--compute_dtype", "bf16"];
    setting.same(&[&of_4_bits[..], &double].concat(), &["--quantize", "nf4", "--double-quant"]);
    // Of another scheme, or of none, these change nothing.
    setting.same(&["--quant_type", "nf4", "--use_double_quant", "True"], &[]);
    setting.same(&["--quantization", "8bit", "--quant_type", "nf4", "--use_double_quant"], &int8);
    let file = setting.place.write("quantized.toml", "quantization = \"4bit\"\n[quantization_config]\n");
    setting
        .run(&["--config", &file])
        .0
        .refused(&format!("{file}: quantization_config must be a value or a list of them"));
    let file = setting.place.write("flat.toml", "quantization = \"4bit\"\nquant_type = \"nf4\"\n");
    setting.same(&["--config", &file], &["--quantize", "nf4"]);
    setting.same(&["--config", &file, "--quantize", "int8"], &int8);
    setting.same(&["--config", &file, "--quantize", "none"], &[]);
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let setting = Setting::new();
    for (options, message) in [
        (
            vec!["--enable_fsdp", "True", "--sharding_strategy", "HYBRID_SHARD"],
            "--sharding_strategy: HYBRID_SHARD cannot be honoured: hybrid sharding is not in this version",
        ),
        (
            vec!["--enable_fsdp", "--sharding_strategy", "half"],
            "--sharding_strategy: HALF cannot be honoured: it is FULL_SHARD or SHARD_GRAD_OP or NO_SHARD",
        ),
        (
            vec!["--quantization", "2bit"],
            "--quantization: 2bit cannot be honoured: it is 8bit or 4bit or true or false or none or null",
        ),
        (
            vec!["--quantization", "4bit", "--quantization_config.quant_type", "nf8"],
            "--quant_type: nf8 cannot be honoured: it is nf4 or fp4",
        ),
        (vec!["--quant_type", "int4"], "--quant_type: int4 cannot be honoured: it is nf4 or fp4"),
        (
            vec!["--int8_quantization", "--quantization", "4bit"],
            "--quantization: is given twice, as --int8_quantization too",
        ),
        (vec!["--use-fp16", "True"], "--use-fp16: True cannot be honoured: use --dtype bf16 or --dtype f32"),
        (vec!["--peft_method", "prefix"], "--peft_method: prefix cannot be honoured: LoRA is the one method here"),
        (
            vec!["--optimizer", "anyprecision"],
            "--optimizer: anyprecision cannot be honoured: AdamW is the one optimizer here",
        ),
        (
            vec!["--dataset", "samsum_dataset"],
            "--dataset: samsum_dataset cannot be honoured: name your records with --train",
        ),
        (
            vec!["--batching_strategy", "random"],
            "--batching_strategy: random cannot be honoured: it is packing or padding",
        ),
        (vec!["--use_wandb"], "--use_wandb: true cannot be honoured: metrics.jsonl and loss.svg have the curves"),
        (vec!["--bias", "all"], "--bias: all cannot be honoured: biases are not trained"),
        (vec!["--cpu_offload"], "--cpu_offload: true cannot be honoured: offloading is not in this version"),
        (vec!["--hsdp", "True"], "--hsdp: True cannot be honoured: hybrid sharding is not in this version"),
        (
            vec!["--fsdp_config.fsdp_cpu_offload"],
            "--fsdp_config.fsdp_cpu_offload: true cannot be honoured: offloading is not in this version",
        ),
        (
            vec!["--tokenizer_name", "other"],
            "--tokenizer_name: other cannot be honoured: a model is used with its own tokenizer",
        ),
        (vec!["--max_eval_step", "5"], "--max_eval_step: 5 cannot be honoured: use --max-eval-samples"),
        (
            vec!["--micro_batch_size", "4"],
            "--micro_batch_size: 4 cannot be honoured: use --batch-size and --gradient-accumulation-steps",
        ),
        (vec!["--freeze_layers"], "--freeze_layers: true cannot be honoured: train an adapter instead"),
        (vec!["--freeze_LLM_only"], "--freeze_LLM_only: true cannot be honoured: there are no vision models here"),
        (vec!["--save_model", "False"], "--save_model: False cannot be honoured: the results are always saved"),
        (vec!["--flop_counter"], "--flop_counter: true cannot be honoured: there is none"),
        (vec!["--use_profiler"], "--use_profiler: true cannot be honoured: use perf, or vicugna's benches"),
        (
            vec!["--task_type", "SEQ_CLS"],
            "--task_type: SEQ_CLS cannot be honoured: only causal language models are trained",
        ),
        (vec!["--inference_mode", "True"], "--inference_mode: True cannot be honoured: this is training"),
        (vec!["--full=perhaps"], "--full: must be true or false, got \"perhaps\""),
    ] {
        setting.run(&options).0.refused(message);
    }
}

#[test]
fn a_config_file_gives_options_and_the_command_line_wins() {
    let setting = Setting::new();
    let file = setting.place.write(
        "options.toml",
        "learning_rate = 0.5\nnum_epochs = 2\ntarget_modules = [\"k_proj\", \"up_proj\"]\nfull = false\npacking = false\nno_shuffle = true\n\
         max_grad_norm = 1\nenable_fsdp = \"False\"\n",
    );
    setting.same(
        &["--config", &file, "--lr", "0.25", "--no-shuffle", "False", "--max-grad-norm", "None"],
        &["--learning-rate", "0.25", "--epochs", "2", "--target-modules", "k_proj,up_proj", "--no-packing"],
    );
    let unknown = setting.place.write("unknown.toml", "learning_rat = 0.5\n");
    setting.run(&["--config", &unknown]).0.refused(&format!("{unknown}: learning_rat is no option of finetune"));
    let refused = setting.place.write("refused.toml", "hsdp = true\n");
    let line = format!("{refused}: --hsdp: true cannot be honoured: hybrid sharding is not in this version");
    setting.run(&["--config", &refused]).0.refused(&line);
    let nested = setting.place.write("nested.toml", "[lora]\nr = 1\n");
    setting.run(&["--config", &nested]).0.refused(&format!("{nested}: lora must be a value or a list of them"));
    let missing = setting.place.text("missing.toml");
    setting.run(&["--config", &missing]).0.refused(&format!("{missing}: No such file or directory (os error 2)"));
}

#[test]
fn fsdp_is_a_strategy_where_it_is_on() {
    let setting = Setting::new();
    setting.same(&["--enable_fsdp", "True"], &["--shard", "full"]);
    setting.same(&["--use_fsdp", "--fsdp_config.sharding_strategy", "SHARD_GRAD_OP"], &["--shard", "grad-op"]);
    setting.same(&["--enable_fsdp", "--sharding_strategy", "ShardingStrategy.NO_SHARD"], &["--shard", "none"]);
    setting.same(&["--sharding_strategy", "FULL_SHARD", "--low_cpu_fsdp", "--checkpoint_type", "FULL_STATE_DICT"], &[]);
    setting.same(&["--enable_fsdp", "--int8_quantization"], &["--shard", "full", "--quantize", "int8"]);
}
