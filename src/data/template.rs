//! Prompts, byte for byte as others write them, and templates that a user brings.

use std::path::Path;

use serde::Deserialize;

use super::fields::Fields;
use super::records::Example;
use super::rows::Place;
use crate::error::{Error, Result};
use crate::io::text;

/// What JumpStart puts between prompt and completion when it trains, and its clients when they ask.
pub const DEMARCATION: &str = "\n\n### Response:\n";

const INTRO: &str = "Below is an instruction that describes a task. \
    Write a response that appropriately completes the request.";
const INTRO_WITH_CONTEXT: &str = "Below is an instruction that describes a task, paired with an input that provides further context. \
    Write a response that appropriately completes the request.";

/// The prompt that a record's fields are known by, and what it is taken for: Dolly's get JumpStart's, Alpaca's get Alpaca's.
pub(super) fn instruction(fields: &Fields, demarcation: bool, place: &Place) -> Result<(&'static str, Example)> {
    let is_dolly = fields.has("response");
    if !is_dolly && !fields.has("output") {
        return Err(place.refuse(format!("there is neither \"response\" nor \"output\"; there are {fields}")));
    }
    let (context, answer) = if is_dolly { ("context", "response") } else { ("input", "output") };
    let strangers = if is_dolly { ["input", "output"] } else { ["context", "response"] };
    if let Some(stranger) = strangers.iter().find(|name| fields.has(name)) {
        return Err(place
            .refuse(format!("{fields} mix Dolly's names with Alpaca's: {answer:?} does not go with {stranger:?}"))
            .with_hint(
                "rename them to instruction, context, response or to instruction, input, output; or give a --template",
            ));
    }
    let instruction = fields.text("instruction", place)?;
    let context = fields.text_or_empty(context, place)?;
    let answer = fields.text(answer, place)?;
    Ok(if is_dolly {
        ("Dolly records", jumpstart(instruction, context, answer, demarcation))
    } else {
        ("Alpaca records", alpaca(instruction, context, answer))
    })
}

/// The template of Amazon's SageMaker notebook for JumpStart's Llama 2, and its like where there is no context.
pub fn jumpstart(instruction: &str, context: &str, response: &str, demarcation: bool) -> Example {
    let prompt = match context {
        "" => format!("{INTRO}\n\n### Instruction:\n{instruction}\n\n"),
        _ => format!("{INTRO_WITH_CONTEXT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{context}\n\n"),
    };
    demarcated(prompt, format!(" {response}"), demarcation)
}

/// Stanford Alpaca's prompt, as llama-recipes has it: the output follows the last colon.
pub fn alpaca(instruction: &str, input: &str, output: &str) -> Example {
    let prompt = match input {
        "" => format!("{INTRO}\n\n### Instruction:\n{instruction}\n\n### Response:"),
        _ => format!("{INTRO_WITH_CONTEXT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"),
    };
    Example::Completion { prompt, completion: output.to_owned() }
}

fn demarcated(mut prompt: String, completion: String, demarcation: bool) -> Example {
    if demarcation {
        prompt.push_str(DEMARCATION);
    }
    Example::Completion { prompt, completion }
}

/// A prompt and a completion with `{field}`s to fill in; `{{` and `}}` are braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    prompt: Vec<Piece>,
    completion: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field(String),
}

impl Template {
    /// Reads JumpStart's template.json: an object of `prompt` and `completion`.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read, has other keys, or a brace is not closed.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Json {
            prompt: String,
            completion: String,
        }
        let hint =
            r#"a template is {"prompt": "... {instruction} ...", "completion": "{response}"}; {{ and }} are braces"#;
        let json: Json = text::json(path, &text::read(path)?, 0).map_err(|e| e.or_hint(hint))?;
        let pieces = |name: &str, text: &str| {
            pieces(text).map_err(|detail| Error::file(path, format!("{name}: {detail}")).with_hint(hint))
        };
        Ok(Self { prompt: pieces("prompt", &json.prompt)?, completion: pieces("completion", &json.completion)? })
    }

    /// The example that a record makes.
    pub(super) fn fill(&self, fields: &Fields, demarcation: bool, place: &Place) -> Result<Example> {
        let fill = |pieces: &[Piece]| -> Result<String> {
            let texts = pieces.iter().map(|piece| match piece {
                Piece::Literal(text) => Ok(text.as_str().into()),
                Piece::Field(name) if fields.has(name) => fields.written(name, place),
                Piece::Field(name) => {
                    Err(place.refuse(format!("the template's {{{name}}} is missing; there are {fields}")))
                }
            });
            texts.collect()
        };
        Ok(demarcated(fill(&self.prompt)?, fill(&self.completion)?, demarcation))
    }
}

/// Reads the braces of `text` as Python's `str.format` does, plain names alone.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        let (brace, after) = rest[at..].split_at(1);
        if let Some(after) = after.strip_prefix(brace) {
            literal.push_str(brace);
            rest = after;
        } else if let (true, Some((name, after))) = (brace == "{", after.split_once('}')) {
            refuse_odd_name(name)?;
            pieces.extend([Piece::Literal(std::mem::take(&mut literal)), Piece::Field(name.to_owned())]);
            rest = after;
        } else {
            return Err(format!("the {brace} before {:?} has no partner", after.chars().take(12).collect::<String>()));
        }
    }
    literal.push_str(rest);
    pieces.push(Piece::Literal(literal));
    Ok(pieces)
}

fn refuse_odd_name(name: &str) -> Result<(), String> {
    let is_name = !name.is_empty() && !name.contains(['{', ':', '!', '[']);
    if is_name { Ok(()) } else { Err(format!("{{{name}}} is not the plain name of a field")) }
}
