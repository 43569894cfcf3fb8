//! `{% generation %}`: what a template says that the model is to generate.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::marks::{CLOSE, OPEN};

/// The filter that [`enclose`] writes.
pub(super) const FILTER: &str = "generation";

/// A comment, or a tag with its control of blanks.
static TAG: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?s)\{#.*?#\}|\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").ok());

/// Returns a template without the tags `{% generation %}` and `{% endgeneration %}`, and whether it had any. What was
/// between them has a scope of its own, as in jinja2, and goes through the filter [`FILTER`]. Two tags stand for one, so
/// that blanks and line ends around it are kept or dropped as before.
pub(super) fn enclose(source: &str) -> (Cow<'_, str>, bool) {
    let Some(tag) = &*TAG else { return (source.into(), false) };
    let replaced = tag.replace_all(source, |found: &Captures<'_>| match (found.get(1), found.get(2), found.get(3)) {
        (Some(before), None, Some(after)) => {
            format!("{{%{} with %}}{{% filter {FILTER} {}%}}", before.as_str(), after.as_str())
        }
        (Some(before), Some(_), Some(after)) => {
            format!("{{%{} endfilter %}}{{% endwith {}%}}", before.as_str(), after.as_str())
        }
        _ => found[0].to_owned(),
    });
    let has_tags = tag.captures_iter(source).any(|found| found.get(1).is_some());
    (replaced, has_tags)
}

/// What [`FILTER`] does: it marks its text.
pub(super) fn mark(text: &str) -> String {
    format!("{OPEN}{text}{CLOSE}")
}
