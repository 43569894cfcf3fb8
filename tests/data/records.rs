//! What records are taken for, and the prompts they get, byte for byte.

use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use vicugna::data::reading::Reading;
use vicugna::data::records::{Example, Prompting, Record, read};
use vicugna::error::{Error, Result};
use vicugna::io::tokenizer::Conversation;

use super::{file, folder};

/// The reference's own worked example, and what it is answered by.
const FELIX_LUNA: &str = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nWhen did Felix Luna die?\n\n### Input:\nFélix César Luna (30 September 1925 – 5 November 2009) was an Argentine writer, lyricist and historian.\n\n\n\n### Response:\n";
const FELIX_LUNA_CONTEXT: &str =
    "Félix César Luna (30 September 1925 – 5 November 2009) was an Argentine writer, lyricist and historian.";

fn completion(prompt: &str, completion: &str) -> Example {
    Example::Completion { prompt: prompt.into(), completion: completion.into() }
}

fn examples(path: &Path, prompting: &Prompting) -> Vec<Example> {
    read(path, prompting).unwrap().0.into_iter().map(|record| record.example).collect()
}

/// What is said of a file of this name and content.
fn said(name: &str, content: &str) -> String {
    let (_folder, path) = file(name, content);
    read(&path, &Prompting::default()).unwrap().1.to_string()
}

/// Why a file of this name and content is refused, and the way out.
fn refused(name: &str, content: &str) -> (String, String) {
    let (_folder, path) = file(name, content);
    let (message, hint) = refusal(read(&path, &Prompting::default()));
    (message, hint.unwrap_or_default())
}

/// The examples of a file of this name and content.
fn of(name: &str, content: &str) -> Vec<Example> {
    let (_folder, path) = file(name, content);
    examples(&path, &Prompting::default())
}

fn refusal(read: Result<(Vec<Record>, Reading)>) -> (String, Option<String>) {
    let error = read.unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
    (error.to_string(), error.hint().map(str::to_owned))
}

#[test]
fn dolly_gets_jumpstarts_prompt() {
    let dolly = json!({ "instruction": "When did Felix Luna die?", "context": FELIX_LUNA_CONTEXT,
        "response": "Felix Luna died on November 5th, 2009", "category": "summarization" });
    assert_eq!(of("a.jsonl", &dolly.to_string()), [completion(FELIX_LUNA, " Felix Luna died on November 5th, 2009")]);
}

#[test]
fn without_context_the_prompt_has_no_input() {
    let prompt = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nName a llama.\n\n\n\n### Response:\n";
    for record in [
        json!({ "instruction": "Name a llama.", "context": "", "response": "Kuzco" }),
        json!({ "instruction": "Name a llama.", "context": null, "response": "Kuzco" }),
        json!({ "instruction": "Name a llama.", "response": "Kuzco" }),
    ] {
        assert_eq!(of("a.jsonl", &record.to_string()), [completion(prompt, " Kuzco")], "{record}");
    }
}

#[test]
fn the_demarcation_can_be_left_out() {
    let (_folder, path) = file("a.jsonl", r#"{"instruction":"i","context":"c","response":"r"}"#);
    let [Example::Completion { prompt, completion }] =
        &examples(&path, &Prompting { demarcation: false, ..Prompting::default() })[..]
    else {
        panic!("not a completion")
    };
    assert!(prompt.ends_with("### Instruction:\ni\n\n### Input:\nc\n\n"), "{prompt:?}");
    assert_eq!(completion, " r");
}

#[test]
fn alpaca_gets_its_own_prompt() {
    let array = json!([
        { "instruction": "Add.", "input": "1 and 2", "output": "3", "text": "another way to write it all" },
        { "instruction": "Name a llama.", "input": "", "output": "Kuzco" },
    ]);
    let with = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:";
    let without = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nName a llama.\n\n### Response:";
    let wanted = [completion(with, "3"), completion(without, "Kuzco")];
    assert_eq!(of("alpaca.json", &serde_json::to_string_pretty(&array).unwrap()), wanted);
    assert_eq!(of("alpaca.jsonl", &format!("{}\r\n\n{}\n", array[0], array[1])), wanted);
}

#[test]
fn other_records_are_told_by_their_fields() {
    let content = r#"
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 1]}
        {"input_ids": [4]}
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
        {"text": "All of it.", "meta": {"pages": 3}}"#;
    let messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]);
    let wanted = [
        Example::Tokens { input_ids: vec![1, 2, 3], labels: Some(vec![-100, 2, 3]) },
        Example::Tokens { input_ids: vec![4], labels: None },
        Example::Chat(Conversation::from_json(messages).unwrap()),
        Example::Text("All of it.".into()),
    ];
    assert_eq!(of("any.jsonl", content), wanted);
    assert_eq!(of("any.data", &format!("\u{feff}{content}")), wanted);
}

#[test]
fn a_jumpstart_folder_brings_its_template() {
    let folder = folder([
        ("train.jsonl", r#"{"question": "Who?", "context": "{x}", "answer": "I"}"#),
        ("template.json", r#"{"prompt": "Q: {question} {{{context}}}", "completion": "A: {answer}"}"#),
        ("other.json", "ignored"),
    ]);
    let demarcated = examples(folder.path(), &Prompting::default());
    assert_eq!(demarcated, [completion("Q: Who? {{x}}\n\n### Response:\n", "A: I")]);
    let own = folder.path().join("own.json");
    std::fs::write(&own, r#"{"prompt": "{question}", "completion": "{answer}"}"#).unwrap();
    let plain = Prompting { template: Some(own), demarcation: false };
    assert_eq!(examples(folder.path(), &plain), [completion("Who?", "I")]);
}

#[test]
fn a_template_writes_numbers() {
    let folder = folder([
        ("train.jsonl", r#"{"text": "Good.", "label": 1, "score": -0.5}"#),
        ("template.json", r#"{"prompt": "{text}", "completion": "{label} {score}"}"#),
    ]);
    assert_eq!(examples(folder.path(), &Prompting::default()), [completion("Good.\n\n### Response:\n", "1 -0.5")]);
}

#[test]
fn a_folder_of_plain_text_is_learned_as_text() {
    let texts = |files: [&str; 2]| vec![Example::Text(files[0].into()), Example::Text(files[1].into())];
    let csv = "id,text\r\n1,\"one, \"\"two\"\"\r\nthree\"\r\n2,four\r\n";
    assert_eq!(
        examples(folder([("a.csv", csv)]).path(), &Prompting::default()),
        texts(["one, \"two\"\r\nthree", "four"])
    );
    let only = "body\nfive\nsix";
    assert_eq!(examples(folder([("a.csv", only)]).path(), &Prompting::default()), texts(["five", "six"]));
    let json = r#"[{"z": "seven"}, {"z": "eight"}]"#;
    assert_eq!(examples(folder([("a.json", json)]).path(), &Prompting::default()), texts(["seven", "eight"]));
    let text = "Nine.\n\nTen.\n";
    assert_eq!(examples(folder([("a.TXT", text)]).path(), &Prompting::default()), [Example::Text(text.into())]);

    let (message, hint) = refusal(read(folder([("a.csv", csv), ("b.txt", text)]).path(), &Prompting::default()));
    assert!(message.contains("no train.jsonl and 2 csv, json or txt files"), "{message}");
    assert!(hint.unwrap().contains("template.json"));
}

#[test]
fn a_csv_is_cut_where_its_header_and_rows_agree() {
    let jumpstart = |answer: &str| {
        let dolly = json!({ "instruction": "a, b; c", "context": "", "response": answer });
        of("a.jsonl", &dolly.to_string())[0].clone()
    };
    for (name, separator, told) in [
        ("a.csv", ",", "read as Dolly records"),
        ("a.csv", ";", "read as Dolly records, separated by ;"),
        ("a.csv", "\t", "read as Dolly records, separated by tabs"),
        ("a.csv", "|", "read as Dolly records, separated by |"),
        ("a.tsv", "\t", "read as Dolly records, separated by tabs"),
    ] {
        for end in ["\n", "\r\n"] {
            let rows = ["instruction,context,response", "\"a_ b; c\",,Paris", "\"a_ b; c\",,\"x\"\"y\""];
            let text = rows.map(|row| row.replace(',', separator).replace('_', ",")).join(end);
            assert_eq!(of(name, &text), [jumpstart("Paris"), jumpstart("x\"y")], "{text}");
            assert_eq!(said(name, &text), told);
        }
    }
    // Excel's own line before the header.
    let named = "sep=|\r\ninstruction;,|response\r\nx|y\r\n";
    let (message, _) = refused("a.csv", named);
    assert!(message.ends_with("line 3: fields [instruction;,, response] make no known record"), "{message}");
    assert_eq!(of("a.csv", "sep=;\ntext;n, m\nOne;1\n"), [Example::Text("One".into())]);
    // Both stand in the header, but only one cuts all rows into as many cells.
    let text = "text;note, if any\nOne, two.;x\nThree.;y\n";
    assert_eq!(of("a.csv", text), ["One, two.", "Three."].map(|text| Example::Text(text.into())));
    let (message, hint) = refused("a.csv", "text;a,b\nc;d,e\n");
    assert!(message.ends_with("line 1: the header has ',' and ';', and not just one cuts all rows alike"), "{message}");
    assert!(hint.contains("double quotes"), "{hint}");
    let (message, _) = refused("a.csv", "text;n\nOne; two.;x\n");
    assert!(message.ends_with("line 2: has 3 cells where the header has 2"), "{message}");
    let (message, _) = refused("a.csv", "text, id ,id\na,b,c\n");
    assert!(message.ends_with("line 1: two columns are called \"id\""), "{message}");
}

#[test]
fn names_have_no_capitals_and_no_spaces() {
    let wanted = of("a.jsonl", r#"{"instruction": "i", "context": "c", "response": "r"}"#);
    let csv = "Instruction, Context ,RESPONSE,Id\ni,c,r,1\n";
    let json = r#"{"Instruction": "i", " Context ": "c", "RESPONSE": "r", "Id": 1}"#;
    assert_eq!((of("a.csv", csv), of("a.jsonl", json)), (wanted.clone(), wanted));
    let told = "read as Dolly records\nfields not read: Id\nfields read whatever their capitals: Instruction,";
    assert!(said("a.csv", csv).starts_with(told) && said("a.jsonl", json).starts_with(told));
    // The right spelling comes first.
    let both = r#"{"TEXT": "a", "text": "b"}"#;
    assert_eq!(of("a.jsonl", both), [Example::Text("b".into())]);
    assert_eq!(said("a.jsonl", both), "read as text\nfields not read: TEXT");
    let template = folder([
        ("train.jsonl", r#"{"Question": "q", "answer": "a"}"#),
        ("template.json", r#"{"prompt": "{question}", "completion": "{answer}"}"#),
    ]);
    let (records, reading) = read(template.path(), &Prompting { demarcation: false, ..Prompting::default() }).unwrap();
    assert_eq!(records[0].example, completion("q", "a"));
    assert!(reading.to_string().starts_with("read as template ") && reading.respelled == ["Question"], "{reading}");
}

#[test]
fn no_column_of_several_is_learned_alone() {
    for (csv, names) in [
        ("question,answer\nName a city.,Paris\n", "[question, answer]"),
        (",question,answer\n0,Name a city.,Paris\n", "[\"\", question, answer]"),
        ("Unnamed: 0,body\n0,Paris\n", "[Unnamed: 0, body]"),
        ("Name a city.,,Paris\nName a river.,,Rhine\n", "[Name a city., \"\", Paris]"),
    ] {
        let folder = folder([("data.csv", csv)]);
        for path in [folder.path().to_owned(), folder.path().join("data.csv")] {
            let (message, hint) = refusal(read(&path, &Prompting::default()));
            assert!(message.ends_with(&format!("line 2: fields {names} make no known record")), "{message}");
            let hint = hint.unwrap();
            assert!(hint.contains("as JumpStart does it") && hint.contains("--template"), "{hint}");
        }
    }
    let (message, hint) = refused("a.jsonl", r#"{"question": "a", "answer": "b"}"#);
    assert!(message.contains("fields [question, answer]") && hint.contains("--template"), "{message}: {hint}");
    assert_eq!(said("a.csv", ",text\n0,a\n"), "read as text\nfields not read: \"\"");
    assert_eq!(said("a.csv", "Body\na\n"), "read as text, the field \"Body\"");
}

#[test]
fn fields_that_nobody_reads_are_said_once() {
    let content = r#"
        {"instruction": "i", "response": "r", "category": "open", "id": 1}
        {"instruction": "i", "context": "c", "response": "r", "category": "closed", "source": {"url": ""}}
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], "id": 2}"#;
    let told = "read as several forms: 2 of Dolly records, 1 of chat\nfields not read: category, id, source";
    assert_eq!(said("a.jsonl", content), told);
    assert_eq!(said("a.json", r#"[{"instruction": "i", "input": "", "output": "o"}]"#), "read as Alpaca records");
    assert_eq!(said("a.jsonl", r#"{"input_ids": [1], "labels": [1], "attention_mask": [1]}"#), "read as tokens");
    assert_eq!(said("a.txt", "All of it."), "read as text");
    let many: String = (0..25).map(|i| format!(", \"x{i}\": {i}")).collect();
    assert!(said("a.jsonl", &format!("{{\"text\": \"a\"{many}}}")).ends_with(", x18, x19 and 5 more"));
}

#[test]
fn fields_that_change_what_is_learned_are_refused() {
    let alpaca = |field: &str| format!(r#"{{"instruction": "i", "input": "", "output": "o", {field}}}"#);
    let text = |field: &str| format!(r#"{{"text": "t", {field}}}"#);
    let ids = |field: &str| format!(r#"{{"input_ids": [1, 2], {field}}}"#);
    for (record, name, way_out) in [
        (alpaca(r#""system": "Be brief.""#), "system", "messages"),
        (alpaca(r#""history": [["a", "b"]]"#), "history", "messages"),
        (alpaca(r#""weight": 0"#), "weight", "labels of -100"),
        (alpaca(r#""Weight": 0.5"#), "Weight", "labels of -100"),
        (alpaca(r#""images": ["a.png"]"#), "images", "--template"),
        (alpaca(r#""rejected": "p""#), "rejected", "--template"),
        (alpaca(r#""kto_tag": false"#), "kto_tag", "--template"),
        (text(r#""label": 0"#), "label", "--template"),
        (text(r#""labels": [1]"#), "labels", "--template"),
        (text(r#""loss_mask": [1, 0]"#), "loss_mask", "labels of -100"),
        (ids(r#""loss_mask": [1, 0]"#), "loss_mask", "labels of -100"),
        (ids(r#""position_ids": [0, 0]"#), "position_ids", "a record of its own"),
        (r#"{"messages": [{"role": "user", "content": "U"}], "system": "Be brief."}"#.into(), "system", "messages"),
    ] {
        let (message, hint) = refused("a.jsonl", &record);
        let says = format!("line 1: field {name:?} changes what is learned, and is not read");
        assert!(message.ends_with(&says) && hint.contains(way_out), "{record}: {message}: {hint}");
    }
    let (message, _) = refused("a.csv", "text,label\na,0\n");
    assert!(message.ends_with("line 2: field \"label\" changes what is learned, and is not read"), "{message}");
    // Places that were left empty ask for nothing.
    for record in [
        alpaca(r#""system": "", "history": [], "weight": 1.0, "images": null"#),
        text(r#""label": null, "loss_mask": [1, 1], "train": true"#),
        ids(r#""position_ids": [0, 1], "weight": "1""#),
    ] {
        assert!(said("a.jsonl", &record).contains("\nfields not read: "), "{record}");
    }
    // A template takes what it wants, but no template says how much is learned.
    let template = r#"{"prompt": "{system} {instruction}", "completion": "{chosen}"}"#;
    for (field, is_read) in [(r#""rejected": "r""#, true), (r#""weight": 0"#, false)] {
        let record = format!(r#"{{"system": "s", "instruction": "i", "chosen": "c", {field}}}"#);
        let folder = folder([("train.jsonl", &*record), ("template.json", template)]);
        assert_eq!(read(folder.path(), &Prompting::default()).is_ok(), is_read, "{field}");
    }
}

#[test]
fn a_prompt_and_its_completion_stand_as_they_are() {
    let record = r#"{"prompt": "The sky is", "completion": " blue.", "id": 1}"#;
    assert_eq!(of("a.jsonl", record), [completion("The sky is", " blue.")]);
    assert_eq!(said("a.jsonl", record), "read as prompt and completion\nfields not read: id");
    let (message, _) = refused("a.jsonl", r#"{"prompt": [{"role": "user", "content": "a"}], "completion": []}"#);
    assert!(message.ends_with("field \"prompt\" must be text, got a list"), "{message}");
}

#[test]
fn conversations_of_sharegpt_are_messages() {
    let turns = r#"[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]"#;
    let messages = r#"{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}"#;
    let system = r#"{"role": "system", "content": "Be brief."}"#;
    let both = |conversations: String, messages: String| {
        assert_eq!(of("a.jsonl", &conversations), of("a.jsonl", &format!(r#"{{"messages": [{messages}]}}"#)));
    };
    both(format!(r#"{{"id": "1", "conversations": {turns}}}"#), messages.into());
    both(format!(r#"{{"conversations": {turns}, "system": "Be brief."}}"#), format!("{system}, {messages}"));
    both(format!(r#"{{"conversations": {turns}, "system": ""}}"#), messages.into());
    both(format!(r#"{{"conversations": [{messages}]}}"#), messages.into());
    assert_eq!(said("a.jsonl", &format!(r#"{{"conversations": {turns}}}"#)), "read as ShareGPT chat");
    let (message, hint) = refused("a.jsonl", r#"{"conversations": [{"from": "observation", "value": "4"}]}"#);
    assert!(message.ends_with("from \"observation\" is not known") && hint.contains("role"), "{message}: {hint}");
    let (message, _) = refused("a.jsonl", r#"{"conversations": "Hi"}"#);
    assert!(message.contains("field \"conversations\" must be a list of objects of from and value"), "{message}");
}

#[test]
fn a_file_that_ends_too_early_is_told() {
    let (message, hint) = refused("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b");
    assert!(message.contains("line 2, column 11: EOF while parsing a string"), "{message}");
    assert!(hint.contains("end too early"), "{hint}");
    // An object over several lines is another thing.
    let (message, hint) = refused("a.json", "{\n  \"text\": \"a\"\n}\n");
    assert!(message.contains("line 1, column 1") && hint.contains("one JSON object a line"), "{message}: {hint}");
}

#[test]
fn folders_of_other_tools_say_what_they_hold() {
    for name in ["data-00000-of-00001.arrow", "train.parquet", "dataset_dict.json"] {
        let (message, hint) = refusal(read(folder([(name, "")]).path(), &Prompting::default()));
        assert!(message.ends_with("holds Arrow or Parquet files"), "{message}");
        assert!(hint.unwrap().contains("to_json"));
    }
}

#[test]
fn bad_records_are_named_by_line_and_field() {
    let dolly = r#"{"instruction":"i","context":"c","response":"r"}"#;
    for (name, bad, says) in [
        ("a.jsonl", r#"{"instruction": "i", "#, "line 3, column 21: EOF while parsing a value"),
        ("a.jsonl", r#"{"instruction": "i"} x"#, "line 3, column 22: trailing characters"),
        ("a.jsonl", r#"["i"]"#, "line 3, column 0: invalid type: sequence, expected a JSON object"),
        ("a.jsonl", r#"{"text": "a", "text": "b"}"#, "field \"text\" stands twice"),
        (
            "a.jsonl",
            r#"{"instruction": "i", "context": "c"}"#,
            "line 3: there is neither \"response\" nor \"output\"; there are fields [instruction, context]",
        ),
        ("a.jsonl", r#"{"context": "c", "response": "r"}"#, "line 3: fields [context, response] make no known record"),
        (
            "a.jsonl",
            r#"{"instruction": "i", "context": "c", "output": "o"}"#,
            "\"output\" does not go with \"context\"",
        ),
        (
            "a.jsonl",
            r#"{"instruction": "i", "response": "r", "output": "o"}"#,
            "\"response\" does not go with \"output\"",
        ),
        (
            "a.jsonl",
            r#"{"instruction": 5, "response": "r"}"#,
            "line 3: field \"instruction\" must be text, got a number",
        ),
        ("a.jsonl", r#"{"instruction": "i", "response": null}"#, "line 3: field \"response\" must be text, got null"),
        (
            "a.jsonl",
            r#"{"instruction": "i", "context": ["c"], "response": "r"}"#,
            "field \"context\" must be text, got a list",
        ),
        ("a.jsonl", r#"{"instruction": "i", "messages": []}"#, "line 3: has messages and instruction at once"),
        (
            "a.jsonl",
            r#"{"input_ids": [1, -2]}"#,
            "line 3: field \"input_ids\" must be a list of token ids: invalid value: integer `-2`",
        ),
        (
            "a.jsonl",
            r#"{"input_ids": "1"}"#,
            "line 3: field \"input_ids\" must be a list of token ids: invalid type: string",
        ),
        (
            "a.jsonl",
            r#"{"input_ids": [1, 2], "labels": [1]}"#,
            "line 3: field \"labels\" must be as long as \"input_ids\", 2, got 1",
        ),
        (
            "a.jsonl",
            r#"{"input_ids": [1, 2], "attention_mask": [1, 0]}"#,
            "line 3: field \"attention_mask\" hides tokens",
        ),
        ("a.jsonl", r#"{"messages": [{"content": "a"}]}"#, "line 3: messages[0]: has no role; it has [content]"),
        ("a.jsonl", "{}", "line 3: fields [] make no known record"),
    ] {
        let (_folder, path) = file(name, &format!("{dolly}\n\n{bad}\n{dolly}\n"));
        let (message, _) = refusal(read(&path, &Prompting::default()));
        assert!(message.starts_with(&*path.to_string_lossy()) && message.contains(says), "{bad}: {message}");
    }
}

#[test]
fn bad_files_are_named() {
    for (name, content, says) in [
        ("a.jsonl", "", "holds no records"),
        ("a.txt", " \n", "holds no records"),
        ("a.json", "[]", "holds no records"),
        ("a.csv", "text\n", "holds no records"),
        ("a.json", "[{\"text\": \"a\"},\n 5]", "line 2, column 2: invalid type: integer `5`, expected a JSON object"),
        ("a.json", "[{\"text\": \"a\"}, {\"text\": 1}]", "record 2: field \"text\" must be text, got a number"),
        ("a.json", "[{\"text\": \"a\"}", "line 1, column 14: EOF while parsing a list"),
        ("a.csv", "text,b\n1,2\n\n3\n", "line 4: has 1 cells where the header has 2"),
        ("a.csv", "text\n\"a\nb\"c\n", "line 2: text after a closing quote"),
        ("a.csv", "text\na\n\"b\n\n", "line 3: a quoted cell is not closed"),
    ] {
        let (_folder, path) = file(name, content);
        let (message, _) = refusal(read(&path, &Prompting::default()));
        assert!(message.ends_with(says) || message.contains(&format!(": {says}")), "{content:?}: {message}");
    }
    let (folder, path) = file("a.jsonl", "");
    std::fs::write(&path, b"{\"text\": \"a\"}\n\xff\n").unwrap();
    let (message, _) = refusal(read(&path, &Prompting::default()));
    assert!(message.ends_with("line 2: not UTF-8 text"), "{message}");
    let (message, _) = refusal(read(&folder.path().join("none.jsonl"), &Prompting::default()));
    assert!(message.contains("none.jsonl") && message.contains("No such file"), "{message}");
}

#[test]
fn bad_templates_are_named() {
    let (_folder, data) = file("a.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}\n{\"answer\": \"a\"}\n");
    for (template, says) in [
        (
            r#"{"prompt": "{question}", "completion": "{answer}"}"#,
            "line 2: the template's {question} is missing; there are fields [answer]",
        ),
        (
            r#"{"prompt": "{quest}", "completion": "{answer}"}"#,
            "line 1: the template's {quest} is missing; there are fields [question, answer]",
        ),
        (r#"{"prompt": "{question}"}"#, "missing field `completion`"),
        (r#"{"prompt": "", "completion": "", "system": ""}"#, "unknown field `system`"),
        (r#"{"prompt": "{question", "completion": ""}"#, "prompt: the { before \"question\" has no partner"),
        (r#"{"prompt": "", "completion": "a} b"}"#, "completion: the } before \" b\" has no partner"),
        (r#"{"prompt": "{}", "completion": ""}"#, "prompt: {} is not the plain name of a field"),
        (r#"{"prompt": "{question!r}", "completion": ""}"#, "{question!r} is not the plain name of a field"),
    ] {
        let (_folder, path) = file("template.json", template);
        let (message, _) = refusal(read(&data, &Prompting { template: Some(path), ..Prompting::default() }));
        assert!(message.contains(says), "{template}: {message}");
    }
}

/// As Python's `csv.writer` writes it.
fn written(rows: &[Vec<String>]) -> String {
    let quoted = |cell: &String| match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.clone(),
    };
    rows.iter().map(|row| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\r\n").collect()
}

proptest! {
    #[test]
    fn csv_gives_back_what_was_written(texts in prop::collection::vec("[a,\"\r\n é]{1,8}", 1..6)) {
        let mut rows = vec![vec!["n".to_owned(), "text".to_owned()]];
        rows.extend(texts.iter().map(|text| vec!["1".to_owned(), text.clone()]));
        prop_assert_eq!(of("a.csv", &written(&rows)), texts.into_iter().map(Example::Text).collect::<Vec<_>>());
    }

    /// What `str.format` does to a template, said the other way round: double its braces, put fields between.
    #[test]
    fn templates_fill_in_nothing_but_their_fields(parts in prop::collection::vec("[{}a\n]{0,5}", 1..5), value in "[{}b]{0,5}") {
        let template = parts.iter().map(|part| part.replace('{', "{{").replace('}', "}}")).collect::<Vec<_>>().join("{x}");
        let (_folder, path) = file("template.json", &json!({ "prompt": template, "completion": "{x}" }).to_string());
        let (_folder, data) = file("a.jsonl", &json!({ "x": value }).to_string());
        let made = examples(&data, &Prompting { template: Some(path), demarcation: false });
        prop_assert_eq!(made, [completion(&parts.join(&value), &value)]);
    }

    #[test]
    fn no_text_makes_the_reader_panic(content in "[\\[\\]{}\":,;|\ta0éN\u{0}\n\r]{0,40}", name in prop::sample::select(vec!["a.json", "a.csv", "a.tsv", "a.txt"])) {
        let (_folder, path) = file(name, &content);
        let _ = read(&path, &Prompting::default());
    }
}
