//! Reads grammar.txt and facts.txt, and writes texts by their rules.
//!
//! - `pool NAME = A | B`: words or sentences to choose from.
//! - `kind NAME`: something to write about. Then, line by line: `SLOT = A | B`, a property; `> A | B`, a fact in several
//!   wordings; `? SLOT = A | B`, questions that this property answers; `A ; B ; C`, true properties in the slots' order,
//!   in place of drawn ones.
//! - `{SLOT}`, `{POOL}`, `{LOW..HIGH}` and `{Word}` (an invented name) stand for a property or for something drawn;
//!   `{he}`, `{his}`, `{him}` agree with each other. `\n` ends a line.

use std::collections::BTreeMap;

use rand::{Rng, RngExt};

/// What there is to write about, and how.
#[derive(Default)]
pub struct Grammar {
    pub pools: BTreeMap<String, Vec<String>>,
    pub kinds: Vec<Kind>,
}

/// One kind of thing.
#[derive(Default)]
pub struct Kind {
    pub name: String,
    slots: Vec<(String, Vec<String>)>,
    /// True values of the slots.
    pub rows: Vec<Vec<String>>,
    /// Each fact in its wordings; the first introduces the thing.
    pub facts: Vec<Vec<String>>,
    /// Slots, each with questions that it answers.
    pub questions: Vec<(String, Vec<String>)>,
}

/// The properties of one thing.
pub type Thing = BTreeMap<String, String>;

impl Grammar {
    /// Adds the rules of `text`.
    pub fn read(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(rule) = line.strip_prefix("pool ") {
                let (name, choices) = assignment(rule);
                self.pools.entry(name).or_default().extend(choices);
            } else if let Some(name) = line.strip_prefix("kind ") {
                self.kinds.push(Kind { name: name.into(), ..Kind::default() });
            } else {
                self.kinds.last_mut().expect("a rule follows a kind").read(line);
            }
        }
    }

    /// A thing of a kind: a true one if the kind lists any, else one that never was.
    pub fn thing(&self, kind: &Kind, rng: &mut impl Rng) -> Thing {
        let mut thing = Thing::new();
        let is_he = rng.random_bool(0.5);
        for (word, [he, she]) in [("he", ["he", "she"]), ("his", ["his", "her"]), ("him", ["him", "her"])] {
            thing.insert(word.into(), if is_he { he } else { she }.into());
        }
        let row = (!kind.rows.is_empty()).then(|| pick(&kind.rows, rng));
        for (i, (slot, choices)) in kind.slots.iter().enumerate() {
            let value = match row {
                Some(row) => row[i].clone(),
                None => self.expand(pick::<String>(choices, rng), &thing, rng),
            };
            if slot == "name" {
                thing.insert("Last".into(), value.split(' ').next_back().unwrap_or_default().into());
            }
            thing.insert(slot.clone(), value);
        }
        thing
    }

    /// Fills the braces of `text`.
    pub fn expand(&self, text: &str, thing: &Thing, rng: &mut impl Rng) -> String {
        let mut written = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').unwrap_or_else(|| panic!("unclosed brace in {text:?}"));
            written += before;
            written += &self.value(name, thing, rng);
            rest = after;
        }
        written + rest
    }

    fn value(&self, name: &str, thing: &Thing, rng: &mut impl Rng) -> String {
        if let Some(value) = thing.get(name) {
            return value.clone();
        }
        if let Some((low, high)) = name.split_once("..") {
            let [low, high] = [low, high].map(|n| n.parse::<u32>().expect("a number"));
            return rng.random_range(low..=high).to_string();
        }
        if name == "Word" {
            return invented(rng);
        }
        let pool = self.pools.get(name).unwrap_or_else(|| panic!("there is no {{{name}}}"));
        self.expand(pick::<String>(pool, rng), thing, rng)
    }
}

impl Kind {
    /// Whether its things never were, so that only a text can tell of them.
    pub fn is_read(&self) -> bool {
        self.rows.is_empty() && !self.facts.is_empty()
    }

    fn read(&mut self, line: &str) {
        if let Some(fact) = line.strip_prefix("> ") {
            self.facts.push(choices(fact));
        } else if let Some(question) = line.strip_prefix("? ") {
            self.questions.push(assignment(question));
        } else if let Some((slot, values)) = line.split_once(" = ") {
            self.slots.push((slot.into(), choices(values)));
        } else {
            let row: Vec<String> = line.split(';').map(|value| value.trim().into()).collect();
            assert_eq!(row.len(), self.slots.len(), "{}: {line}", self.name);
            self.rows.push(row);
        }
    }
}

fn assignment(rule: &str) -> (String, Vec<String>) {
    let (name, values) = rule.split_once(" = ").unwrap_or_else(|| panic!("no ' = ' in {rule:?}"));
    (name.into(), choices(values))
}

fn choices(text: &str) -> Vec<String> {
    text.split(" | ").map(|choice| choice.trim().replace("\\n", "\n")).collect()
}

/// One of `items`.
pub fn pick<'a, T>(items: &'a [T], rng: &mut impl Rng) -> &'a T {
    &items[rng.random_range(0..items.len())]
}

/// A name that nobody has.
fn invented(rng: &mut impl Rng) -> String {
    const ONSETS: [&str; 24] = [
        "b", "br", "c", "ch", "d", "f", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "r", "s", "sh", "st", "t", "th",
        "v", "w", "",
    ];
    const VOWELS: [&str; 6] = ["a", "e", "i", "o", "u", "ea"];
    const CODAS: [&str; 8] = ["", "", "", "", "n", "r", "l", "s"];
    let mut word = String::new();
    for _ in 0..*pick(&[2, 2, 2, 2, 3], rng) {
        for part in [&ONSETS[..], &VOWELS, &CODAS] {
            word += *pick(part, rng);
        }
    }
    capitalized(&word)
}

/// `text` with a capital first letter.
pub fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
