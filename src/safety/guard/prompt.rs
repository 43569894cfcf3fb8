//! A profile's template with a conversation in it.

use std::ops::Range;

use super::super::{Category, Role, Turn};
use super::Profile;

/// What a guard reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The text, with control tokens spelled out.
    pub text: String,
    /// Where in it, in bytes, what looks like a control token is what somebody said.
    pub literal: Vec<Range<usize>>,
    /// The categories that it lists.
    pub codes: Vec<Category>,
}

impl Profile {
    /// What the guard reads of `turns` to judge what `role` says last in them.
    pub fn prompt(&self, turns: &[Turn], role: Role) -> Prompt {
        let number = |(i, described): (usize, &super::profile::Described)| Category {
            code: format!("{}{}", self.prefix, i + 1),
            name: described.name.trim().trim_end_matches('.').into(),
        };
        let codes: Vec<Category> = self.categories.iter().enumerate().map(number).collect();
        let mut prompt = Prompt { text: String::new(), literal: Vec::new(), codes: codes.clone() };
        let mut rest = &self.template[..];
        while let Some((before, placeholder, after)) = next_placeholder(rest) {
            prompt.text.push_str(before);
            match placeholder {
                "{role}" => prompt.text.push_str(self.role(role)),
                "{categories}" => {
                    for (i, (category, described)) in codes.iter().zip(&self.categories).enumerate() {
                        let between = if i > 0 { "\n" } else { "" };
                        prompt.text.push_str(&format!("{between}{}: ", category.code));
                        prompt.say(&described.name);
                        if let Some(policy) = &described.policy {
                            prompt.text.push('\n');
                            prompt.say(policy);
                        }
                    }
                }
                _ => {
                    for (i, turn) in turns.iter().enumerate() {
                        let between = if i > 0 { "\n\n" } else { "" };
                        prompt.text.push_str(&format!("{between}{}: ", self.role(turn.role)));
                        prompt.say(&turn.text);
                    }
                }
            }
            rest = after;
        }
        prompt.text.push_str(rest);
        prompt
    }

    fn role(&self, role: Role) -> &str {
        match role {
            Role::User => &self.roles.user,
            Role::Agent => &self.roles.agent,
        }
    }
}

impl Prompt {
    /// Appends what is text whatever it looks like.
    fn say(&mut self, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        self.literal.push(start..self.text.len());
    }
}

/// The text before the first placeholder, that, and the text behind it.
fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let known = ["{role}", "{categories}", "{conversation}"];
    let found = known.into_iter().filter_map(|name| Some((text.find(name)?, name)));
    let (at, name) = found.min()?;
    Some((text.get(..at)?, name, text.get(at + name.len()..)?))
}
