//! What is learned of conversations, with templates that write in a simple manner.

use std::ops::Range;

use vicugna::data::records::{Prompting, read};
use vicugna::data::tokenize::{Report, Tokenizing, tokenize};
use vicugna::error::Result;
use vicugna::io::tokenizer::{Conversation, Rendered, Token};
use vicugna::ops::cross_entropy::IGNORE_INDEX;

use super::file;

/// A character is a token; `ab` is one too.
#[expect(clippy::unnecessary_wraps, reason = "has the type of a tokenizer")]
fn encode(text: &str, _: &[Range<usize>], _: bool) -> Result<Vec<Token>> {
    let mut tokens: Vec<Token> = Vec::new();
    for (at, c) in text.char_indices() {
        match tokens.last_mut() {
            Some(last) if c == 'b' && last.id == u32::from('a') => {
                *last = Token { id: 7, span: last.span.start..at + 1 }
            }
            _ => tokens.push(Token { id: u32::from(c), span: at..at + c.len_utf8() }),
        }
    }
    Ok(tokens)
}

/// `<role:content$>` for each turn; tools before the first.
fn turn(conversation: &Conversation, turn: usize) -> String {
    format!("<{}:{}$>", conversation.role(turn), conversation.texts(turn).concat())
}

#[expect(clippy::unnecessary_wraps, reason = "has the type of a chat template")]
fn render(conversation: &Conversation, add_generation_prompt: bool) -> Result<Rendered> {
    let mut text = conversation.tools.iter().map(|tools| serde_json::json!(tools).to_string()).collect::<String>();
    text.extend((0..conversation.messages.len()).map(|i| turn(conversation, i)));
    text.extend(add_generation_prompt.then_some("<assistant:"));
    Ok(Rendered { text, ..Rendered::default() })
}

/// The same, with the answers marked as `{% generation %}` does, without their last character and with the one before.
fn marking(conversation: &Conversation, add_generation_prompt: bool) -> Result<Rendered> {
    let (mut text, mut answers) = (String::new(), Vec::new());
    for i in 0..conversation.messages.len() {
        let (start, content) = (text.len() + "<assistant:".len(), conversation.texts(i).concat());
        text += &turn(conversation, i);
        answers.extend((conversation.role(i) == "assistant").then(|| start..start + content.len()));
    }
    text.extend(add_generation_prompt.then_some("<assistant:"));
    Ok(Rendered { text, literal: Vec::new(), answers: Some(answers) })
}

type Render = fn(&Conversation, bool) -> Result<Rendered>;

/// What is learned of a record, each stretch between bars, and the report.
fn try_learned(record: &str, render: Render, train_on_prompt: bool) -> Result<(String, Report)> {
    let how = Tokenizing {
        encode: &encode,
        render: &render,
        eos_token_id: Some(u32::from('$')),
        end_token_ids: &[u32::from('$')],
        vocab_size: usize::MAX,
        max_input_length: usize::MAX,
        train_on_prompt,
    };
    let (_folder, path) = file("a.jsonl", record);
    let (sequences, report) = tokenize(&read(&path, &Prompting::default())?.0, &how)?;
    let mut learned = String::new();
    for (&id, &label) in sequences[0].input_ids.iter().zip(&sequences[0].labels) {
        match (id, label) {
            (_, IGNORE_INDEX) if learned.ends_with('|') => {}
            (_, IGNORE_INDEX) => learned.push('|'),
            (7, _) => learned.push_str("ab"),
            (id, _) => learned.extend(char::from_u32(id)),
        }
    }
    Ok((learned, report))
}

fn learned(record: &str, render: Render, train_on_prompt: bool) -> String {
    try_learned(record, render, train_on_prompt).unwrap().0
}

fn refusal(record: &str, render: Render) -> (String, Option<String>) {
    let error = try_learned(record, render, false).unwrap_err();
    (error.to_string(), error.hint().map(str::to_owned))
}

const TWO: &str = r#"{"messages": [{"role": "user", "content": "U"}, {"role": "assistant", "content": "ab"WEIGHT},
    {"role": "user", "content": "V"}, {"role": "assistant", "content": "B"}]}"#;

fn two(weight: &str) -> String {
    TWO.replace("WEIGHT", weight).replace('\n', "")
}

#[test]
fn a_message_marked_as_not_to_be_learned_is_not() {
    for marked in [r#", "weight": 0"#, r#", "train": false"#, r#", "weight": 0.0"#, r#", "loss": false, "weight": 1"#] {
        assert_eq!(learned(&two(marked), render, false), "|B$|", "{marked}");
        assert_eq!(learned(&two(marked), marking, false), "|B|", "{marked}");
        assert_eq!(learned(&two(marked), render, true), "<user:U$><assistant:|<user:V$><assistant:B$>", "{marked}");
    }
    for kept in ["", r#", "weight": 1"#, r#", "weight": null"#, r#", "train": true"#] {
        assert_eq!(learned(&two(kept), render, false), "|ab$|B$|", "{kept}");
    }
    let prompt =
        r#"{"messages": [{"role": "user", "content": "U", "train": false}, {"role": "assistant", "content": "A"}]}"#;
    assert_eq!(learned(prompt, render, false), "|A$|");
    assert_eq!(learned(prompt, render, true), "|<assistant:A$>");
}

#[test]
fn other_marks_are_refused_by_name() {
    for (marked, wanted) in [
        (r#", "weight": 0.5"#, "line 1: messages[1].weight: must be 0 or 1, false or true, got 0.5"),
        (r#", "train": "no""#, "line 1: messages[1].train: must be 0 or 1"),
        (r#", "loss_scale": 2"#, "line 1: messages[1].loss_scale: is not known"),
    ] {
        let (error, _) = refusal(&two(marked), render);
        assert!(error.contains(wanted), "{error}");
    }
    let prompt =
        r#"{"messages": [{"role": "user", "content": "U", "weight": 1}, {"role": "assistant", "content": "A"}]}"#;
    let (error, hint) = refusal(prompt, render);
    assert!(error.contains("line 1: messages[0]: is marked as to be learned, and the user says it"), "{error}");
    assert!(hint.unwrap().contains("--train-on-prompt"));
    assert_eq!(learned(prompt, render, true), "<user:U$><assistant:A$>");
}

#[test]
fn what_the_template_marks_is_exactly_what_is_learned() {
    assert_eq!(learned(&two(""), marking, false), "|ab|B|");
    let across: Render = |conversation, open| {
        let Rendered { text, answers, .. } = marking(conversation, open)?;
        let answers = answers.map(|all| all.iter().map(|stretch| stretch.start + 1..stretch.end).collect());
        Ok(Rendered { text, literal: Vec::new(), answers })
    };
    assert_eq!(learned(&two(""), across, true), "<user:U$><assistant:ab$><user:V$><assistant:B$>");
    assert_eq!(learned(&two(""), across, false), "|ab|", "a token that has a part in what is marked");
    let nothing: Render =
        |conversation, open| Ok(Rendered { answers: Some(Vec::new()), ..marking(conversation, open)? });
    assert!(refusal(&two(""), nothing).0.contains("none of 1 records has a supervised token"));
}

#[test]
fn text_that_the_template_leaves_out_is_refused_and_named() {
    let record = |content: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": {content}}}, {{"role": "assistant", "content": "A"}}]}}"#
        )
    };
    let silent: Render = |conversation, open| {
        let text = format!("<user:$><assistant:A$>{}", if open { "<assistant:" } else { "" });
        let texts = conversation.texts(0).concat();
        let as_json = serde_json::json!(texts).to_string();
        Ok(Rendered { text: if texts.contains('"') { as_json + &text } else { text }, ..Rendered::default() })
    };
    let (error, hint) = refusal(&record("\"Hi there\""), silent);
    assert!(
        error.contains("line 1: messages[0].content: the chat template leaves out what the user says: \"Hi there\""),
        "{error}"
    );
    assert!(hint.unwrap().contains(r#"[{"type": "text", "text": "..."}]"#));
    let (error, hint) = refusal(&record(r#"[{"type": "text", "text": "Hi"}]"#), silent);
    assert!(error.contains("messages[0].content: the chat template leaves out"), "{error}");
    assert!(hint.unwrap().contains("as one text"));
    for found in ["\" \"", "null", "\"<think>no</think>\\n A\"", r#""a \"q\" \n""#] {
        assert!(!refusal_of(try_learned(&record(found), silent, false)).contains("leaves out"), "{found}");
    }
    let python: Render = |conversation, open| {
        let text = conversation.texts(0).concat();
        let rest = render(conversation, open)?.text;
        Ok(Rendered { text: format!("[{{'type': 'text', 'text': '{text}'}}]{rest}"), ..Rendered::default() })
    };
    let (error, _) = refusal(&record(r#"[{"type": "text", "text": "Hi"}]"#), python);
    assert!(error.contains("messages[0].content: is a list, and the chat template wants text"), "{error}");
}

fn refusal_of(found: Result<(String, Report)>) -> String {
    found.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn other_text_that_the_template_leaves_out_is_a_note() {
    let record = r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"}], "tools": [{"type": "function", "function": {"name": "get_it"}}]}"#
        .replace('\n', "");
    let without: Render = |conversation, open| {
        let messages = conversation.messages[1..].to_vec();
        render(&Conversation { messages, ..Conversation::default() }, open)
    };
    let (text, report) = try_learned(&record, without, true).unwrap();
    assert_eq!(text, "<user:U$><assistant:A$>");
    let notes = report.to_string();
    assert!(notes.contains("line 1: messages[0]: the chat template leaves out what the system says: \"S\""), "{notes}");
    assert!(notes.contains("line 1: tools: the chat template leaves out get_it"), "{notes}");
    assert_eq!(try_learned(&record, render, false).unwrap().1.left_out, []);
}
