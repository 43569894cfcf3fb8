//! Labels, borders, cuts and counts, with a tokenizer small enough to follow by eye.

use std::ops::Range;

use proptest::prelude::*;
use vicugna::data::records::{Prompting, Record, read};
use vicugna::data::tokenize::{Report, Tokenizing, tokenize};
use vicugna::error::{Error, Result};
use vicugna::io::tokenizer::{Conversation, Rendered, Token};
use vicugna::nn::Sequence;
use vicugna::ops::cross_entropy::IGNORE_INDEX;

use super::file;

const BOS: u32 = 1;
const EOS: u32 = 2;
/// `ab`, which is one token wherever both letters are in one text.
const AB: u32 = 3;
const VOCAB_SIZE: usize = 256;

/// Characters as tokens, `ab` merged, BOS in front if specials are wanted.
#[expect(clippy::unnecessary_wraps, reason = "has the type of a tokenizer")]
fn encode(text: &str, _: &[Range<usize>], add_special_tokens: bool) -> Result<Vec<Token>> {
    let mut tokens = if add_special_tokens { vec![Token { id: BOS, span: 0..0 }] } else { Vec::new() };
    for (at, character) in text.char_indices() {
        let end = at + character.len_utf8();
        match (tokens.last_mut(), character) {
            (Some(last), 'b') if last.id == u32::from('a') => *last = Token { id: AB, span: last.span.start..end },
            _ => tokens.push(Token { id: u32::from(character), span: at..end }),
        }
    }
    Ok(tokens)
}

/// `<role:content$>` for each turn, the opening `<assistant:` where it is asked for.
#[expect(clippy::unnecessary_wraps, reason = "has the type of a chat template")]
fn render(conversation: &Conversation, add_generation_prompt: bool) -> Result<Rendered> {
    let turn = |i: usize| format!("<{}:{}\u{2}>", conversation.role(i), conversation.texts(i).concat());
    let turns: String = (0..conversation.messages.len()).map(turn).collect();
    let text = turns + if add_generation_prompt { "<assistant:" } else { "" };
    Ok(Rendered { text, ..Rendered::default() })
}

fn tokenizing(max_input_length: usize) -> Tokenizing<'static> {
    Tokenizing {
        encode: &encode,
        render: &render,
        eos_token_id: Some(EOS),
        end_token_ids: &[EOS],
        vocab_size: VOCAB_SIZE,
        max_input_length,
        train_on_prompt: false,
    }
}

fn records(lines: &str) -> Vec<Record> {
    let (_folder, path) = file("a.jsonl", lines);
    read(&path, &Prompting::default()).unwrap().0
}

fn sequences(lines: &str, how: &Tokenizing) -> Vec<Sequence> {
    tokenize(&records(lines), how).unwrap().0
}

/// The supervised text of a sequence, with `$` for EOS and `^` for BOS.
fn learned(sequence: &Sequence) -> String {
    let labels = sequence.labels.iter().filter(|&&label| label != IGNORE_INDEX);
    labels.map(|&label| text(&[u32::try_from(label).unwrap()])).collect()
}

fn length(sequence: &Sequence) -> usize {
    sequence.input_ids.len()
}

/// The tokens that a loss is a mean over: the first has nothing to be predicted from.
fn supervised(sequence: &Sequence) -> usize {
    sequence.labels.iter().skip(1).filter(|&&label| label != IGNORE_INDEX).count()
}

fn text(ids: &[u32]) -> String {
    let piece = |&id: &u32| match id {
        BOS => "^".to_owned(),
        EOS => "$".to_owned(),
        AB => "ab".to_owned(),
        id => char::from_u32(id).unwrap().to_string(),
    };
    ids.iter().map(piece).collect()
}

#[test]
fn the_answer_and_its_end_are_supervised() {
    let dolly = r#"{"instruction": "Go?", "context": "c", "response": "Yes"}"#;
    let [sequence] = &sequences(dolly, &tokenizing(1024))[..] else { panic!("not one sequence") };
    assert!(text(&sequence.input_ids).starts_with("^Below is"));
    assert!(text(&sequence.input_ids).ends_with("\n\n\n\n### Response:\n Yes$"));
    assert_eq!(learned(sequence), " Yes$");
    assert_eq!((sequence.labels.len(), supervised(sequence)), (length(sequence), 5));
    let every = labelled_prompt(dolly);
    assert_eq!(learned(&every), text(&every.input_ids));
    assert_eq!(supervised(&every), length(&every) - 1, "the first token is predicted from nothing");
}

fn labelled_prompt(lines: &str) -> Sequence {
    sequences(lines, &Tokenizing { train_on_prompt: true, ..tokenizing(1024) }).remove(0)
}

fn completed(prompt: &str, completion: &str) -> Sequence {
    let (_folder, template) = file("template.json", r#"{"prompt": "{p}", "completion": "{c}"}"#);
    let (_folder, data) = file("a.jsonl", &format!(r#"{{"p": "{prompt}", "c": "{completion}"}}"#));
    let records = read(&data, &Prompting { template: Some(template), demarcation: false }).unwrap().0;
    tokenize(&records, &tokenizing(1024)).unwrap().0.remove(0)
}

#[test]
fn a_token_across_the_border_belongs_to_the_prompt() {
    let sequence = completed("xa", "bab");
    assert_eq!(sequence.input_ids, [BOS, u32::from('x'), AB, AB, EOS]);
    assert_eq!(learned(&sequence), "ab$");
    assert_eq!(learned(&completed("a", "b")), "$", "an answer within the token that crosses the border");
    assert_eq!(learned(&completed("é", "é")), "é$");
}

#[test]
fn a_model_without_an_end_token_gets_none() {
    let how = Tokenizing { eos_token_id: None, ..tokenizing(1024) };
    assert_eq!(learned(&sequences(r#"{"instruction": "i", "output": "o"}"#, &how)[0]), "o");
}

/// Some tokenizers put an end after every text: it is not wanted after a prompt, nor twice after a text.
#[test]
fn an_end_that_the_tokenizer_adds_is_not_doubled() {
    let ending = |text: &str, literal: &[Range<usize>], add_special_tokens: bool| {
        let mut tokens = encode(text, literal, add_special_tokens)?;
        tokens.extend(add_special_tokens.then_some(Token { id: EOS, span: 0..0 }));
        Ok(tokens)
    };
    let how = Tokenizing { encode: &ending, ..tokenizing(1024) };
    for line in [r#"{"instruction": "i", "output": "o"}"#, r#"{"text": "o"}"#] {
        let once = sequences(line, &tokenizing(1024));
        assert_eq!(sequences(line, &how), once, "{line}");
        let written = line.replace(r#"o"}"#, r#"o\u0002"}"#);
        assert_eq!(sequences(&written, &tokenizing(1024)), once, "a text that has its end already: {written}");
        assert_eq!(sequences(&written, &how), once, "{written}");
    }
}

#[test]
fn of_a_conversation_the_answers_are_supervised() {
    let chat = r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"}, {"role": "user", "content": "V"}, {"role": "assistant", "content": "B"},
        {"role": "user", "content": "W"}]}"#
        .replace('\n', "");
    let sequence = sequences(&chat, &tokenizing(1024)).remove(0);
    assert_eq!(text(&sequence.input_ids), "<system:S$><user:U$><assistant:A$><user:V$><assistant:B$><user:W$>");
    assert_eq!(learned(&sequence), "A$B$");
    let endless = Tokenizing { end_token_ids: &[], ..tokenizing(1024) };
    assert_eq!(learned(&sequences(&chat, &endless)[0]), "A$>B$>", "the template's own end, whatever it is");
    assert_eq!(supervised(&labelled_prompt(&chat)), length(&sequence) - 1);
}

#[test]
fn a_template_that_rewrites_earlier_turns_is_refused() {
    let marked = |conversation: &Conversation, open: bool| {
        let number = conversation.messages.len().to_string();
        let Rendered { text, .. } = render(conversation, open)?;
        Ok(Rendered { text: number + &text, ..Rendered::default() })
    };
    let how = Tokenizing { render: &marked, ..tokenizing(1024) };
    let chat = r#"{"messages": [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]}"#;
    let error = tokenize(&records(chat), &how).unwrap_err();
    assert!(error.to_string().contains("a.jsonl: line 1: messages: the model's chat template rewrites"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn tokens_are_taken_as_they_are() {
    let lines = "{\"input_ids\": [5, 6, 7], \"labels\": [-100, -100, 7]}\n{\"input_ids\": [8, 9]}";
    let refuse = |_: &str, _: &[Range<usize>], _: bool| -> Result<Vec<Token>> {
        Err(Error::input("tokenizer", "there is none"))
    };
    let taken = sequences(lines, &Tokenizing { encode: &refuse, ..tokenizing(1024) });
    assert_eq!(taken[0], Sequence { input_ids: vec![5, 6, 7], labels: vec![IGNORE_INDEX, IGNORE_INDEX, 7] });
    assert_eq!(taken[1], Sequence { input_ids: vec![8, 9], labels: vec![8, 9] });
    let error =
        tokenize(&records("{\"text\": \"a\"}"), &Tokenizing { encode: &refuse, ..tokenizing(1024) }).unwrap_err();
    assert!(error.to_string().ends_with("line 1: tokenizer: there is none"), "{error}");
}

#[test]
fn what_is_cut_and_skipped_is_counted() {
    let lines = "{\"input_ids\": [5, 6, 7, 8, 9]}
        {\"input_ids\": [5, 6, 7, 8, 9], \"labels\": [-100, -100, -100, -100, 9]}
        {\"input_ids\": [5, 6]}
        {\"input_ids\": [5]}
        {\"input_ids\": [5, 6], \"labels\": [5, -100]}
        {\"input_ids\": []}";
    let (sequences, report) = tokenize(&records(lines), &tokenizing(3)).unwrap();
    assert_eq!(sequences.iter().map(length).collect::<Vec<_>>(), [3, 2]);
    let skipped: Vec<(String, usize)> =
        report.skipped.iter().map(|(place, length)| (place.to_string(), *length)).collect();
    assert_eq!(skipped, [("line 2", 5), ("line 4", 1), ("line 5", 2), ("line 6", 0)].map(|(at, n)| (at.to_owned(), n)));
    let counted = Report { skipped: Vec::new(), ..report.clone() };
    let wanted = Report {
        records: 6,
        sequences: 2,
        tokens: 5,
        supervised: 3,
        longest: 5,
        max_input_length: 3,
        cut: 1,
        cut_tokens: 2,
        ..Report::default()
    };
    assert_eq!(counted, wanted);
    let told = "6 records: 2 sequences, 5 tokens, 3 supervised; the longest has 5 tokens\n\
        1 cut to 3 tokens, 2 tokens lost\n\
        4 skipped, no supervised token left: line 2 (5 tokens), line 4 (1 tokens), line 5 (2 tokens), line 6 (0 tokens)";
    assert_eq!(report.to_string(), told);
}

#[test]
fn data_with_nothing_to_learn_is_refused() {
    let masked = "{\"input_ids\": [5, 6], \"labels\": [-100, -100]}\n{\"input_ids\": [5]}";
    let error = tokenize(&records(masked), &tokenizing(1024)).unwrap_err();
    let says = "none of 2 records has a supervised token within --max-input-length 1024; the longest has 2 tokens";
    assert!(error.to_string().ends_with(says) && error.hint().is_some(), "{error}");
    let error = tokenize(&records(masked), &tokenizing(1)).unwrap_err();
    assert_eq!(error.to_string(), "--max-input-length: must be at least 2, got 1");
}

#[test]
fn ids_that_the_model_does_not_have_are_refused() {
    for (line, says) in [
        (r#"{"input_ids": [5, 256]}"#, "line 2: input_ids: 256 is outside the model's vocabulary of 256"),
        (r#"{"input_ids": [5, 4294967295]}"#, "line 2: input_ids: 4294967295 is outside"),
        (r#"{"input_ids": [5, 6], "labels": [5, 256]}"#, "line 2: labels: 256 is neither -100 nor in"),
        (r#"{"input_ids": [5, 6], "labels": [5, -1]}"#, "line 2: labels: -1 is neither -100 nor in"),
        (r#"{"text": "é…"}"#, "line 2: input_ids: 8230 is outside"),
    ] {
        let error = tokenize(&records(&format!("{{\"input_ids\": [5, 6]}}\n{line}")), &tokenizing(1024)).unwrap_err();
        assert!(error.to_string().contains(says), "{line}: {error}");
    }
}

proptest! {
    /// The windows of a text say it once, each beginning where the one before ended.
    #[test]
    fn of_a_text_every_token_but_the_first_is_predicted_once(length in 1usize..60, max_input_length in 2usize..20) {
        let long: String = ('c'..='z').cycle().take(length).collect();
        let (sequences, report) = tokenize(&records(&format!("{{\"text\": \"{long}\"}}")), &tokenizing(max_input_length)).unwrap();
        let mut told = vec![sequences[0].input_ids[0]];
        for sequence in &sequences {
            prop_assert!((2..=max_input_length).contains(&sequence.input_ids.len()));
            prop_assert_eq!(sequence.input_ids[0], *told.last().unwrap());
            told.extend(&sequence.input_ids[1..]);
        }
        prop_assert_eq!(text(&told), format!("^{long}$"));
        prop_assert_eq!((report.supervised, report.cut, report.skipped.len()), (length + 1, 0, 0));
    }

    /// Every token of the data is kept, cut and counted, or in a record that is skipped and named.
    #[test]
    fn nothing_is_lost_unseen(lengths in prop::collection::vec(0usize..12, 1..20), max_input_length in 2usize..12) {
        let lines: Vec<String> = lengths.iter().map(|&length| format!("{{\"input_ids\": {:?}}}", vec![7; length])).collect();
        let records = records(&lines.join("\n"));
        let Ok((sequences, report)) = tokenize(&records, &tokenizing(max_input_length)) else {
            prop_assert!(lengths.iter().all(|&length| length < 2));
            return Ok(());
        };
        let kept: usize = sequences.iter().map(length).sum();
        let skipped = lengths.iter().filter(|&&length| length < 2);
        prop_assert_eq!(report.skipped.len(), skipped.clone().count());
        prop_assert_eq!(kept + report.cut_tokens + skipped.sum::<usize>(), lengths.iter().sum::<usize>());
        prop_assert_eq!(report.sequences + report.skipped.len(), report.records);
        prop_assert_eq!(report.supervised, sequences.iter().map(supervised).sum::<usize>());
    }
}

/// The first bad record is named, whichever thread came to it first.
#[test]
fn errors_do_not_depend_on_threads() {
    let bad: Vec<String> = (0..500).map(|i| format!("{{\"input_ids\": [5, {}]}}", 1000 + i)).collect();
    let records = records(&format!("{{\"input_ids\": [5, 6]}}\n{}", bad.join("\n")));
    for _ in 0..20 {
        let error = tokenize(&records, &tokenizing(1024)).unwrap_err();
        assert!(error.to_string().contains("line 2: input_ids: 1000 is"), "{error}");
    }
}
