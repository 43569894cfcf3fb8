//! How likely a guard says one word or another, however its tokenizer cuts them.

use crate::error::Result;

/// Continuations less likely than this are not looked at.
const LEAST: f64 = 1e-3;

/// The most tokens of a word with the white space before it.
const LONGEST: usize = 8;

/// How likely each of two words comes first, behind white space.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The probability of each word.
    pub each: [f64; 2],
    /// The most likely tokens of the second word, with those of the white space before it.
    pub path: Vec<u32>,
}

/// The probability of each of `words` as the first that is said, behind white space: the sum over all ways to say it, of
/// which each is looked at that is likely enough. `next` gives the logits after what was said so far, `text` what tokens say.
///
/// # Errors
/// What `next` and `text` return.
pub fn scores(
    words: [&str; 2],
    next: &mut dyn FnMut(&[u32]) -> Result<Vec<f32>>,
    text: &dyn Fn(&[u32]) -> Result<String>,
) -> Result<Scores> {
    let (mut each, mut best, mut path) = ([0.0; 2], 0.0, Vec::new());
    let mut open = vec![(Vec::new(), 1.0)];
    while let Some((said, mass)) = open.pop() {
        for (id, probability) in likely(&next(&said)?, LEAST / mass) {
            let (mut said, mass): (Vec<u32>, f64) = (said.clone(), mass * probability);
            said.push(id);
            let heard = text(&said)?;
            let heard = heard.trim_start();
            match words.iter().position(|word| is_said(word, heard)) {
                Some(word) => {
                    each[word] += mass;
                    if word == 1 && mass > best {
                        (best, path) = (mass, said);
                    }
                }
                None if said.len() < LONGEST && words.iter().any(|word| word.starts_with(heard)) => {
                    open.push((said, mass));
                }
                None => {}
            }
        }
    }
    Ok(Scores { each, path })
}

/// Whether `heard` begins with the whole `word`.
fn is_said(word: &str, heard: &str) -> bool {
    heard.strip_prefix(word).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// The tokens of a probability of at least `least`, the likeliest last.
fn likely(logits: &[f32], least: f64) -> Vec<(u32, f64)> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| f64::from(logit - most).exp();
    let sum: f64 = logits.iter().map(|&logit| weight(logit)).sum();
    let all = (0..).zip(logits).map(|(id, &logit)| (id, weight(logit) / sum));
    let mut likely: Vec<(u32, f64)> = all.filter(|(_, probability)| *probability >= least).collect();
    likely.sort_by(|a, b| a.1.total_cmp(&b.1));
    likely
}
