//! Llama Guard: a Llama that reads a conversation with a list of categories, and writes whether it is safe.
//!
//! Inan et al. 2023, <https://arxiv.org/abs/2312.06674>. What differs between guards is data: a [`Profile`].

mod profile;
mod prompt;
mod verdict;

pub use profile::Profile;
pub use prompt::Prompt;
pub use verdict::{Scores, scores};

use super::{Category, Checker, Judgement, Role, Turn, Verdict, judged};
use crate::device::host;
use crate::error::{Error, Result};
use crate::generate::{Reading, argmax};
use crate::io::tokenizer::Tokenizer;
use crate::models::llama::Llama;

/// How many tokens a guard may write.
const ANSWER: usize = 100;

/// The share of probability that the two verdicts must have together: a model that says something else is no guard.
const KNOWN: f64 = 0.5;

/// A checker that is a Llama.
#[derive(Debug)]
pub struct Guard<'a> {
    model: &'a Llama,
    tokenizer: &'a Tokenizer,
    profile: Profile,
    reading: Reading,
    /// The probability of "unsafe", of the two, from which on it counts.
    threshold: f64,
}

impl<'a> Guard<'a> {
    /// A guard of that profile, which calls unsafe what it finds to be so with a probability of at least `threshold`.
    ///
    /// # Errors
    /// [`Error::Input`] if the threshold is no probability.
    pub fn new(model: &'a Llama, tokenizer: &'a Tokenizer, profile: Profile, threshold: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&threshold) {
            return Err(Error::input("--threshold", format!("must be from 0 to 1, got {threshold}")));
        }
        Ok(Self { model, tokenizer, profile, reading: Reading::default(), threshold })
    }

    /// How many tokens it has computed: of texts that begin alike, the beginning once.
    pub fn computed(&self) -> usize {
        self.reading.computed()
    }

    fn look(&mut self, turns: &[Turn], role: Role) -> Result<Judgement> {
        let turns = judged(turns, role)?;
        let Prompt { text, literal, codes } = self.profile.prompt(turns, role);
        let tokens = self.tokenizer.encode_spans(&text, &literal, true)?;
        let prompt: Vec<u32> = tokens.into_iter().map(|token| token.id).collect();
        self.tokenizer.refuse_beyond(&prompt, self.model.config().vocab_size)?;
        let (needed, context) = (prompt.len() + ANSWER, self.model.config().context());
        if needed > context {
            let limit = self.model.config().limit();
            let detail = format!("it takes {needed} tokens with its verdict, more than the model's {limit}");
            return Err(Error::input("conversation", detail).with_hint("judge a shorter one"));
        }
        let Self { model, tokenizer, reading, profile, .. } = self;
        let mut next = |said: &[u32]| reading.read(model, &[&prompt, said].concat());
        let words = [&profile.safe[..], &profile.r#unsafe];
        let found = scores(words, &mut next, &|ids| tokenizer.decode(ids, false))?;
        let [safe, not] = found.each;
        if (safe + not).is_nan() || safe + not < KNOWN {
            let detail = format!("says neither {:?} nor {:?} with a probability of {KNOWN}", words[0], words[1]);
            return Err(Error::input("the guard", detail).with_hint("is it a guard of this profile?"));
        }
        let (score, checker) = (not / (safe + not), profile.name.clone());
        let verdict = if score < self.threshold {
            Verdict::Safe
        } else {
            Verdict::Unsafe { categories: self.categories(&prompt, found.path, &codes)? }
        };
        Ok(Judgement { checker, verdict, score: Some(score), tokens: prompt.len() })
    }

    /// The categories that the guard names behind its verdict, of those in its prompt; one that is not among them is told too.
    fn categories(&mut self, prompt: &[u32], mut said: Vec<u32>, codes: &[Category]) -> Result<Vec<Category>> {
        let ends = self.tokenizer.ends(&self.model.config().eos_token_ids);
        while said.len() < ANSWER {
            let id = argmax(&self.reading.read(self.model, &[prompt, &said].concat())?);
            if ends.contains(&id) || self.tokenizer.special_token(id).is_some() {
                break;
            }
            said.push(id);
        }
        let text = self.tokenizer.decode(&said, true)?;
        let named = text.trim_start().lines().nth(1).unwrap_or_default().split(',').map(str::trim);
        let category = |code: &str| {
            let known = codes.iter().find(|category| category.code == code).cloned();
            known.unwrap_or_else(|| Category { code: code.into(), name: "not a category of the prompt".into() })
        };
        Ok(named.filter(|code| !code.is_empty()).map(category).collect())
    }
}

impl Checker for Guard<'_> {
    fn name(&self) -> &str {
        &self.profile.name
    }

    fn judge(&mut self, turns: &[Turn], role: Role) -> Result<Judgement> {
        host::in_pool(|| self.look(turns, role))
    }
}
