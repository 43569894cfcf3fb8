//! Conversations as ShareGPT's collections have them: a list `conversations` of `from` and `value`.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::rows::Place;
use crate::error::Result;

/// ShareGPT's names of those who speak, and chat templates'.
const ROLES: [(&str, &str); 6] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("chatgpt", "assistant"),
    ("system", "system"),
];

/// The messages of a record's `conversations`, after one of its `system` where it has that.
pub(super) fn messages(fields: &Fields, place: &Place) -> Result<Value> {
    let turns: Option<Vec<Map<String, Value>>> = fields.list("conversations", "objects of from and value", place)?;
    let system = fields.text_or_empty("system", place)?;
    let system = (!system.is_empty()).then(|| Ok(json!({ "role": "system", "content": system })));
    system.into_iter().chain(turns.into_iter().flatten().map(|turn| message(turn, place))).collect()
}

/// A turn with its keys in their order: `from` and `value` as `role` and `content`, the others as they are.
fn message(turn: Map<String, Value>, place: &Place) -> Result<Value> {
    let rename = |(key, value): (String, Value)| match key.as_str() {
        "from" => {
            let role = ROLES.iter().find(|(from, _)| value.as_str() == Some(from)).map(|(_, role)| Value::from(*role));
            let unknown = || {
                place
                    .refuse(format!("field \"conversations\": from {value} is not known"))
                    .with_hint("from is human, gpt or system; write what others say as messages of role and content")
            };
            Ok(("role".to_owned(), role.ok_or_else(unknown)?))
        }
        "value" => Ok(("content".to_owned(), value)),
        _ => Ok((key, value)),
    };
    turn.into_iter().map(rename).collect::<Result<Map<_, _>>>().map(Value::Object)
}
