//! Chat templates: how a conversation is written as one text.

mod conversation;
mod date;
mod generation;
mod jinja;
mod json;
mod marks;
mod methods;
mod percent;
mod python;
mod templates;

use std::ops::Range;
use std::sync::OnceLock;

pub use conversation::Conversation;
pub use date::now;
use jiff::civil::DateTime;
use marks::{any_text, is_mark, mark_fields};
use serde_json::{Map, Value};
use templates::Template;
pub(super) use templates::{Templates, of_folder};

use super::Tokenizer;
use crate::error::{Error, Result};

/// A conversation as a template writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text, with special tokens spelled out.
    pub text: String,
    /// Where in it, in bytes, what looks like a special token is what somebody said.
    pub literal: Vec<Range<usize>>,
    /// What the template says that the model is to generate, in bytes; `None` if it has no `{% generation %}`.
    pub answers: Option<Vec<Range<usize>>>,
}

impl Tokenizer {
    /// Makes `date` the time that chat templates take for now. Without one it is that of the tokenizer's making.
    #[must_use]
    pub fn with_date(self, date: Option<DateTime>) -> Self {
        Self { date: date.unwrap_or(self.date), templates: OnceLock::new(), ..self }
    }

    /// Writes a conversation as transformers does by the model's chat template: [encode](Self::encode_spans) it without
    /// adding special tokens. Of several templates it is `tool_use` if there are tools, else `default`.
    /// `add_generation_prompt` ends the text with what comes before an answer.
    ///
    /// # Errors
    /// [`Error::File`] if the tokenizer has no such template, or the template refuses the messages.
    pub fn apply_chat_template(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<Rendered> {
        let refuse = |detail: String| Error::file(&self.path, detail);
        let templates = self.templates.get_or_init(|| Templates::new(self));
        let template = templates.choose(conversation.tools.is_some()).map_err(|detail| {
            refuse(detail).with_hint("give the text itself as a prompt, or use the model's instruction-tuned version")
        })?;
        let given = given(conversation);
        let says = |test: &dyn Fn(&str) -> bool| given.values().any(|value| any_text(value, test));
        if says(&|text| text.contains(is_mark)) {
            return Err(Error::input("messages", "hold U+FDD0, U+FDD1 or U+FDD2, which are no characters"));
        }
        let plain = template.render(&given, add_generation_prompt).map_err(refuse)?;
        let special = templates.special_tokens.iter().map(String::as_str);
        let spelled: Vec<&str> = special.filter(|token| says(&|text| text.contains(token))).collect();
        let literal = spelled_in(&plain.text, &template, &given, &spelled, add_generation_prompt);
        Ok(Rendered { literal, answers: template.has_generation().then_some(plain.enclosed), text: plain.text })
    }
}

/// Where in `text`, which `template` makes of `given`, it is `given` that spells one of `tokens`. If the text were another
/// without a token, the template looks for this token, which is then its own.
fn spelled_in(
    text: &str,
    template: &Template<'_>,
    given: &Map<String, Value>,
    tokens: &[&str],
    add_generation_prompt: bool,
) -> Vec<Range<usize>> {
    if tokens.is_empty() {
        return Vec::new();
    }
    let marked = template.render(&mark_fields(given, tokens), add_generation_prompt);
    match (marked, tokens) {
        (Ok(marked), _) if marked.text == text => marked.spelled(tokens),
        (_, [_]) => Vec::new(),
        _ => {
            let each =
                tokens.iter().flat_map(|token| spelled_in(text, template, given, &[token], add_generation_prompt));
            let mut all: Vec<Range<usize>> = each.collect();
            all.sort_by_key(|stretch| (stretch.start, stretch.end));
            all
        }
    }
}

/// What a template gets of a conversation.
fn given(conversation: &Conversation) -> Map<String, Value> {
    let list = |items: &Option<Vec<Value>>| items.clone().map_or(Value::Null, Value::Array);
    let messages = conversation.messages.iter().map(|message| Value::Object(without_nulls(message))).collect();
    [("messages", messages), ("tools", list(&conversation.tools)), ("documents", list(&conversation.documents))]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// A message as transformers passes it on: what is null is left out, and reasoning stands under each of the names that
/// templates ask for.
fn without_nulls(message: &Map<String, Value>) -> Map<String, Value> {
    let said = |(_, value): &(&String, &Value)| !value.is_null();
    let reasoning = ["reasoning_content", "thinking", "reasoning"];
    let reasoning =
        reasoning.into_iter().find_map(|name| message.get_key_value(name).filter(said)).map(|(_, text)| text);
    let named = |name: &str| reasoning.map(|text| (name.to_owned(), text.clone()));
    let mut given = Map::from_iter(named("thinking"));
    given.extend(message.iter().filter(said).map(|(name, value)| (name.clone(), value.clone())));
    given.extend(named("reasoning_content"));
    given
}
