//! The names of other tools, and what each means here.

/// What another name means here.
pub(super) enum Meaning {
    /// Our option of that name.
    Is(&'static str),
    /// The opposite of our option of that name.
    Not(&'static str),
    /// One of our options has one value for each of its values; an empty one is its default.
    Maps(&'static str, &'static [(&'static str, &'static str)]),
    /// Nothing: whatever its value is, the result is the same here.
    Inert,
    /// Nothing with one of these values; no other can be honoured, for the reason given.
    Only(&'static [&'static str], &'static str),
}

use Meaning::{Inert, Is, Maps, Not, Only};

/// What `name`, in lower case with underscores, means.
pub(super) fn meaning(name: &str) -> Option<&'static Meaning> {
    TABLES.iter().copied().flatten().find(|(theirs, _)| *theirs == name).map(|(_, meaning)| meaning)
}

type Rows = &'static [(&'static str, Meaning)];

const TABLES: [Rows; 7] = [OURS, JUMPSTART, LLAMA_RECIPES, TRAINING_ARGUMENTS, WITHOUT_EFFECT, TRL, LLAMA_FACTORY];

const OFF: &[&str] = &["false"];
const ON: &[&str] = &["true"];
const NONE: &[&str] = &["none", "null", "", "false", "{}"];
const ZERO: &[&str] = &["0", "none", "null", ""];

/// Values of --quantize that [`super::parts`] makes one of ours: 4 bits of a kind that is said elsewhere, else fp4; and
/// LLaMA-Factory's, else nf4 with double quantization.
pub(super) const FOUR_BITS: &str = "4bit";
pub(super) const NF4_DOUBLE: &str = "4bit nf4 double";

const IN_8_BITS: &[(&str, &str)] = &[("true", "int8"), ("false", ""), ("none", ""), ("", "")];

const SHARDED: &str = "use --shard full or --shard grad-op";
const HYBRID: &str = "hybrid sharding is not in this version";
const OFFLOAD: &str = "offloading is not in this version";
const ADAMW: &str = "AdamW with PyTorch's betas and epsilon is the one optimizer here";
const LORA: &str = "LoRA is the one method here";
const CURVES: &str = "metrics.jsonl and loss.svg have the curves";
const DTYPE: &str = "use --dtype bf16 or --dtype f32";
const LOSS: &str = "the loss is the cross-entropy of the next token";
const TOKENIZER: &str = "a model is used with its own tokenizer";
const EVALUATION: &str = "an evaluation finds loss and perplexity";

/// Ours, the other way round, and what comes in a later version.
const OURS: Rows = &[
    ("packing", Not("no_packing")),
    ("shuffle", Not("no_shuffle")),
    ("adapter", Is("init_adapter")),
    ("cpu_offload", Only(OFF, OFFLOAD)),
];

const JUMPSTART: Rows = &[
    ("epoch", Is("epochs")),
    ("instruction_tuned", Inert), // records tell by their fields what they are
    ("chat_dataset", Inert),
    ("per_device_train_batch_size", Is("batch_size")),
    ("per_device_eval_batch_size", Inert), // every token weighs the same, whatever its batch
    ("max_val_samples", Is("max_eval_samples")),
    ("preprocessing_num_workers", Inert),
    ("add_input_output_demarcation_key", Not("no_demarcation")),
    ("int8_quantization", Maps("quantize", IN_8_BITS)),
];

/// The names of llama-recipes' train_config, fsdp_config, lora_config, the other methods' configs, and quantization_config.
const LLAMA_RECIPES: Rows = &[
    ("model_name", Is("model")),
    ("tokenizer_name", Only(NONE, TOKENIZER)),
    ("low_cpu_fsdp", Inert),
    ("run_validation", Maps("validation_split_ratio", &[("true", ""), ("false", "0")])),
    ("batch_size_training", Is("batch_size")),
    ("batching_strategy", Maps("no_packing", &[("packing", "false"), ("padding", "true")])),
    ("context_length", Is("max_input_length")),
    ("num_epochs", Is("epochs")),
    ("max_train_step", Is("max_steps")),
    ("max_eval_step", Only(&["0"], "use --max-eval-samples")),
    ("num_workers_dataloader", Inert),
    ("lr", Is("learning_rate")),
    ("use_fp16", Only(OFF, DTYPE)),
    ("mixed_precision", Inert), // of FSDP
    ("val_batch_size", Inert),
    ("dataset", Only(&["alpaca_dataset"], "name your records with --train")),
    ("data_path", Is("train")),
    ("peft_method", Only(&["lora"], LORA)),
    ("use_peft", Not("full")),
    ("from_peft_checkpoint", Is("init_adapter")),
    ("output_dir", Is("out")),
    ("freeze_layers", Only(OFF, "train an adapter instead")),
    ("num_freeze_layers", Inert),
    ("freeze_llm_only", Only(OFF, "there are no vision models here")),
    (
        "quantization",
        Maps(
            "quantize",
            &[
                ("8bit", "int8"),
                ("4bit", FOUR_BITS),
                ("true", "int8"),
                ("false", ""),
                ("none", ""),
                ("null", ""),
                ("", ""),
            ],
        ),
    ),
    ("one_gpu", Inert),
    ("save_model", Only(ON, "the results are always saved")),
    ("dist_checkpoint_root_folder", Inert),
    ("dist_checkpoint_folder", Inert),
    ("save_optimizer", Inert), // checkpoints always hold it
    ("use_fast_kernels", Inert),
    ("use_wandb", Only(OFF, CURVES)),
    ("save_metrics", Inert), // metrics.jsonl is always there
    ("flop_counter", Only(OFF, "there is none")),
    ("flop_counter_start", Inert),
    ("use_profiler", Only(OFF, "use perf, or vicugna's benches")),
    ("profiler_dir", Inert),
    ("micro_batch_size", Only(&[], "use --batch-size and --gradient-accumulation-steps")),
    ("hsdp", Only(OFF, HYBRID)),
    ("sharding_group_size", Inert),
    ("replica_group_size", Inert),
    ("checkpoint_type", Inert),
    ("fsdp_activation_checkpointing", Is("activation_checkpointing")),
    ("fsdp_cpu_offload", Only(OFF, OFFLOAD)),
    ("pure_bf16", Maps("dtype", &[("true", "bf16"), ("false", "")])),
    ("optimizer", Only(&["adamw"], "AdamW is the one optimizer here")),
    ("r", Is("lora_r")),
    ("bias", Only(&["none"], "biases are not trained")),
    ("task_type", Only(&["causal_lm"], "only causal language models are trained")),
    ("inference_mode", Only(OFF, "this is training")),
    ("adapter_len", Inert),
    ("adapter_layers", Inert),
    ("num_virtual_tokens", Inert),
    ("compute_dtype", Inert), // products are computed in f32, and on a GPU in --dtype
    ("quant_storage", Inert), // of files
];

/// Transformers' TrainingArguments that decide the result, with the names that they had before.
const TRAINING_ARGUMENTS: Rows = &[
    ("num_train_epochs", Is("epochs")),
    ("per_gpu_train_batch_size", Is("batch_size")),
    (
        "lr_scheduler_type",
        Maps(
            "lr_schedule",
            &[
                ("constant", "constant"),
                ("constant_with_warmup", "constant"),
                ("linear", "linear"),
                ("cosine", "cosine"),
            ],
        ),
    ),
    ("lr_scheduler_kwargs", Only(NONE, "a schedule has no more options")),
    ("optim", Only(&["adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw", "paged_adamw_32bit"], ADAMW)),
    ("optim_args", Only(NONE, ADAMW)),
    ("optim_target_modules", Only(NONE, ADAMW)),
    ("adafactor", Only(OFF, ADAMW)),
    ("adam_beta1", Only(&["0.9"], ADAMW)),
    ("adam_beta2", Only(&["0.999"], ADAMW)),
    ("adam_epsilon", Only(&["1e-8"], ADAMW)),
    ("label_smoothing_factor", Only(ZERO, LOSS)),
    ("neftune_noise_alpha", Only(ZERO, "no noise is added to embeddings")),
    ("bf16", Maps("dtype", &[("true", "bf16"), ("false", ""), ("none", "")])),
    ("fp16", Only(NONE, DTYPE)),
    (
        "torch_dtype",
        Maps("dtype", &[("bfloat16", "bf16"), ("bf16", "bf16"), ("float32", "f32"), ("f32", "f32"), ("auto", "")]),
    ),
    ("bf16_full_eval", Only(OFF, "evaluations are computed as training is: use --dtype")),
    ("fp16_full_eval", Only(OFF, "evaluations are computed as training is: use --dtype")),
    ("gradient_checkpointing", Is("activation_checkpointing")),
    ("auto_find_batch_size", Only(OFF, "use --batch-size")),
    ("evaluation_strategy", Is("eval_strategy")),
    ("eval_delay", Only(ZERO, "use --eval-every")),
    ("eval_on_start", Only(OFF, "vicugna eval tells what the model knows before")),
    (
        "load_best_model_at_end",
        Only(ON, "the best weights are kept if anything was evaluated; --validation-split-ratio 0 keeps the last"),
    ),
    (
        "metric_for_best_model",
        Only(&["loss", "eval_loss", "none", ""], "the best weights are those of the lowest evaluation loss"),
    ),
    ("greater_is_better", Only(NONE, "the best weights are those of the lowest evaluation loss")),
    ("save_safetensors", Only(ON, "results are safetensors")),
    (
        "resume_from_checkpoint",
        Maps("resume", &[("true", "true"), ("false", "false"), ("none", "false"), ("", "false")]),
    ),
    ("ignore_data_skip", Only(OFF, "a resumed run goes on with the data that come next")),
    ("data_seed", Only(&["none", ""], "--seed decides the order of the records too")),
    ("group_by_length", Only(OFF, "records come in a random order, or with --no-shuffle in theirs")),
    ("train_sampling_strategy", Maps("no_shuffle", &[("random", "false"), ("sequential", "true")])),
    ("dataloader_drop_last", Only(OFF, "nothing is dropped")),
    ("label_names", Only(&["none", "", "labels"], "labels are called labels")),
    ("use_cpu", Maps("device", &[("true", "cpu"), ("false", "")])),
    ("no_cuda", Maps("device", &[("true", "cpu"), ("false", "")])),
    ("fsdp", Only(NONE, SHARDED)),
    ("fsdp_config", Only(NONE, SHARDED)),
    ("deepspeed", Only(NONE, SHARDED)),
    ("parallelism_config", Only(NONE, SHARDED)),
    ("local_rank", Only(&["-1", "0"], "mpirun, srun or --ranks starts the ranks")),
    ("report_to", Only(NONE, CURVES)),
    ("push_to_hub", Only(OFF, "upload the folder of the results yourself")),
    ("do_train", Only(ON, "this is training: see vicugna eval and generate")),
    ("do_predict", Only(OFF, "see vicugna generate")),
    ("predict_with_generate", Only(OFF, EVALUATION)),
    // Of the scripts that go with them.
    ("model_name_or_path", Is("model")),
    ("model_revision", Only(&["main", "none", ""], "write --model NAME@REVISION")),
    ("config_name", Only(NONE, "a model is used with its own configuration")),
    ("train_file", Is("train")),
    ("validation_file", Is("eval")),
    ("block_size", Is("max_input_length")),
    ("model_max_length", Is("max_input_length")),
];

/// Transformers' TrainingArguments that change speed, memory or what is shown, and no result.
const WITHOUT_EFFECT: Rows = &[
    ("accelerator_config", Inert),
    ("activation_checkpointing_kwargs", Inert),
    ("average_tokens_across_devices", Inert),
    ("batch_eval_metrics", Inert),
    ("dataloader_in_order", Inert),
    ("dataloader_num_workers", Inert),
    ("dataloader_persistent_workers", Inert),
    ("dataloader_pin_memory", Inert),
    ("dataloader_prefetch_factor", Inert),
    ("ddp_backend", Inert), // as all of ddp, with more than one process
    ("ddp_broadcast_buffers", Inert),
    ("ddp_bucket_cap_mb", Inert),
    ("ddp_find_unused_parameters", Inert),
    ("ddp_static_graph", Inert),
    ("ddp_timeout", Inert),
    ("debug", Inert),
    ("disable_tqdm", Inert),
    ("do_eval", Inert), // eval_strategy decides
    ("eval_accumulation_steps", Inert),
    ("eval_do_concat_batches", Inert),
    ("eval_use_gather_object", Inert),
    ("full_determinism", Inert), // equal seeds always give equal bits
    ("gradient_checkpointing_kwargs", Inert),
    ("hub_always_push", Inert), // as all of hub, with push_to_hub
    ("hub_model_id", Inert),
    ("hub_private_repo", Inert),
    ("hub_strategy", Inert),
    ("hub_token", Inert),
    ("include_for_metrics", Inert),
    ("include_inputs_for_metrics", Inert),
    ("include_num_input_tokens_seen", Inert),
    ("include_tokens_per_second", Inert),
    ("length_column_name", Inert),
    ("log_level", Inert),
    ("log_level_replica", Inert),
    ("log_on_each_node", Inert),
    ("logging_dir", Inert),
    ("logging_first_step", Inert), // metrics.jsonl has every step
    ("logging_nan_inf_filter", Inert),
    ("logging_steps", Inert),
    ("logging_strategy", Inert),
    ("overwrite_output_dir", Inert), // a folder with anything in it is refused by name
    ("per_gpu_eval_batch_size", Inert),
    ("prediction_loss_only", Inert),
    ("project", Inert),
    ("remove_unused_columns", Inert),
    ("restore_callback_states_from_checkpoint", Inert),
    ("run_name", Inert),
    ("save_on_each_node", Inert),
    ("save_only_model", Inert),
    ("save_total_limit", Inert), // the last two checkpoints and the best stay
    ("skip_memory_metrics", Inert),
    ("tf32", Inert),
    ("torch_compile", Inert),
    ("torch_compile_backend", Inert),
    ("torch_compile_mode", Inert),
    ("torch_empty_cache_steps", Inert),
    ("use_cache", Inert),
    ("use_fast_tokenizer", Inert),
    ("use_legacy_prediction_loop", Inert),
    ("use_liger_kernel", Inert),
    // Of the scripts that go with them.
    ("attn_implementation", Inert),
    ("low_cpu_mem_usage", Inert),
    ("overwrite_cache", Inert),
    ("trust_remote_code", Inert), // none is ever run
];

/// TRL's SFTConfig and ModelConfig, and PEFT's LoraConfig as scripts spell it.
const TRL: Rows = &[
    ("max_length", Is("max_input_length")),
    ("max_seq_length", Is("max_input_length")),
    ("completion_only_loss", Not("train_on_prompt")),
    ("assistant_only_loss", Not("train_on_prompt")),
    ("packing_strategy", Only(&["bfd"], "rows hold whole records")),
    ("eval_packing", Inert),
    ("padding_free", Inert), // there is no padding
    ("pad_to_multiple_of", Inert),
    ("pad_token", Inert),
    ("eos_token", Only(NONE, TOKENIZER)),
    ("truncation_mode", Only(&["keep_start"], "a record is cut at its end")),
    ("loss_type", Only(&["nll"], LOSS)),
    ("dataset_text_field", Only(&["text"], "plain text is called text")),
    ("dataset_kwargs", Only(NONE, "records tell by their fields what they are")),
    ("dataset_num_proc", Inert),
    ("dataset_batch_size", Inert),
    ("shuffle_dataset", Inert), // each epoch is shuffled anyway
    ("activation_offloading", Inert),
    ("model_init_kwargs", Only(NONE, "a model is used with its own configuration")),
    ("router_aux_loss_coef", Inert), // of mixtures of experts
    ("lora_target_modules", Is("target_modules")),
    ("lora_task_type", Only(&["causal_lm"], "only causal language models are trained")),
    ("modules_to_save", Only(NONE, LORA)),
    ("lora_modules_to_save", Only(NONE, LORA)),
    ("lora_target_parameters", Only(NONE, LORA)),
    ("lora_bias", Only(&["none", "false"], "biases are not trained")),
    ("use_dora", Only(OFF, LORA)),
    ("init_lora_weights", Only(&["true"], "A is random and B zero, as PEFT's true has it")),
    ("fan_in_fan_out", Inert), // PEFT sets it to false for such layers
    ("load_in_8bit", Maps("quantize", IN_8_BITS)),
    ("load_in_4bit", Maps("quantize", &[("true", FOUR_BITS), ("false", ""), ("none", ""), ("", "")])),
    ("bnb_4bit_quant_type", Is("quant_type")),
    ("bnb_4bit_compute_dtype", Inert),
    ("bnb_4bit_quant_storage", Inert),
    ("bnb_4bit_use_double_quant", Is("use_double_quant")),
    ("use_bnb_nested_quant", Is("use_double_quant")),
];

/// LLaMA-Factory's and axolotl's.
const LLAMA_FACTORY: Rows = &[
    ("stage", Only(&["sft"], "records tell by their fields what they are")),
    ("finetuning_type", Maps("full", &[("lora", "false"), ("full", "true")])),
    ("adapter_name_or_path", Is("init_adapter")),
    ("lora_rank", Is("lora_r")),
    ("lora_target", Is("target_modules")),
    ("lora_target_linear", Maps("target_modules", &[("true", "all-linear"), ("false", "")])),
    ("additional_target", Only(NONE, LORA)),
    ("loraplus_lr_ratio", Only(NONE, ADAMW)),
    ("pissa_init", Only(OFF, LORA)),
    ("cutoff_len", Is("max_input_length")),
    ("sequence_len", Is("max_input_length")),
    ("val_size", Is("validation_split_ratio")),
    ("val_set_size", Is("validation_split_ratio")),
    ("max_samples", Only(NONE, "use --max-train-samples and --max-eval-samples")),
    ("train_on_inputs", Is("train_on_prompt")),
    ("mask_history", Only(OFF, "every answer is learned")),
    ("neat_packing", Not("no_packing")),
    ("sample_packing", Not("no_packing")),
    ("disable_shuffling", Is("no_shuffle")),
    ("streaming", Inert),
    ("quantization_bit", Maps("quantize", &[("8", "int8"), ("4", NF4_DOUBLE), ("none", ""), ("null", ""), ("", "")])),
    ("quantization_method", Only(&["bnb", "bitsandbytes"], "bitsandbytes' are the schemes here")),
    ("quantization_type", Is("quant_type")),
    ("double_quantization", Is("use_double_quant")),
    ("compute_accuracy", Only(OFF, EVALUATION)),
    ("plot_loss", Inert), // loss.svg is always there
    ("flash_attn", Inert),
    ("flash_attention", Inert),
    ("use_unsloth", Inert),
    ("base_model", Is("model")),
    ("saves_per_epoch", Only(&["1"], "use --save-every")),
    ("evals_per_epoch", Only(&["1"], "use --eval-every")),
];
