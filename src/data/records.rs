//! Files of records, and folders as JumpStart lays them out. What a record is, its fields say.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::fields::Fields;
use super::reading::{Reading, TEMPLATE};
use super::rows::{self, Place, has_extension, is_table};
use super::sharegpt;
use super::template::{self, Template};
use crate::error::{Error, Result};
use crate::io::missing;
use crate::io::tokenizer::Conversation;

const FORMS: &str = "records are instruction, context, response (Dolly); instruction, input, output (Alpaca); \
    messages (chat); conversations (ShareGPT); prompt, completion; input_ids, labels (tokens); or text: \
    rename the fields, or give a --template like {\"prompt\": \"{question}\", \"completion\": \"{answer}\"}";

/// One example, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// For messages.
    pub place: Place,
    /// What it says.
    pub example: Example,
}

/// What is learned from a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// A text that follows another.
    Completion {
        /// What is given.
        prompt: String,
        /// What is to be said.
        completion: String,
    },
    /// A conversation, to be written in the model's own chat template; what the assistant says is learned.
    Chat(Conversation),
    /// A text, learned as a whole.
    Text(String),
    /// Tokens, learned where their labels are not -100.
    Tokens {
        /// `[T]`
        input_ids: Vec<u32>,
        /// `[T]`; without them all tokens are learned.
        labels: Option<Vec<i32>>,
    },
}

/// How records of named fields become prompts.
#[derive(Clone, Debug)]
pub struct Prompting {
    /// A file like JumpStart's template.json; without it a folder's own, or the prompt its fields are known by.
    pub template: Option<PathBuf>,
    /// Whether JumpStart's `\n\n### Response:\n` stands between prompt and completion, as at its inference. Alpaca's
    /// prompt is not touched.
    pub demarcation: bool,
}

impl Default for Prompting {
    fn default() -> Self {
        Self { template: None, demarcation: true }
    }
}

/// Reads the records of `path`: a file of JSON lines, one JSON array, a `.csv` or `.tsv` with a header, a `.txt` (one
/// text); or a JumpStart folder: `train.jsonl` with its `template.json` if it has one, or else its only csv, json or txt.
///
/// # Errors
/// [`Error::File`], which names the line and the field: what cannot be read or parsed, a record of no known form or of
/// several, a field that is missing or not of its type, one that changes what is learned and is not read; data without
/// records.
pub fn read(path: &Path, prompting: &Prompting) -> Result<(Vec<Record>, Reading)> {
    std::fs::metadata(path).map_err(|e| missing::unopened(path, e))?;
    let folder = path.is_dir().then(|| Folder::open(path)).transpose()?;
    let own = folder.as_ref().and_then(|folder| folder.template.as_deref());
    let template = prompting.template.as_deref().or(own);
    let file = folder.as_ref().map_or(path, |folder| &folder.data);
    let reader = Reader {
        template: template.map(Template::read).transpose()?,
        form: template.map(|file| format!("{TEMPLATE} {}", file.display())).unwrap_or_default(),
        demarcation: prompting.demarcation,
        is_plain: folder.as_ref().is_some_and(|folder| folder.is_plain) || is_table(file),
    };
    let (rows, separator) = rows::read(file)?;
    if rows.is_empty() {
        return Err(Error::file(file, "holds no records"));
    }
    let mut reading = Reading { separator, ..Reading::default() };
    let records = rows.into_iter().map(|(place, fields)| reader.record(place, &fields, &mut reading));
    Ok((records.collect::<Result<_>>()?, reading))
}

/// A JumpStart folder.
struct Folder {
    data: PathBuf,
    template: Option<PathBuf>,
    /// Domain adaptation: a record of unknown fields is a text, its first field.
    is_plain: bool,
}

impl Folder {
    fn open(path: &Path) -> Result<Self> {
        let template = Some(path.join("template.json")).filter(|file| file.exists());
        let train = path.join("train.jsonl");
        if train.exists() {
            return Ok(Self { data: train, template, is_plain: false });
        }
        let entries = std::fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut files: Vec<PathBuf> = entries.map_err(|e| Error::io(path, e))?.iter().map(|e| e.path()).collect();
        let is_arrow = |file: &PathBuf| has_extension(file, "arrow") || has_extension(file, "parquet");
        if files.iter().any(|file| is_arrow(file) || file.ends_with("dataset_dict.json")) {
            return Err(Error::file(path, "holds Arrow or Parquet files").with_hint(
                "write them as JSON lines: datasets.load_from_disk(FOLDER)[\"train\"].to_json(\"train.jsonl\")",
            ));
        }
        files.retain(|file| {
            ["csv", "json", "txt"].iter().any(|e| has_extension(file, e)) && !file.ends_with("template.json")
        });
        match &mut files[..] {
            [data] => Ok(Self { data: std::mem::take(data), template, is_plain: true }),
            _ => Err(Error::file(path, format!("holds no train.jsonl and {} csv, json or txt files", files.len()))
                .with_hint(
                    "a JumpStart folder holds train.jsonl and template.json, or one csv, json or txt of plain text",
                )),
        }
    }
}

struct Reader {
    template: Option<Template>,
    /// What records are taken for that go through the template.
    form: String,
    demarcation: bool,
    is_plain: bool,
}

impl Reader {
    fn record(&self, place: Place, fields: &Fields, reading: &mut Reading) -> Result<Record> {
        let (form, example) = match &self.template {
            Some(template) => (self.form.as_str().into(), template.fill(fields, self.demarcation, &place)?),
            None => self.known(fields, &place)?,
        };
        reading.count(&form, fields, &place)?;
        Ok(Record { place, example })
    }

    /// The example in a record that its field names tell, and what it is taken for.
    fn known(&self, fields: &Fields, place: &Place) -> Result<(Cow<'static, str>, Example)> {
        let marks: Vec<&str> = ["input_ids", "messages", "conversations", "instruction"]
            .into_iter()
            .filter(|name| fields.has(name))
            .collect();
        match marks[..] {
            ["input_ids"] => Ok(("tokens".into(), tokens(fields, place)?)),
            ["messages"] => {
                Ok(("chat".into(), chat(fields.get("messages").cloned().unwrap_or_default(), fields, place)?))
            }
            ["conversations"] => Ok(("ShareGPT chat".into(), chat(sharegpt::messages(fields, place)?, fields, place)?)),
            ["instruction"] => {
                let (form, example) = template::instruction(fields, self.demarcation, place)?;
                Ok((form.into(), example))
            }
            [] if fields.has("prompt") && fields.has("completion") => {
                let [prompt, completion] = ["prompt", "completion"].map(|name| fields.text(name, place));
                let (prompt, completion) = (prompt?.to_owned(), completion?.to_owned());
                Ok(("prompt and completion".into(), Example::Completion { prompt, completion }))
            }
            [] if fields.has("text") => Ok(("text".into(), text(fields, "text", place)?)),
            [] if self.is_plain => match fields.only() {
                Some(only) => Ok((format!("text, the field {only:?}").into(), text(fields, only, place)?)),
                None => Err(place.refuse(format!("{fields} make no known record")).with_hint(format!(
                    "no first column is learned alone, as JumpStart does it: call the one of a text \"text\"; {FORMS}"
                ))),
            },
            [] => Err(place.refuse(format!("{fields} make no known record")).with_hint(FORMS)),
            _ => Err(place.refuse(format!("has {} at once", marks.join(" and "))).with_hint(FORMS)),
        }
    }
}

fn text(fields: &Fields, name: &str, place: &Place) -> Result<Example> {
    Ok(Example::Text(fields.text(name, place)?.to_owned()))
}

fn tokens(fields: &Fields, place: &Place) -> Result<Example> {
    let input_ids: Vec<u32> = fields.list("input_ids", "token ids", place)?.unwrap_or_default();
    let labels: Option<Vec<i32>> = fields.list("labels", "token ids or -100", place)?;
    if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != input_ids.len()) {
        let (ids, labels) = (input_ids.len(), labels.len());
        return Err(place.refuse(format!("field \"labels\" must be as long as \"input_ids\", {ids}, got {labels}")));
    }
    if fields.list::<u8>("attention_mask", "0 and 1", place)?.is_some_and(|mask| mask.contains(&0)) {
        return Err(place
            .refuse("field \"attention_mask\" hides tokens")
            .with_hint("leave padding out: none is needed"));
    }
    Ok(Example::Tokens { input_ids, labels })
}

fn chat(messages: Value, fields: &Fields, place: &Place) -> Result<Example> {
    let [tools, documents] = ["tools", "documents"].map(|name| fields.get(name).cloned());
    Conversation::new(messages, tools, documents).map(Example::Chat).map_err(|e| place.blame(e))
}
