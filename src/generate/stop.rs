//! Stop strings in streamed text: what might still become one is held back.

use std::ops::Range;

/// Passes text on until a stop string appears in it.
pub(super) struct StopFilter<'a> {
    stops: &'a [String],
    held: String,
    /// The stretches of what is held that are special tokens: matched, and not passed on.
    hidden: Vec<Range<usize>>,
}

impl<'a> StopFilter<'a> {
    pub(super) fn new(stops: &'a [String]) -> Self {
        Self { stops, held: String::new(), hidden: Vec::new() }
    }

    /// Takes the next piece; true if a stop string is complete, after the text before it was passed on.
    pub(super) fn push(&mut self, piece: &str, emit: &mut dyn FnMut(String)) -> bool {
        self.held.push_str(piece);
        let found = first_complete(&self.held, self.stops);
        self.pass_on(found.map_or_else(|| self.certain(), |(_, at)| at), emit);
        found.is_some()
    }

    /// Takes a special token, which is left out of the text; `before` gives the text that is only certain now that it
    /// has come, and is asked for only if a stop string has the token in it. True as with [`Self::push`].
    pub(super) fn push_special<E>(
        &mut self,
        token: &str,
        before: impl FnOnce() -> Result<String, E>,
        emit: &mut dyn FnMut(String),
    ) -> Result<bool, E> {
        if !self.stops.iter().any(|stop| stop.contains(token)) {
            return Ok(false);
        }
        if self.push(&before()?, emit) {
            return Ok(true);
        }
        self.hidden.push(self.held.len()..self.held.len() + token.len());
        Ok(self.push(token, emit))
    }

    /// Takes the last piece; nothing is held back any more.
    pub(super) fn finish(&mut self, piece: &str, emit: &mut dyn FnMut(String)) {
        if !self.push(piece, emit) {
            self.pass_on(self.held.len(), emit);
        }
    }

    /// The length of the text that can no longer be part of a stop string.
    fn certain(&self) -> usize {
        let begins_one = |&at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
        self.held.char_indices().map(|(at, _)| at).find(begins_one).unwrap_or(self.held.len())
    }

    /// Passes on the first `length` bytes of what is held, without those that are hidden.
    fn pass_on(&mut self, length: usize, emit: &mut dyn FnMut(String)) {
        let rest = self.held.split_off(length);
        let mut text = std::mem::replace(&mut self.held, rest);
        for range in self.hidden.iter().rev().filter(|range| range.start < length) {
            text.replace_range(range.start..range.end.min(length), "");
        }
        self.hidden.retain(|range| range.end > length);
        for range in &mut self.hidden {
            *range = range.start.saturating_sub(length)..range.end - length;
        }
        if !text.is_empty() {
            emit(text);
        }
    }
}

/// The end and the start of the stop string in `text` that is complete first; of those that end together the longest.
fn first_complete(text: &str, stops: &[String]) -> Option<(usize, usize)> {
    let stops = stops.iter().filter(|stop| !stop.is_empty());
    stops.filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at))).min()
}

#[cfg(test)]
mod tests {
    use super::{StopFilter, first_complete};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Piece {
        Text(String),
        Special(&'static str),
    }

    /// What is passed on of `pieces`, and whether a stop string ended it.
    fn passed_on(pieces: &[Piece], stops: &[String]) -> (String, bool) {
        let (mut filter, mut found) = (StopFilter::new(stops), String::new());
        let mut emit = |text: String| found.push_str(&text);
        for piece in pieces {
            let stopped = match piece {
                Piece::Text(text) => filter.push(text, &mut emit),
                Piece::Special(token) => filter.push_special(token, || Ok::<_, ()>(String::new()), &mut emit).unwrap(),
            };
            if stopped {
                return (found, true);
            }
        }
        filter.finish("", &mut emit);
        (found, false)
    }

    #[test]
    fn special_tokens_are_matched_and_not_passed_on() {
        use Piece::{Special, Text};
        let pieces = [Text("a\n".into()), Special("<e>"), Text("\nb".into()), Special("<s>"), Text("c".into())];
        for (stop, expected) in [
            ("<e>", ("a\n", true)),
            ("\n<e>", ("a", true)),
            ("<e>\n", ("a\n", true)),
            ("<e>\nb<s>", ("a\n", true)),
            ("<s>c", ("a\n\nb", true)),
            ("<e>\nc", ("a\n\nbc", false)),
            ("<e><s>", ("a\n\nbc", false)),
            ("b", ("a\n\n", true)),
            ("e", ("a\n\nbc", false)),
        ] {
            assert_eq!(passed_on(&pieces, &[stop.to_owned()]), (expected.0.to_owned(), expected.1), "{stop:?}");
        }
        let before = |stop: &str| {
            let (stops, mut found) = ([stop.to_owned()], String::new());
            let mut filter = StopFilter::new(&stops);
            let mut emit = |text: String| found.push_str(&text);
            let stopped = filter.push_special("<e>", || Ok::<_, ()>("late".into()), &mut emit).unwrap();
            (found, stopped)
        };
        assert_eq!((before("<e>"), before("<x>")), (("late".into(), true), (String::new(), false)));
    }

    proptest! {
        #[test]
        fn streaming_equals_searching_the_whole(
            text in "[abé]{0,40}", stops in prop::collection::vec("[abé]{1,4}", 0..4), cut in 1..6usize,
        ) {
            let whole = first_complete(&text, &stops).map_or(text.as_str(), |(_, at)| &text[..at]);
            let chars: Vec<char> = text.chars().collect();
            let pieces: Vec<Piece> = chars.chunks(cut).map(|piece| Piece::Text(piece.iter().collect())).collect();
            prop_assert_eq!(passed_on(&pieces, &stops).0, whole);
        }
    }
}
