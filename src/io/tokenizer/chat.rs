//! Chat templates: how a conversation is written as one text.

use std::io::Write;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Tokenizer;
use crate::error::{Error, Result};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// Tokens that templates may name.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Tokenizer {
    /// Writes a conversation as the model's chat template has it, with special tokens spelled out: [encode](Self::encode)
    /// it without adding any. `add_generation_prompt` ends it with what comes before an answer.
    ///
    /// # Errors
    /// [`Error::File`] if the tokenizer has no chat template, or the template refuses the messages.
    pub fn apply_chat_template(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let source = self.chat_template().ok_or_else(|| {
            Error::file(&self.path, "has no chat template")
                .with_hint("give the text itself as a prompt, or use the model's instruction-tuned version")
        })?;
        let tokens = SPECIAL_TOKENS.iter().filter_map(|name| Some((*name, self.special(name)?)));
        let tokens = minijinja::Value::from_pairs(tokens);
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let messages: minijinja::Value = messages.iter().map(message).collect();
        let values = context! { messages, add_generation_prompt, tools => (), documents => (), ..tokens };
        let environment = environment();
        let text = environment.template_from_str(source).and_then(|template| template.render(values));
        text.map_err(|e| Error::file(&self.path, format!("chat template: {e}")))
    }

    /// The config's template; of several, the one named `default`.
    fn chat_template(&self) -> Option<&str> {
        match self.config.get("chat_template")? {
            Value::Array(named) => {
                let default =
                    named.iter().find(|template| template.get("name").is_some_and(|name| name == "default"))?;
                default.get("template")?.as_str()
            }
            template => template.as_str(),
        }
    }
}

/// Jinja as transformers sets it up.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let blocks = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(blocks.unwrap_or_default());
    environment.set_unknown_method_callback(pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: &str| strftime(SystemTime::now(), format));
    environment.add_filter("tojson", to_json);
    environment
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &minijinja::Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut json = Vec::new();
    let written = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, OneLine)),
        Some(indent) => {
            let indent = " ".repeat(indent.min(64));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter))
        }
    };
    let refused = |e: String| minijinja::Error::new(ErrorKind::BadSerialization, e);
    written.map_err(|e| refused(e.to_string()))?;
    String::from_utf8(json).map_err(|e| refused(e.to_string()))
}

/// A space after each comma and colon.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `time` in UTC, written as C's `strftime` does.
fn strftime(time: SystemTime, format: &str) -> Result<String, minijinja::Error> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, weekday) = (MONTHS[month - 1], WEEKDAYS[(days % 7) as usize]);
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        let code = if c == '%' {
            rest.next().unwrap_or('%')
        } else {
            text.push(c);
            continue;
        };
        text += &match code {
            'Y' => year.to_string(),
            'y' => format!("{:02}", year % 100),
            'm' => format!("{month:02}"),
            'B' => month_name.to_owned(),
            'b' => month_name[..3].to_owned(),
            'd' => format!("{day:02}"),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' => format!("{:02}", second / 3600),
            'M' => format!("{:02}", second / 60 % 60),
            'S' => format!("{:02}", second % 60),
            '%' => "%".to_owned(),
            other => return Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: %{other}"))),
        };
    }
    Ok(text)
}

/// Year, month and day of the day `days` after 1 January 1970.
///
/// Source: Howard Hinnant, `civil_from_days`, <https://howardhinnant.github.io/date_algorithms.html>.
fn civil(days: u64) -> (u64, usize, u64) {
    let days = days + 719_468; // since 1 March of year 0
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // from March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month as usize, day)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::strftime;

    #[test]
    fn dates_are_the_calendars() {
        for (seconds, expected) in [
            (0, "Thursday Thu 01 January Jan 1970 70 01 00:00:00"),
            (951_825_599, "Tuesday Tue 29 February Feb 2000 00 02 11:59:59"),
            (1_767_225_599, "Wednesday Wed 31 December Dec 2025 25 12 23:59:59"),
            (4_107_542_400, "Monday Mon 01 March Mar 2100 00 03 00:00:00"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime(time, "%A %a %d %B %b %Y %y %m %H:%M:%S").unwrap(), expected);
        }
        assert_eq!(strftime(SystemTime::UNIX_EPOCH, "é 100%% %").unwrap(), "é 100% %");
    }
}
