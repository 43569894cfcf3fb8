//! Stop strings in streamed text: what might still become one is held back.

/// Passes text on until a stop string appears in it.
pub(super) struct StopFilter<'a> {
    stops: &'a [String],
    held: String,
}

impl<'a> StopFilter<'a> {
    pub(super) fn new(stops: &'a [String]) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes the next piece; true if a stop string is complete, after the text before it was passed on.
    pub(super) fn push(&mut self, piece: &str, emit: &mut dyn FnMut(String)) -> bool {
        self.held.push_str(piece);
        if let Some((_, at)) = first_complete(&self.held, self.stops) {
            self.held.truncate(at);
            self.flush(emit);
            return true;
        }
        let rest = self.held.split_off(self.certain());
        self.flush(emit);
        self.held = rest;
        false
    }

    /// Takes the last piece; nothing is held back any more.
    pub(super) fn finish(&mut self, piece: &str, emit: &mut dyn FnMut(String)) {
        if !self.push(piece, emit) {
            self.flush(emit);
        }
    }

    /// The length of the text that can no longer be part of a stop string.
    fn certain(&self) -> usize {
        let begins_one = |&at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
        self.held.char_indices().map(|(at, _)| at).find(begins_one).unwrap_or(self.held.len())
    }

    fn flush(&mut self, emit: &mut dyn FnMut(String)) {
        if !self.held.is_empty() {
            emit(std::mem::take(&mut self.held));
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

    proptest! {
        #[test]
        fn streaming_equals_searching_the_whole(
            text in "[abé]{0,40}", stops in prop::collection::vec("[abé]{1,4}", 0..4), cut in 1..6usize,
        ) {
            let whole = first_complete(&text, &stops).map_or(text.as_str(), |(_, at)| &text[..at]);
            let (mut filter, mut found, mut stopped) = (StopFilter::new(&stops), String::new(), false);
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(cut) {
                stopped = stopped || filter.push(&piece.iter().collect::<String>(), &mut |s| found.push_str(&s));
            }
            if !stopped {
                filter.finish("", &mut |s| found.push_str(&s));
            }
            prop_assert_eq!(found, whole);
        }
    }
}
