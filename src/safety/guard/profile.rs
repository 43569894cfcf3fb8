//! What a guard is told, and in which words it answers.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::io::text;

/// The profiles of this binary, by name.
const PROFILES: [(&str, &str); 3] = [
    ("llama-guard-1", include_str!("profiles/llama-guard-1.toml")),
    ("llama-guard-2", include_str!("profiles/llama-guard-2.toml")),
    ("llama-guard-3", include_str!("profiles/llama-guard-3.toml")),
];

/// What must be in a template, once.
const ONCE: [&str; 2] = ["{categories}", "{conversation}"];

/// What a guard is told, and in which words it answers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The guard's name in reports.
    pub name: String,
    /// The prompt, with `{categories}`, `{conversation}`, and `{role}` for who is judged. Control tokens are those that it
    /// spells out.
    pub template: String,
    /// What the roles are called.
    pub roles: Roles,
    /// What stands before the number of a category.
    pub prefix: String,
    /// What is not safe, in the order of their numbers.
    pub categories: Vec<Described>,
    /// The first word of an answer, behind white space, where nothing was found.
    pub safe: String,
    /// The first word of an answer where something was. The codes of what it is are in the next line, between commas.
    pub r#unsafe: String,
}

/// What a guard calls those who speak.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// The user.
    pub user: String,
    /// The model.
    pub agent: String,
}

/// A category as the guard is told of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// What falls under it, in lines below the name.
    pub policy: Option<String>,
}

impl Profile {
    /// The profile of that name, or in that file of TOML.
    ///
    /// # Errors
    /// [`Error::File`] if there is neither, or naming the key in the file that is not as it must be.
    pub fn find(name: &str) -> Result<Self> {
        if let Some((name, text)) = PROFILES.iter().find(|(known, _)| *known == name) {
            return Self::read(Path::new(name), text);
        }
        let path = Path::new(name);
        if let Some(text) = text::read_if_there(path)? {
            return Self::read(path, &text);
        }
        let known: Vec<&str> = PROFILES.iter().map(|(name, _)| *name).collect();
        let hint = format!("profiles are {}, or files of TOML", known.join(", "));
        Err(Error::file(path, "there is no such profile, and no such file").with_hint(hint))
    }

    fn read(path: &Path, text: &str) -> Result<Self> {
        let refuse = |detail: String| Error::file(path, detail);
        let profile: Self = toml::from_str(text).map_err(|e| refuse(e.message().into()))?;
        for placeholder in ONCE {
            let count = profile.template.matches(placeholder).count();
            if count != 1 {
                return Err(refuse(format!("template must have {placeholder} once, it has it {count} times")));
            }
        }
        let texts = [("name", &profile.name), ("safe", &profile.safe), ("unsafe", &profile.r#unsafe)];
        if let Some((key, _)) = texts.iter().find(|(_, value)| value.trim().is_empty()) {
            return Err(refuse(format!("{key} is empty")));
        }
        if profile.categories.is_empty() {
            return Err(refuse("categories is empty".into()));
        }
        Ok(profile)
    }
}
