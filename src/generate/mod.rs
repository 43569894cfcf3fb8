//! Text from a model: prefill, then one token at a time over a cache of keys and values.

mod reading;
mod sampler;
mod stop;

use std::time::Instant;

pub use reading::Reading;
pub use sampler::{Sampler, Sampling, argmax};
use stop::StopFilter;

use crate::autograd::{Tensor, no_grad};
use crate::device::{Graphs, host};
use crate::error::{Error, Result};
use crate::io::tokenizer::Tokenizer;
use crate::models::llama::Llama;
use crate::nn::KvCache;
use crate::ops::attention::Segments;

/// How long a text grows and how its tokens are chosen.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// New tokens at most.
    pub max_new_tokens: usize,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Strings that end the text; they are not part of it. Special tokens in them are matched, though a text has none.
    pub stop: Vec<String>,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model produced one of the tokens that end a text or a turn.
    Eos,
    /// `max_new_tokens`, or the model's context, was reached.
    Length,
    /// One of the stop strings appeared.
    Stop,
}

/// What was generated.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Generation {
    /// The new text, without a stop string or the end-of-text token.
    pub text: String,
    /// The new tokens, the end-of-text token included.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// New tokens after the first, which comes with the prompt, over the time they took; 0 if there are none.
    pub tokens_per_second: f64,
    /// Tokens that were one launch, on a device that was asked for [`use_graphs`](crate::device::Device::use_graphs).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph_launches: Option<u64>,
}

/// Continues `prompt`, handing each piece of text to `emit` as soon as it is certain. It ends at every token that the
/// model's configuration or the tokenizer knows as an end.
///
/// # Errors
/// [`Error::Input`] if the prompt is empty or fills the model's context, or if logits are not finite, naming the cause.
pub fn generate(
    model: &Llama,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    emit: &mut (dyn FnMut(&str) + Send),
) -> Result<Generation> {
    host::in_pool(|| stream(model, tokenizer, prompt, options, emit))
}

fn stream(
    model: &Llama,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    emit: &mut dyn FnMut(&str),
) -> Result<Generation> {
    let mut decoder = tokenizer.stream(true);
    let mut filter = StopFilter::new(&options.stop);
    let mut text = String::new();
    let mut emit = |piece: String| {
        emit(&piece);
        text.push_str(&piece);
    };
    let mut stopped = false;
    let mut tokens = Tokens::new(model, prompt, options)?;
    tokens.ends = tokenizer.ends(&model.config().eos_token_ids);
    let finish = loop {
        let id = match tokens.next()? {
            Err(reason) => break reason,
            Ok(id) => id,
        };
        stopped = match tokenizer.special_token(id) {
            Some(token) => filter.push_special(&token, || decoder.flush(), &mut emit)?,
            None => filter.push(&decoder.push(id)?, &mut emit),
        };
        if stopped {
            break FinishReason::Stop;
        }
    };
    if !stopped {
        filter.finish(&decoder.finish()?, &mut emit);
    }
    let tokens_per_second = tokens.ids.len().saturating_sub(1) as f64 / tokens.start.elapsed().as_secs_f64();
    let (token_ids, prompt_tokens) = (tokens.ids, prompt.len());
    let graph_launches = tokens.graphs.launches();
    Ok(Generation { text, token_ids, finish_reason: finish, prompt_tokens, tokens_per_second, graph_launches })
}

/// The `count` tokens that follow `prompt`, an end of text included and passed over.
///
/// # Errors
/// As [`generate`].
pub fn continue_tokens(model: &Llama, prompt: &[u32], count: usize, sampling: Sampling) -> Result<Vec<u32>> {
    let options = GenerateOptions { max_new_tokens: count, sampling, stop: Vec::new() };
    host::in_pool(|| {
        let mut tokens = Tokens::new(model, prompt, &options)?;
        while tokens.next()?.is_ok() {}
        Ok(tokens.ids)
    })
}

/// A generation in progress.
struct Tokens<'a> {
    model: &'a Llama,
    /// Where it ends.
    ends: Vec<u32>,
    cache: KvCache,
    graphs: Graphs,
    logits: Vec<f32>,
    sampler: Sampler,
    left: usize,
    ids: Vec<u32>,
    start: Instant,
}

impl<'a> Tokens<'a> {
    fn new(model: &'a Llama, prompt: &[u32], options: &GenerateOptions) -> Result<Self> {
        let context = model.config().context();
        if prompt.is_empty() {
            return Err(Error::input("--prompt", "the prompt has no tokens").with_hint("give some text"));
        }
        if prompt.len() >= context {
            let detail = format!("{} tokens fill the model's {}", prompt.len(), model.config().limit());
            return Err(Error::input("--prompt", detail).with_hint("shorten the prompt"));
        }
        let left = options.max_new_tokens.min(context - prompt.len());
        let mut cache = model.cache(prompt.len() + left)?;
        let mut graphs = Graphs::new(&model.device());
        let logits = next_logits(model, prompt, &mut cache, &mut graphs)?;
        let sampler = Sampler::new(options.sampling)?;
        let (ends, ids) = (Vec::new(), Vec::new());
        Ok(Self { model, ends, cache, graphs, logits, sampler, left, ids, start: Instant::now() })
    }

    /// The next token, or why there is none.
    fn next(&mut self) -> Result<std::result::Result<u32, FinishReason>> {
        if self.left == 0 {
            return Ok(Err(FinishReason::Length));
        }
        if let (Some(&last), true) = (self.ids.last(), self.logits.is_empty()) {
            self.logits = next_logits(self.model, &[last], &mut self.cache, &mut self.graphs)?;
        }
        let id = self.sampler.choose(&self.logits);
        self.logits.clear();
        self.ids.push(id);
        self.left -= 1;
        Ok(if self.ends.contains(&id) { Err(FinishReason::Eos) } else { Ok(id) })
    }
}

/// Appends `ids` to the cache; the logits of the token after them.
fn next_logits(model: &Llama, ids: &[u32], cache: &mut KvCache, graphs: &mut Graphs) -> Result<Vec<f32>> {
    let shape = (ids.len(), Segments::launch_shape(cache.rows() + ids.len()));
    let logits = graphs.run(shape, || {
        no_grad(|| {
            let hidden = model.hidden_cached(&Tensor::from_slice(&model.device(), [ids.len()], ids)?, cache)?;
            model.logits(&hidden.copy_rows(ids.len() - 1..ids.len())?)
        })
    })?;
    let logits = logits.to_vec::<f32>()?;
    match logits.iter().enumerate().find(|(_, logit)| !logit.is_finite()) {
        Some((token, &logit)) => Err(not_finite(model, token, logit, cache.rows())?),
        None => Ok(logits),
    }
}

/// The error of a logit that is no number a token could be chosen by.
fn not_finite(model: &Llama, token: usize, logit: f32, rows: usize) -> Result<Error> {
    let detail = format!("after {rows} tokens the logit of token {token} is {logit}");
    Ok(match model.first_weight_not_finite()? {
        Some(name) => Error::input("model", format!("{detail}; the first weight that is not finite is {name}"))
            .with_hint("the weights are damaged or were trained too fast: fetch or train them again"),
        None => Error::input("model", format!("{detail}, though all weights are finite"))
            .with_hint("some activation is too large; try --dtype f32"),
    })
}
