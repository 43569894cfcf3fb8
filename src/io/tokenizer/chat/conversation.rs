//! What a template is given.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::io::json::kind;

/// A conversation, and what stands beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Objects with a `role`, mostly a `content`, and what else the template knows; keys in their order.
    pub messages: Vec<Map<String, Value>>,
    /// The tools that may be called, as JSON Schemas; `None` where there is no talk of tools.
    pub tools: Option<Vec<Value>>,
    /// The documents to answer from.
    pub documents: Option<Vec<Value>>,
}

impl Conversation {
    /// Reads a list of messages, or an object of `messages` with `tools` and `documents`.
    ///
    /// # Errors
    /// [`Error::Input`] naming what is not as it must be.
    pub fn from_json(value: Value) -> Result<Self> {
        let Value::Object(mut fields) = value else { return Self::new(value, None, None) };
        let mut take = |name| fields.shift_remove(name);
        let (messages, tools, documents) = (take("messages"), take("tools"), take("documents"));
        if let Some(other) = fields.keys().next() {
            return Err(Error::input(other, "is not known beside messages, tools and documents"));
        }
        Self::new(messages.unwrap_or_default(), tools, documents)
    }

    /// Checks a list of messages, and lists of tools and documents if there are any. A string in the place of one of the
    /// latter two is JSON, as some data sets keep them.
    ///
    /// # Errors
    /// [`Error::Input`] naming what is not as it must be.
    pub fn new(messages: Value, tools: Option<Value>, documents: Option<Value>) -> Result<Self> {
        let Value::Array(messages) = messages else {
            return Err(Error::input("messages", format!("must be a list, got {}", kind(&messages))).with_hint(FORM));
        };
        if messages.is_empty() {
            return Err(Error::input("messages", "holds no message"));
        }
        let messages = messages.into_iter().enumerate().map(|(i, each)| message(i, each));
        Ok(Self {
            messages: messages.collect::<Result<_>>()?,
            tools: list("tools", tools)?,
            documents: list("documents", documents)?,
        })
    }

    /// The first `turns` messages, and what stands beside them.
    #[must_use]
    pub fn beginning(&self, turns: usize) -> Self {
        let messages = self.messages.iter().take(turns).cloned().collect();
        Self { messages, tools: self.tools.clone(), documents: self.documents.clone() }
    }

    /// Who says the message `turn`.
    pub fn role(&self, turn: usize) -> &str {
        self.messages.get(turn).and_then(|message| message.get("role")).and_then(Value::as_str).unwrap_or_default()
    }

    /// The texts of the message `turn`: its content, or its content's parts.
    pub fn texts(&self, turn: usize) -> Vec<&str> {
        match self.messages.get(turn).and_then(|message| message.get("content")) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
            _ => Vec::new(),
        }
    }
}

const FORM: &str = "messages are a list of objects like {\"role\": \"user\", \"content\": \"...\"}";

fn message(index: usize, message: Value) -> Result<Map<String, Value>> {
    let name = format!("messages[{index}]");
    let Value::Object(fields) = message else {
        return Err(Error::input(name, format!("must be an object, got {}", kind(&message))).with_hint(FORM));
    };
    match fields.get("role") {
        Some(Value::String(_)) => {}
        Some(other) => {
            return Err(Error::input(name, format!("role must be text, got {}", kind(other))).with_hint(FORM));
        }
        None => {
            let keys = fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Error::input(name, format!("has no role; it has [{keys}]")).with_hint(FORM));
        }
    }
    check_content(fields.get("content").unwrap_or(&Value::Null))
        .map_err(|detail| Error::input(format!("{name}.content"), detail))?;
    Ok(fields)
}

/// Content is text, nothing, or a list of parts that are text.
fn check_content(content: &Value) -> Result<(), String> {
    let parts = match content {
        Value::Null | Value::String(_) => return Ok(()),
        Value::Array(parts) => parts,
        other => return Err(format!("must be text, null or a list of parts of text, got {}", kind(other))),
    };
    for (i, part) in parts.iter().enumerate() {
        match (part.get("type").map(Value::as_str), part.get("text")) {
            (None | Some(Some("text")), Some(Value::String(_))) => {}
            (None | Some(Some("text")), _) => return Err(format!("part {i} has no text")),
            (Some(other), _) => {
                return Err(format!("part {i} is of type {:?}; only text is known", other.unwrap_or("?")));
            }
        }
    }
    Ok(())
}

/// The list in the field `name`, which may be written as JSON in a string.
fn list(name: &str, value: Option<Value>) -> Result<Option<Vec<Value>>> {
    let refuse = |got: &str| Error::input(name, format!("must be a list of objects, got {got}"));
    let value = match value {
        Some(Value::String(text)) => serde_json::from_str(&text).map_err(|_| refuse("text that is no JSON"))?,
        other => other.unwrap_or_default(),
    };
    match value {
        Value::Null => Ok(None),
        Value::Array(items) => match items.iter().find(|item| !item.is_object()) {
            Some(item) => Err(refuse(&format!("{} in it", kind(item)))),
            None => Ok(Some(items)),
        },
        other => Err(refuse(kind(&other))),
    }
}
