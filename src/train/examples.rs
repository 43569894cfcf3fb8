//! From files of records to the sequences of a run.

use std::path::{Path, PathBuf};

use super::options::{DataOptions, Options};
use crate::data::records::{self, Example, Prompting, Record};
use crate::data::split::split;
use crate::data::tokenize::{Report, Tokenizing, tokenize};
use crate::error::{Error, Result};
use crate::io::model::ModelFiles;
use crate::io::tokenizer::Tokenizer;
use crate::models::llama::LlamaConfig;
use crate::nn::Sequence;

/// The sequences of a run.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// To learn from.
    pub training: Vec<Sequence>,
    /// To evaluate on; may be none.
    pub evaluation: Vec<Sequence>,
}

impl Examples {
    /// Reads the training data, and either the evaluation data or a part of the training data in its place. `note` is
    /// told what became of the records.
    ///
    /// # Errors
    /// Those of [`read`].
    pub fn read(
        train: &Path,
        eval: Option<&Path>,
        options: &Options,
        files: &ModelFiles,
        note: &dyn Fn(&str),
    ) -> Result<Self> {
        if files.ends().is_empty() {
            note("the model has no end-of-text token: no answer is taught to end, and generation goes on to its limit");
        }
        let mut data = options.data.clone();
        data.template = data.template.or_else(|| folder_template(train));
        let (sequences, report) = read(train, &data, files)?;
        note(&format!("{}: {report}", train.display()));
        let mut examples = match eval {
            Some(eval) => {
                let (evaluation, report) = read(eval, &data, files)?;
                note(&format!("{}: {report}", eval.display()));
                Self { training: sequences, evaluation }
            }
            None => {
                let unread = train.join("validation");
                if unread.exists() {
                    note(&format!("{} is not read: name it with --eval", unread.display()));
                }
                let (ratio, seed) = (options.validation_split_ratio, options.train_data_split_seed);
                let (training, evaluation) = split(sequences, ratio, seed);
                Self { training, evaluation }
            }
        };
        shorten(&mut examples.training, options.max_train_samples);
        shorten(&mut examples.evaluation, options.max_eval_samples);
        note(&examples.summary());
        Ok(examples)
    }

    fn summary(&self) -> String {
        let (training, evaluation) = (self.training.len(), self.evaluation.len());
        let training = format!("training on {training} sequences of {} tokens", tokens(&self.training));
        match evaluation {
            0 => format!("{training}, without evaluation"),
            _ => format!("{training}, evaluating on {evaluation} of {}", tokens(&self.evaluation)),
        }
    }
}

/// How many tokens they have together.
pub(super) fn tokens(sequences: &[Sequence]) -> usize {
    sequences.iter().map(|sequence| sequence.input_ids.len()).sum()
}

fn shorten(sequences: &mut Vec<Sequence>, most: usize) {
    if most > 0 {
        sequences.truncate(most);
    }
}

/// The template that a JumpStart folder brings.
pub(super) fn folder_template(path: &Path) -> Option<PathBuf> {
    Some(path.join("template.json")).filter(|template| path.is_dir() && template.exists())
}

/// The token that answers are taught to end with: the tokenizer's EOS, as where PEFT trains, else another at which
/// generation stops.
fn learned_end(tokenizer: &Tokenizer, config: &LlamaConfig) -> Option<u32> {
    tokenizer.eos().or_else(|| tokenizer.ends(&config.eos_token_ids).first().copied())
}

/// Reads and tokenizes the records of `path` for the model of `files`.
///
/// # Errors
/// Those of [`records::read`] and [`tokenize`]; [`Error::Input`] if longer sequences are asked for than the model takes.
pub fn read(path: &Path, options: &DataOptions, files: &ModelFiles) -> Result<(Vec<Sequence>, Report)> {
    let config = files.config();
    let max_input_length = options.length(config)?;
    let prompting = Prompting { template: options.template.clone(), demarcation: !options.no_demarcation };
    let (records, reading) = records::read(path, &prompting)?;
    let is_text = records.iter().any(|record| !matches!(record.example, Example::Tokens { .. }));
    let tokenizer = is_text.then(|| files.tokenizer()).transpose()?.map(|found| found.with_date(options.date));
    let needed = || tokenizer.as_ref().ok_or_else(|| Error::input("tokenizer", "data of input_ids has none"));
    let eos_token_id = tokenizer.as_ref().and_then(|tokenizer| learned_end(tokenizer, config));
    let is_ended = |record: &Record| matches!(record.example, Example::Completion { .. } | Example::Text(_));
    if let (Some(tokenizer), Some(eos), true) = (&tokenizer, eos_token_id, records.iter().any(is_ended)) {
        tokenizer.refuse_beyond(&[eos], config.vocab_size)?;
    }
    let end_token_ids = tokenizer.as_ref().map(|tokenizer| tokenizer.ends(&config.eos_token_ids)).unwrap_or_default();
    let how = Tokenizing {
        encode: &|text, literal, add_special| {
            let tokens = needed()?.encode_spans(text, literal, add_special)?;
            let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            needed()?.refuse_beyond(&ids, config.vocab_size)?;
            Ok(tokens)
        },
        render: &|messages, add_generation_prompt| needed()?.apply_chat_template(messages, add_generation_prompt),
        eos_token_id,
        end_token_ids: &end_token_ids,
        vocab_size: config.vocab_size,
        max_input_length,
        train_on_prompt: options.train_on_prompt,
    };
    let (sequences, report) = tokenize(&records, &how)?;
    Ok((sequences, Report { reading, ..report }))
}
