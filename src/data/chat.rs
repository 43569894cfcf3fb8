//! From a conversation to its text, with what is learned of it.

use std::ops::Range;

use serde_json::Value;

use super::tokenize::{Render, Written};
use crate::error::{Error, Result};
use crate::io::tokenizer::Conversation;

/// Writes a conversation, of which what the assistant says is learned, or with `all` the prompts too; a message that is
/// marked by `"weight": 0` or `"train": false` is not. Returns with it a note for each message of the others and each
/// tool that the template left out.
///
/// Where the template has `{% generation %}`, that is what the assistant says. Else the template is asked for every
/// beginning of the conversation, since it alone knows where turns start and end.
///
/// # Errors
/// [`Error::Input`]: a mark that is none, text of the user or the assistant that the template leaves out, a template that
/// rewrites earlier turns. What the template refuses.
pub(super) fn write(conversation: &Conversation, render: &Render, all: bool) -> Result<(Written, Vec<String>)> {
    let is_learned = learned(conversation, all)?;
    let whole = render(conversation, false)?;
    let notes = refuse_lost(conversation, &whole.text)?;
    let turns = Turns { conversation, render, text: &whole.text };
    let unlearned = || (0..is_learned.len()).filter(|&turn| !is_learned[turn]);
    let learned = match &whole.answers {
        _ if all => {
            let said = unlearned().map(|turn| turns.said(turn)).collect::<Result<Vec<_>>>()?;
            between(&said, whole.text.len())
        }
        Some(answers) => {
            let mut answers: Vec<_> = answers.iter().cloned().map(Some).collect();
            for turn in unlearned() {
                answers.get_mut(turns.marked(turn)?).into_iter().flatten().for_each(|answer| *answer = None);
            }
            answers.into_iter().flatten().collect()
        }
        None => {
            let answers = (0..is_learned.len()).filter(|&turn| is_learned[turn] && is_answer(conversation, turn));
            answers.map(|turn| turns.said(turn)).collect::<Result<_>>()?
        }
    };
    let is_exact = all || whole.answers.is_some();
    Ok((Written { text: whole.text, learned, literal: whole.literal, is_exact }, notes))
}

fn is_answer(conversation: &Conversation, turn: usize) -> bool {
    conversation.role(turn) == "assistant"
}

/// What is left of `0..end` without `stretches`.
fn between(stretches: &[Range<usize>], end: usize) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(stretches.iter().map(|stretch| stretch.end));
    let ends = stretches.iter().map(|stretch| stretch.start).chain([end]);
    starts.zip(ends).map(|(start, end)| start..end).collect()
}

/// The turns of a conversation in its text.
struct Turns<'a> {
    conversation: &'a Conversation,
    render: &'a Render<'a>,
    text: &'a str,
}

impl Turns<'_> {
    /// Where the message `turn` stands: of an answer what follows its opening, of another all.
    fn said(&self, turn: usize) -> Result<Range<usize>> {
        let is_answer = is_answer(self.conversation, turn);
        let opening = if turn == 0 && !is_answer { 0 } else { self.beginning(turn, is_answer)? };
        let end = self.beginning(turn + 1, false)?;
        if opening > end { Err(rewritten()) } else { Ok(opening..end) }
    }

    /// How long the text of the first `turns` messages is, with which the whole text must begin.
    fn beginning(&self, turns: usize, opens_answer: bool) -> Result<usize> {
        if turns == self.conversation.messages.len() {
            return Ok(self.text.len());
        }
        let beginning = (self.render)(&self.conversation.beginning(turns), opens_answer)?.text;
        if self.text.starts_with(&beginning) { Ok(beginning.len()) } else { Err(rewritten()) }
    }

    /// Which of the stretches that the template marks as answers are the message `turn`'s.
    fn marked(&self, turn: usize) -> Result<Range<usize>> {
        let count = |turns: usize| match turns {
            0 => Ok(0),
            _ => {
                Ok((self.render)(&self.conversation.beginning(turns), false)?.answers.map_or(0, |marked| marked.len()))
            }
        };
        Ok(count(turn)?..count(turn + 1)?)
    }
}

fn rewritten() -> Error {
    Error::input("messages", "the model's chat template rewrites earlier turns, so the answers cannot be told apart")
        .with_hint("give each answer a record of its own, or write the conversation out as instruction and response")
}

/// Names under which data sets keep whether a message is learned.
const WEIGHTS: [&str; 4] = ["weight", "train", "training", "loss"];
/// Names under which they keep which parts of a message are learned, or how much.
const FINER_WEIGHTS: [&str; 5] = ["train_detail", "training_detail", "loss_scale", "loss_mask", "loss_weight"];

/// Which messages are not marked as not to be learned. One of the others than the assistant may be marked as to be
/// learned only where `all` are.
fn learned(conversation: &Conversation, all: bool) -> Result<Vec<bool>> {
    let is_learned = |turn: usize| {
        let mark = mark(conversation, turn)?;
        if mark == Some(true) && !all && !is_answer(conversation, turn) {
            let detail = format!("is marked as to be learned, and the {} says it", conversation.role(turn));
            return Err(Error::input(format!("messages[{turn}]"), detail).with_hint(
                "only what the assistant says is learned: leave the mark out, or learn all by --train-on-prompt",
            ));
        }
        Ok(mark.unwrap_or(true))
    };
    (0..conversation.messages.len()).map(is_learned).collect()
}

/// Whether the message `turn` is marked as to be learned or not, if it is marked.
fn mark(conversation: &Conversation, turn: usize) -> Result<Option<bool>> {
    let given = |key: &&str| conversation.messages[turn].get(*key).filter(|value| !value.is_null());
    let name = |key: &str| format!("messages[{turn}].{key}");
    if let Some(key) = FINER_WEIGHTS.iter().find(|key| given(key).is_some()) {
        return Err(Error::input(name(key), "is not known: a message is learned as a whole or not at all")
            .with_hint("mark what is not to be learned by \"weight\": 0, or leave the key out"));
    }
    let mut mark = None;
    for (key, weight) in WEIGHTS.iter().filter_map(|key| Some((key, given(key)?))) {
        let is_learned = match (weight.as_bool(), weight.as_f64()) {
            (Some(flag), _) => flag,
            (_, Some(0.0)) => false,
            (_, Some(1.0)) => true,
            _ => return Err(Error::input(name(key), format!("must be 0 or 1, false or true, got {weight}"))),
        };
        mark = Some(is_learned && mark.unwrap_or(true));
    }
    Ok(mark)
}

/// Refuses a conversation of which `text` leaves out what the user or the assistant says. Returns a note for what else
/// it leaves out.
///
/// # Errors
/// [`Error::Input`] naming the message.
pub fn refuse_lost(conversation: &Conversation, text: &str) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for turn in 0..conversation.messages.len() {
        let (role, texts) = (conversation.role(turn), conversation.texts(turn));
        let is_list = conversation.messages[turn].get("content").is_some_and(Value::is_array);
        if is_list && texts.iter().any(|part| is_in_python_list(part, text)) {
            return Err(Error::input(
                format!("messages[{turn}].content"),
                "is a list, and the chat template wants text",
            )
            .with_hint("write the content as one text"));
        }
        let Some(lost) = texts.into_iter().find(|said| !is_found(said, text)) else { continue };
        let detail = format!("the chat template leaves out what the {role} says: {}", abridged(lost));
        if !matches!(role, "user" | "assistant") {
            notes.push(format!("messages[{turn}]: {detail}"));
            continue;
        }
        let hint = match is_list {
            true => "write the content as one text; what is not to be written, leave out of the record",
            false => {
                "some templates want \"content\": [{\"type\": \"text\", \"text\": \"...\"}]; \
                what is not to be written, leave out of the record"
            }
        };
        return Err(Error::input(format!("messages[{turn}].content"), detail).with_hint(hint));
    }
    let name = |tool: &Value| Some(tool.pointer("/function/name").or_else(|| tool.get("name"))?.as_str()?.to_owned());
    let lost = conversation.tools.iter().flatten().filter_map(name).find(|name| !text.contains(name.as_str()));
    notes.extend(lost.map(|name| format!("tools: the chat template leaves out {name}")));
    Ok(notes)
}

/// Whether a part of content stands in `text` as Python writes it where a template adds a list to a text.
fn is_in_python_list(part: &str, text: &str) -> bool {
    let start: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == ' ').collect();
    ['\'', '"'].into_iter().any(|quote| text.contains(&format!("'text': {quote}{start}")))
}

/// Whether what is said is in `text`: as it stands, as a JSON string, or what follows its reasoning.
fn is_found(said: &str, text: &str) -> bool {
    let as_json = |said: &str| serde_json::to_string(said).unwrap_or_default();
    let answer = said.rsplit("</think>").next().unwrap_or(said).trim();
    [said.trim(), as_json(said.trim()).trim_matches('"'), answer].into_iter().any(|said| text.contains(said))
}

/// Enough of a text to recognise it.
fn abridged(text: &str) -> String {
    const CHARS: usize = 40;
    match text.trim().char_indices().nth(CHARS) {
        Some((end, _)) => format!("{:?}…", &text.trim()[..end]),
        None => format!("{:?}", text.trim()),
    }
}
