//! From texts to tokens and labels.

use std::fmt;
use std::ops::Range;

use rayon::prelude::*;

use super::chat;
use super::reading::Reading;
use super::records::{Example, Record};
use super::rows::Place;
use crate::error::{Error, Result};
use crate::io::tokenizer::{Conversation, Rendered, Token};
use crate::nn::Sequence;
use crate::ops::cross_entropy::IGNORE_INDEX;

/// A text to tokens with their places, as [`Tokenizer::encode_spans`](crate::io::tokenizer::Tokenizer::encode_spans) does.
pub type Encode<'a> = dyn Fn(&str, &[Range<usize>], bool) -> Result<Vec<Token>> + Sync + 'a;

/// A conversation to text by the model's chat template, with the opening of the assistant's next turn or without.
pub type Render<'a> = dyn Fn(&Conversation, bool) -> Result<Rendered> + Sync + 'a;

/// How texts become sequences.
pub struct Tokenizing<'a> {
    /// The tokenizer. Data of `input_ids` never asks it.
    pub encode: &'a Encode<'a>,
    /// The chat template. Only conversations ask it.
    pub render: &'a Render<'a>,
    /// What is put after a completion or a text, where the model has such a token.
    pub eos_token_id: Option<u32>,
    /// The tokens at which generation stops: an answer of a conversation is over at the last of them.
    pub end_token_ids: &'a [u32],
    /// V; ids must be below.
    pub vocab_size: usize,
    /// The most tokens of a sequence; at least 2.
    pub max_input_length: usize,
    /// Whether the prompt is learned too.
    pub train_on_prompt: bool,
}

/// A text with the stretches of it, in bytes and in order, that differ from the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Prompt and answers, as one text.
    pub text: String,
    /// What is learned.
    pub learned: Vec<Range<usize>>,
    /// Where special tokens are text.
    pub literal: Vec<Range<usize>>,
    /// Whether `learned` is to the byte what is learned: a token of which any byte is in it is supervised, and none is
    /// left out.
    pub is_exact: bool,
}

/// Tokenizes `records`, in their order.
///
/// - Prompt and answer are one text to the tokenizer, as they are when the model is used; a token is supervised if all
///   of it stands in the answer. One that crosses the border belongs to the prompt.
/// - A completion gets what the tokenizer puts before a text, and EOS behind it, which is supervised.
/// - A conversation is written by the model's chat template. What that marks by `{% generation %}` is supervised, every
///   token that has a part in it; in a template without the tag, of an assistant's turn all that follows its opening, up
///   to and with the template's own end token, if it has one, else to the turn's end. A message marked by `"weight": 0`
///   or `"train": false` is not supervised.
/// - A text becomes as many sequences as it takes; each but the first begins with the last token of the one before, so
///   that every token but the very first is predicted once.
/// - Any other sequence longer than `max_input_length` is cut on the right. One without a supervised token is skipped.
///
/// # Errors
/// [`Error::File`] naming the record: what the tokenizer or the template refuses, an id or label outside the vocabulary,
/// a chat template that rewrites earlier turns; no supervised token in all of the data.
/// [`Error::Input`] if `max_input_length` is below 2.
pub fn tokenize(records: &[Record], how: &Tokenizing) -> Result<(Vec<Sequence>, Report)> {
    if how.max_input_length < 2 {
        return Err(Error::input("--max-input-length", format!("must be at least 2, got {}", how.max_input_length)));
    }
    let sequences: Vec<Result<_>> = records.par_iter().map(|record| how.sequences(record)).collect();
    let mut report = Report { records: records.len(), max_input_length: how.max_input_length, ..Report::default() };
    let mut kept = Vec::new();
    for (record, sequences) in records.iter().zip(sequences) {
        let (sequences, notes) = sequences?;
        report.left_out.extend(notes.into_iter().map(|note| (record.place.clone(), note)));
        for sequence in sequences {
            kept.extend(report.count(sequence, &record.place));
        }
    }
    match (kept.is_empty(), records.first()) {
        (true, Some(first)) => Err(report.nothing_left(&first.place)),
        _ => Ok((kept, report)),
    }
}

impl Tokenizing<'_> {
    fn sequences(&self, record: &Record) -> Result<(Vec<Sequence>, Vec<String>)> {
        let mut notes = Vec::new();
        let whole = self.whole(&record.example, &mut notes).and_then(|sequence| self.checked(sequence));
        let whole = whole.map_err(|e| record.place.blame(e))?;
        let sequences = match record.example {
            Example::Text(_) => self.windows(&whole.input_ids).map(supervised).collect(),
            _ => vec![whole],
        };
        Ok((sequences, notes))
    }

    /// The sequence of an example of any length. `notes` is told what a chat template left out.
    fn whole(&self, example: &Example, notes: &mut Vec<String>) -> Result<Sequence> {
        match example {
            Example::Text(text) => self.ended(text.clone(), 0),
            Example::Completion { prompt, completion } => {
                let border = if self.train_on_prompt { 0 } else { prompt.len() };
                self.ended(format!("{prompt}{completion}"), border)
            }
            Example::Chat(conversation) => {
                let (mut written, left_out) = chat::write(conversation, self.render, self.train_on_prompt)?;
                notes.extend(left_out);
                let tokens = (self.encode)(&written.text, &written.literal, false)?;
                if !written.is_exact {
                    written.learned = self.until_end(&tokens, written.learned);
                }
                Ok(labelled(&tokens, &written))
            }
            Example::Tokens { input_ids, labels: None } => Ok(supervised(input_ids)),
            Example::Tokens { input_ids, labels: Some(labels) } => {
                Ok(Sequence { input_ids: input_ids.clone(), labels: labels.clone() })
            }
        }
    }

    /// A text that is learned from `border` on, with its end, which the tokenizer may have put there, or the record itself.
    fn ended(&self, text: String, border: usize) -> Result<Sequence> {
        let mut tokens = (self.encode)(&text, &[], true)?;
        let is_end = |token: &Token| Some(token.id) == self.eos_token_id;
        tokens.pop_if(|last| is_end(last) && last.span.is_empty());
        tokens.pop_if(|last| is_end(last));
        let learned = std::iter::once(border..text.len()).collect();
        let mut sequence = labelled(&tokens, &Written { text, learned, ..Written::default() });
        let end = supervised(self.eos_token_id.as_slice());
        sequence.input_ids.extend(end.input_ids);
        sequence.labels.extend(end.labels);
        Ok(sequence)
    }

    /// What is learned of the stretches `learned`: an answer is over at the end token, as what the template writes after
    /// it is never generated.
    fn until_end(&self, tokens: &[Token], learned: Vec<Range<usize>>) -> Vec<Range<usize>> {
        let ends: Vec<&Token> = tokens.iter().filter(|token| self.end_token_ids.contains(&token.id)).collect();
        let over = |stretch: Range<usize>| match ends.iter().rev().find(|end| is_within(&end.span, &stretch)) {
            Some(end) => stretch.start..end.span.end,
            None => stretch,
        };
        learned.into_iter().map(over).collect()
    }

    /// Stretches of `max_input_length` that overlap by one token.
    fn windows<'a>(&self, ids: &'a [u32]) -> impl Iterator<Item = &'a [u32]> {
        let (length, stride) = (self.max_input_length, self.max_input_length - 1);
        let starts = (0..ids.len().saturating_sub(1).max(1)).step_by(stride);
        starts.map(move |start| ids.get(start..ids.len().min(start + length)).unwrap_or_default())
    }

    /// Refuses ids and labels that the model does not know.
    fn checked(&self, sequence: Sequence) -> Result<Sequence> {
        let is_known = |id: usize| id < self.vocab_size;
        if let Some(id) = sequence.input_ids.iter().find(|&&id| !is_known(id as usize)) {
            return Err(Error::input(
                "input_ids",
                format!("{id} is outside the model's vocabulary of {}", self.vocab_size),
            ));
        }
        let is_label = |label: i32| label == IGNORE_INDEX || usize::try_from(label).is_ok_and(is_known);
        match sequence.labels.iter().find(|&&label| !is_label(label)) {
            Some(label) => Err(Error::input(
                "labels",
                format!("{label} is neither -100 nor in the model's vocabulary of {}", self.vocab_size),
            )),
            None => Ok(sequence),
        }
    }
}

/// `tokens`, supervised where they stand wholly in a stretch that is learned, or where that is exact, in part.
fn labelled(tokens: &[Token], written: &Written) -> Sequence {
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    let mut sequence = supervised(&ids);
    let is_in = |span: &Range<usize>, stretch: &Range<usize>| match written.is_exact {
        true => is_within(span, stretch) || span.start < stretch.end && stretch.start < span.end,
        false => is_within(span, stretch),
    };
    for (token, label) in tokens.iter().zip(&mut sequence.labels) {
        if !written.learned.iter().any(|stretch| is_in(&token.span, stretch)) {
            *label = IGNORE_INDEX;
        }
    }
    sequence
}

/// Whether the token at `span` stands wholly in `stretch`.
fn is_within(span: &Range<usize>, stretch: &Range<usize>) -> bool {
    stretch.start <= span.start && span.end <= stretch.end
}

/// The tokens `ids`, all supervised.
fn supervised(ids: &[u32]) -> Sequence {
    // an id that no i32 holds is outside every vocabulary, which is checked next
    let label = |&id| i32::try_from(id).unwrap_or(i32::MAX);
    Sequence { input_ids: ids.to_vec(), labels: ids.iter().map(label).collect() }
}

/// What became of the data. Nothing is left out that is not counted here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// How the records were read.
    pub reading: Reading,
    /// Records read.
    pub records: usize,
    /// Sequences made of them.
    pub sequences: usize,
    /// Tokens in the sequences.
    pub tokens: usize,
    /// Tokens that the loss is computed for.
    pub supervised: usize,
    /// The tokens of the longest sequence before it was cut.
    pub longest: usize,
    /// What longer sequences were cut to.
    pub max_input_length: usize,
    /// Sequences that were cut.
    pub cut: usize,
    /// Tokens that were cut off.
    pub cut_tokens: usize,
    /// The records that had no supervised token, or none left: where they stand, and how many tokens they had.
    pub skipped: Vec<(Place, usize)>,
    /// What the chat template did not write, though the record has it, and where the record stands.
    pub left_out: Vec<(Place, String)>,
}

impl Report {
    /// Cuts `sequence`, counts it, and gives it back unless it is to be skipped.
    fn count(&mut self, mut sequence: Sequence, place: &Place) -> Option<Sequence> {
        let length = sequence.input_ids.len();
        let cut = length.saturating_sub(self.max_input_length);
        sequence.input_ids.truncate(self.max_input_length);
        sequence.labels.truncate(self.max_input_length);
        self.longest = self.longest.max(length);
        // the first token is predicted from nothing
        let supervised = sequence.labels.iter().skip(1).filter(|&&label| label != IGNORE_INDEX).count();
        if supervised == 0 {
            self.skipped.push((place.clone(), length));
            return None;
        }
        self.cut += usize::from(cut > 0);
        self.cut_tokens += cut;
        self.sequences += 1;
        self.tokens += sequence.input_ids.len();
        self.supervised += supervised;
        Some(sequence)
    }

    fn nothing_left(&self, first: &Place) -> Error {
        let Self { records, max_input_length, longest, .. } = self;
        let detail = format!(
            "none of {records} records has a supervised token within --max-input-length {max_input_length}; \
            the longest has {longest} tokens"
        );
        Error::file(first.path(), detail).with_hint("raise --max-input-length, or give labels that are not all -100")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, sequences, tokens, supervised, longest, max_input_length, cut, cut_tokens, .. } = self;
        let Self { reading, skipped, left_out, .. } = self;
        write!(f, "{records} records: {sequences} sequences, {tokens} tokens, {supervised} supervised")?;
        write!(f, "; the longest has {longest} tokens")?;
        if *cut > 0 {
            write!(f, "\n{cut} cut to {max_input_length} tokens, {cut_tokens} tokens lost")?;
        }
        if !skipped.is_empty() {
            let named = skipped.iter().take(SHOWN).map(|(place, length)| format!("{place} ({length} tokens)"));
            let more = if skipped.len() > SHOWN { ", …" } else { "" };
            let named = named.collect::<Vec<_>>().join(", ");
            write!(f, "\n{} skipped, no supervised token left: {named}{more}", skipped.len())?;
        }
        for (place, note) in left_out.iter().take(SHOWN) {
            write!(f, "\n{place}: {note}")?;
        }
        if left_out.len() > SHOWN {
            write!(f, "\n{} more that the chat template leaves out", left_out.len() - SHOWN)?;
        }
        if !reading.forms.is_empty() {
            write!(f, "\n{reading}")?;
        }
        Ok(())
    }
}

/// How many records a report names of a kind.
const SHOWN: usize = 5;
