//! What may be said: checkers that judge a conversation, and what their judgements come to.
//!
//! A text is safe only where every checker ran, saw all of it and called it safe. An error, a panic, a number that is none, a
//! verdict that is not known: each is "cannot judge", which is never safe. Where nobody was asked nothing is safe either.

pub mod guard;

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Who asks.
    User,
    /// Who answers, a model.
    Agent,
}

/// What somebody said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who.
    pub role: Role,
    /// What.
    pub text: String,
}

/// The turns that are looked at when `role` is judged: up to its last one. What a model answers is judged with what it was
/// asked; what it was asked, without the answer.
///
/// # Errors
/// [`Error::Input`] if `role` says nothing, if a turn is empty, or if a model is judged whom nobody asked.
pub fn judged(turns: &[Turn], role: Role) -> Result<&[Turn]> {
    let last = turns.iter().rposition(|turn| turn.role == role);
    let seen = last.and_then(|last| turns.get(..=last));
    let seen = seen.ok_or_else(|| Error::input("conversation", "who is judged says nothing in it"))?;
    if seen.iter().any(|turn| turn.text.trim().is_empty()) {
        return Err(Error::input("conversation", "a turn in it is empty"));
    }
    if seen.iter().any(|turn| turn.role == Role::User) {
        return Ok(seen);
    }
    Err(Error::input("conversation", "what the agent answers cannot be judged without what it was asked"))
}

/// A category of what is not safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Category {
    /// What the checker calls it for short.
    pub code: String,
    /// What it is, or that the checker was not told of it.
    pub name: String,
}

/// What a checker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// All of it was seen, and nothing found.
    Safe,
    /// Something was found.
    Unsafe {
        /// What it is of, as far as the checker tells.
        categories: Vec<Category>,
    },
    /// Nothing can be said, so it is not safe.
    CannotJudge {
        /// The reason.
        why: String,
    },
}

/// What a checker says of a conversation, and what it is based on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// The name of the checker.
    pub checker: String,
    /// What it says.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The probability that it is not safe, of a checker that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The tokens that it was shown, all of the conversation among them.
    pub tokens: usize,
}

/// One that judges conversations.
pub trait Checker {
    /// What it is called in reports.
    fn name(&self) -> &str;

    /// Judges what `role` says last in a conversation.
    ///
    /// # Errors
    /// Whatever keeps it from judging.
    fn judge(&mut self, turns: &[Turn], role: Role) -> Result<Judgement>;
}

/// What every checker says; one that fails or panics cannot judge.
pub fn judge(checkers: &mut [Box<dyn Checker + '_>], turns: &[Turn], role: Role) -> Vec<Judgement> {
    let ask = |checker: &mut Box<dyn Checker + '_>| {
        let done = catch_unwind(AssertUnwindSafe(|| checker.judge(turns, role)));
        let why = match done {
            Ok(Ok(judgement)) => return judgement,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the checker panicked".into(),
        };
        Judgement { checker: checker.name().into(), verdict: Verdict::CannotJudge { why }, score: None, tokens: 0 }
    };
    checkers.iter_mut().map(ask).collect()
}

/// What the judgements of all checkers come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every checker said so.
    Safe,
    /// A checker found something.
    Unsafe,
    /// A checker could not judge, and none found anything.
    CannotJudge,
    /// There is no checker.
    Unchecked,
}

impl Outcome {
    /// What `judgements` come to.
    pub fn of(judgements: &[Judgement]) -> Self {
        let found = |verdict: fn(&Verdict) -> bool| judgements.iter().any(|judgement| verdict(&judgement.verdict));
        if found(|verdict| matches!(verdict, Verdict::Unsafe { .. })) {
            Self::Unsafe
        } else if found(|verdict| matches!(verdict, Verdict::CannotJudge { .. })) {
            Self::CannotJudge
        } else if judgements.is_empty() {
            Self::Unchecked
        } else {
            Self::Safe
        }
    }
}
