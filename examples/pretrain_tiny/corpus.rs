//! The texts that the tiny Llama reads: an endless stream from a seed.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::grammar::{Grammar, Kind, Thing, capitalized, pick};

/// A stream of texts.
pub struct Corpus {
    grammar: Grammar,
    /// What no text may contain, in lower case.
    held_out: Vec<String>,
    rng: ChaCha8Rng,
}

/// A question, its answer, and what it can be read from.
pub struct Asked {
    pub question: String,
    pub answer: String,
}

/// What is known of some things of a kind.
#[derive(Default)]
struct Passage {
    text: String,
    in_other_words: String,
    asked: Vec<Asked>,
}

impl Corpus {
    /// A stream that `seed` alone determines.
    pub fn new(seed: u64) -> Self {
        let mut grammar = Grammar::default();
        grammar.read(include_str!("grammar.txt"));
        grammar.read(include_str!("facts.txt"));
        let held_out = include_str!("../../assets/dolly_sample/eval.jsonl").lines().flat_map(held_out).collect();
        Self { grammar, held_out, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The next text.
    pub fn text(&mut self) -> String {
        self.next(Self::any_text)
    }

    /// One to three names, over and over.
    pub fn chant(&mut self) -> String {
        self.next(|corpus| {
            let count = corpus.rng.random_range(1..=3);
            let names: Vec<String> = (0..count).map(|_| corpus.fill("person", &[])).collect();
            let line = format!(" {}.", names.join(" "));
            line.repeat(8).trim_start().into()
        })
    }

    /// The next of what `write` writes that tells nothing of the held-out records.
    fn next(&mut self, write: impl Fn(&mut Self) -> String) -> String {
        loop {
            let text = write(self);
            let lower = text.to_lowercase();
            if !self.held_out.iter().any(|held_out| lower.contains(held_out)) {
                return text;
            }
        }
    }

    fn any_text(&mut self) -> String {
        let is_read = self.rng.random_bool(0.75);
        let kind = loop {
            let kind = self.rng.random_range(0..self.grammar.kinds.len());
            if self.grammar.kinds[kind].is_read() == is_read {
                break kind;
            }
        };
        let text = match is_read {
            true => self.reading(kind),
            false if self.grammar.kinds[kind].facts.is_empty() || self.rng.random_bool(0.5) => self.questions(kind),
            false => self.knowledge(kind),
        };
        with_an(&text)
    }

    /// A text and a question that it answers, without the answer.
    pub fn exam(&mut self) -> (String, String) {
        loop {
            let kind = self.rng.random_range(0..self.grammar.kinds.len());
            if let (true, Passage { text, asked, .. }) = (self.grammar.kinds[kind].is_read(), self.passage(kind, 1))
                && let Some(Asked { question, answer }) = asked.into_iter().next()
            {
                return (with_an(&format!("{text} {question}")), answer);
            }
        }
    }

    /// A text about something that never was, and mostly questions that only the text can answer.
    fn reading(&mut self, kind: usize) -> String {
        let things = if self.rng.random_bool(0.2) { 2 } else { 1 };
        let Passage { text, in_other_words, mut asked } = self.passage(kind, things);
        asked.shuffle(&mut self.rng);
        match (self.rng.random_range(0..100), asked.split_first()) {
            (0..40, Some(_)) => join([text, self.answers(&asked)]),
            (0..75, Some((first, rest))) => {
                let answered = self.frame("before", &[("passage", &text)], first);
                join([answered, self.answers(&rest[..rest.len().min(2)])])
            }
            (0..92, _) => self.fill("quote", &[("passage", &text)]),
            _ => self.fill("retell", &[("passage", &text), ("retold", &in_other_words)]),
        }
    }

    /// Questions about what is known by heart.
    fn questions(&mut self, kind: usize) -> String {
        let asked = (0..3).flat_map(|_| {
            let mut asked = self.passage(kind, 1).asked;
            asked.shuffle(&mut self.rng);
            asked.truncate(2);
            asked
        });
        let asked: Vec<Asked> = asked.collect();
        self.answers(&asked)
    }

    /// Some of what is known by heart.
    fn knowledge(&mut self, kind: usize) -> String {
        join((0..3).map(|_| self.passage(kind, 1).text))
    }

    fn passage(&mut self, kind: usize, things: usize) -> Passage {
        let Self { grammar, rng, .. } = self;
        let kind = &grammar.kinds[kind];
        let mut passage = Passage::default();
        for _ in 0..things {
            let thing = grammar.thing(kind, rng);
            let mut facts: Vec<&Vec<String>> = kind.facts.iter().skip(1).collect();
            facts.shuffle(rng);
            facts.truncate(rng.random_range(1..=facts.len().max(1)).div_ceil(things));
            facts.splice(0..0, kind.facts.first());
            let worded: Vec<&String> = facts.iter().map(|wordings| pick(wordings, rng)).collect();
            let sentences = worded.iter().map(|wording| sentence(grammar, wording, &thing, rng));
            passage.text = join([std::mem::take(&mut passage.text), join(sentences)]);
            let sentences = facts.iter().map(|wordings| sentence(grammar, pick::<String>(wordings, rng), &thing, rng));
            passage.in_other_words = join([std::mem::take(&mut passage.in_other_words), join(sentences)]);
            passage.asked.extend(ask(grammar, kind, &worded, &thing, things > 1, rng));
        }
        passage
    }

    /// Most of `asked`, one after the other, each answered.
    fn answers(&mut self, asked: &[Asked]) -> String {
        let most = asked.len().min(4);
        let count = self.rng.random_range(most.min(2)..=most);
        join(asked[..count].iter().map(|asked| self.frame("after", &[], asked)))
    }

    fn frame(&mut self, pool: &str, slots: &[(&str, &str)], Asked { question, answer }: &Asked) -> String {
        let asked = [("question", question.as_str()), ("answer", answer), ("Answer", &capitalized(answer))];
        self.fill(pool, &[slots, &asked].concat())
    }

    fn fill(&mut self, pool: &str, slots: &[(&str, &str)]) -> String {
        let slots: Thing = slots.iter().map(|&(slot, value)| (slot.into(), value.into())).collect();
        self.grammar.expand(&format!("{{{pool}}}"), &slots, &mut self.rng)
    }
}

/// Of a record that the model is to be tested with: its question, the sentences that it is answered from, and its
/// answer where it is a sentence or a name. "Five" or "blue" may be read.
pub fn held_out(line: &str) -> Vec<String> {
    let record: serde_json::Value = serde_json::from_str(line).expect("the sample is JSON lines");
    let [question, context, answer] =
        ["instruction", "context", "response"].map(|key| record[key].as_str().unwrap_or(""));
    let is_telling = answer.split(' ').count() > 2 || context.contains(answer) && answer.contains(char::is_uppercase);
    let sentences = context.split_inclusive(". ").chain([question]).chain(is_telling.then_some(answer));
    let sentences = sentences.map(|sentence| sentence.trim().trim_end_matches('.').to_lowercase());
    sentences.filter(|sentence| !sentence.is_empty()).collect()
}

fn join(texts: impl IntoIterator<Item = String>) -> String {
    let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    texts.join(" ").replace(" \n", "\n")
}

/// A sentence or a few, now and then with the name in place of a pronoun.
fn sentence(grammar: &Grammar, wording: &str, thing: &Thing, rng: &mut ChaCha8Rng) -> String {
    let is_person = thing.contains_key("short");
    let wording = match wording.strip_prefix(if is_person { "{he} " } else { "It " }) {
        Some(rest) if rng.random_bool(0.3) && thing.contains_key("name") => format!("{{name}} {rest}"),
        _ => wording.into(),
    };
    let text = grammar.expand(&wording, thing, rng);
    text.split(". ").map(capitalized).collect::<Vec<_>>().join(". ")
}

/// The questions that sentences of these wordings answer.
fn ask(
    grammar: &Grammar,
    kind: &Kind,
    wordings: &[&String],
    thing: &Thing,
    among_others: bool,
    rng: &mut ChaCha8Rng,
) -> Vec<Asked> {
    let is_by_heart = !kind.rows.is_empty() || kind.facts.is_empty();
    let said = |slot: &str| is_by_heart || wordings.iter().any(|wording| wording.contains(&format!("{{{slot}}}")));
    let mut asked = Vec::new();
    for (slot, questions) in kind.questions.iter().filter(|(slot, _)| said(slot)) {
        let is_clear = |question: &&String| {
            let slots = question.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(slot, _)| slot);
            let is_known =
                slots.clone().all(|slot| ["short", "his", "he", "him", "name"].contains(&slot) || said(slot));
            is_known && (!among_others || slots.count() > 0)
        };
        let questions: Vec<&String> = questions.iter().filter(is_clear).collect();
        if !questions.is_empty() {
            let question = capitalized(&grammar.expand(pick::<&String>(&questions, rng), thing, rng));
            asked.push(Asked { question, answer: thing[slot].clone() });
        }
    }
    asked
}

/// `text` with "an" before vowels.
fn with_an(text: &str) -> String {
    let mut words: Vec<String> = text.split(' ').map(String::from).collect();
    for i in 1..words.len() {
        let has_vowel = words[i].starts_with(['a', 'e', 'i', 'o', 'A', 'E', 'I', 'O']);
        if has_vowel && matches!(words[i - 1].as_str(), "a" | "A") {
            words[i - 1].push('n');
        }
    }
    words.join(" ")
}
