//! Chat templates. The expected texts are transformers' (`tests/fixtures/make_chat.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};
use serde::Deserialize;
use serde_json::{Value, json};
use vicugna::error::Result;
use vicugna::io::tokenizer::{Conversation, Rendered, Tokenizer};

use super::files::fixture;

#[derive(Deserialize)]
struct Expected {
    now: String,
    tokens: Value,
    templates: BTreeMap<String, String>,
    conversations: BTreeMap<String, Value>,
    cases: Vec<Case>,
    expressions: Expressions,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    add_generation_prompt: bool,
    text: Option<String>,
    answers: Option<Vec<(usize, usize)>>,
}

#[derive(Deserialize)]
struct Expressions {
    conversation: Value,
    texts: BTreeMap<String, String>,
}

fn expected() -> Expected {
    serde_json::from_slice(&fs::read(fixture("chat/expected.json")).unwrap()).unwrap()
}

/// The tokenizer of a folder with this tokenizer_config.json and these files.
fn tokenizer<const N: usize>(config: &Value, files: [(&str, &str); N]) -> Tokenizer {
    static TOKENIZER: LazyLock<String> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let gguf = vicugna::io::gguf::Gguf::open(fixture("gguf_llama_spm/tiny.gguf")).unwrap();
        gguf.tokenizer().unwrap().write(folder.path()).unwrap();
        fs::read_to_string(folder.path().join("tokenizer.json")).unwrap()
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), &*TOKENIZER).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).unwrap();
        fs::write(path, text).unwrap();
    }
    Tokenizer::from_folder(folder.path()).unwrap()
}

fn with_template(template: &str) -> Tokenizer {
    tokenizer(&json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": template}), [])
}

fn conversation(value: Value) -> Conversation {
    Conversation::from_json(value).unwrap()
}

fn render(template: &str, messages: Value) -> Result<Rendered> {
    with_template(template).apply_chat_template(&conversation(messages), false)
}

#[test]
fn templates_render_as_in_transformers() {
    let Expected { now, mut tokens, templates, conversations, cases, .. } = expected();
    let mut tokenizers = BTreeMap::new();
    for (name, source) in templates {
        tokens["chat_template"] = source.into();
        tokenizers.insert(name, tokenizer(&tokens, []).with_date(Some(now.parse().unwrap())));
    }
    assert_eq!((tokenizers.len(), cases.len()), (6, 144));
    for case in cases {
        let conversation = conversation(conversations[&case.conversation].clone());
        let found = tokenizers[&case.template].apply_chat_template(&conversation, case.add_generation_prompt);
        let place = format!("{} of {}, prompt: {}", case.template, case.conversation, case.add_generation_prompt);
        let Some(text) = case.text else {
            assert!(found.is_err(), "{place}: {found:?}");
            continue;
        };
        let found = found.unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!(found.text, text, "{place}");
        let characters: Vec<char> = text.chars().collect();
        let marked = |&(start, end): &(usize, usize)| characters[start..end].iter().collect::<String>();
        let answers = case.answers.map(|answers| answers.iter().map(marked).collect::<Vec<_>>());
        let answer = |stretch: &std::ops::Range<usize>| text[stretch.clone()].to_owned();
        assert_eq!(found.answers.map(|found| found.iter().map(answer).collect()), answers, "{place}");
    }
}

#[test]
fn expressions_are_what_they_are_in_jinja2() {
    let Expected { now, mut tokens, expressions: Expressions { conversation: given, texts }, .. } = expected();
    let given = conversation(given);
    assert!(texts.len() > 90);
    for (expression, text) in texts {
        tokens["chat_template"] = format!("{{{{ {expression} }}}}").into();
        let tokenizer = tokenizer(&tokens, []).with_date(Some(now.parse().unwrap()));
        let found = tokenizer.apply_chat_template(&given, false).unwrap_or_else(|e| panic!("{expression}: {e}"));
        assert_eq!(found.text, text, "{expression}");
    }
}

#[test]
fn a_template_refuses_in_its_own_words() {
    let messages = || json!([{"role": "user", "content": "a"}]);
    let error = render("{{ raise_exception('Roles must alternate') }}", messages()).unwrap_err().to_string();
    assert!(error.contains("chat template: ") && error.contains("Roles must alternate"), "{error}");
    let error = render("{% if %}", messages()).unwrap_err().to_string();
    assert!(error.contains("chat template: syntax error"), "{error}");
    let error = render("{% generation %}", messages()).unwrap_err().to_string();
    assert!(error.contains("chat template: syntax error"), "{error}");
    for halved in ["{% set x %}{% generation %}ab{% endgeneration %}{% endset %}{{ x[1:] }}", "{{ messages|nothing }}"]
    {
        let error = render(halved, messages()).unwrap_err().to_string();
        assert!(error.contains("chat template: "), "{error}");
    }
}

#[test]
fn a_tokenizer_without_a_template_says_so() {
    let given = conversation(json!([{"role": "user", "content": "a"}]));
    let error = tokenizer(&json!({}), []).apply_chat_template(&given, true).unwrap_err();
    assert!(error.to_string().ends_with(": has no chat template"), "{error}");
    assert!(error.hint().is_some());
    let named = json!({"chat_template": [{"name": "rag", "template": "x"}]});
    let error = tokenizer(&named, []).apply_chat_template(&given, true).unwrap_err().to_string();
    assert!(error.contains("[rag]"), "{error}");
}

#[test]
fn of_several_templates_tools_take_theirs_and_files_come_before_the_config() {
    let config = json!({"chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"}]});
    let text =
        |tokenizer: &Tokenizer, given: Value| tokenizer.apply_chat_template(&conversation(given), true).unwrap().text;
    let plain = || json!([{"role": "user", "content": "a"}]);
    let with_tools = || json!({"messages": plain(), "tools": [{"name": "f"}]});
    let named = tokenizer(&config, []);
    assert_eq!((text(&named, plain()), text(&named, with_tools())), ("default".into(), "tools".into()));
    assert_eq!(text(&named, json!({"messages": plain(), "tools": null})), "default");
    let file = tokenizer(&config, [("chat_template.jinja", "\u{feff}from the file")]);
    assert_eq!((text(&file, plain()), text(&file, with_tools())), ("from the file".into(), "from the file".into()));
    let files = tokenizer(&config, [("chat_template.jinja", "a"), ("additional_chat_templates/tool_use.jinja", "b")]);
    assert_eq!((text(&files, plain()), text(&files, with_tools())), ("a".into(), "b".into()));
    let written = tempfile::tempdir().unwrap();
    files.write(written.path()).unwrap();
    let read = Tokenizer::from_folder(written.path()).unwrap();
    assert_eq!((text(&read, plain()), text(&read, with_tools())), ("a".into(), "b".into()));
}

#[test]
fn a_tokenizer_has_one_date() {
    let tokenizer = with_template("{{ strftime_now('%Y-%m-%dT%H:%M:%S') }}");
    let given = conversation(json!([{"role": "user", "content": "a"}]));
    let first = tokenizer.apply_chat_template(&given, false).unwrap().text;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(tokenizer.apply_chat_template(&given, false).unwrap().text, first);
    assert_eq!(first.len(), "2026-03-05T07:08:09".len());
    let tokenizer = tokenizer.with_date(Some("2026-03-05T07:08:09".parse().unwrap()));
    assert_eq!(tokenizer.apply_chat_template(&given, false).unwrap().text, "2026-03-05T07:08:09");
}

#[test]
fn conversations_are_refused_by_the_place_of_what_is_wrong() {
    for (given, wanted) in [
        (json!("a"), "messages: must be a list, got text"),
        (json!([]), "messages: holds no message"),
        (json!({"messages": [{"role": "user"}], "tool": []}), "tool: is not known"),
        (json!([{"role": "user"}, "a"]), "messages[1]: must be an object, got text"),
        (json!([{"from": "human", "value": "a"}]), "messages[0]: has no role; it has [from, value]"),
        (json!([{"role": 1}]), "messages[0]: role must be text, got a number"),
        (json!([{"role": "user", "content": 5}]), "messages[0].content: must be text, null or a list"),
        (json!([{"role": "user", "content": [{"type": "image"}]}]), "messages[0].content: part 0 is of type \"image\""),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content: part 0 has no text"),
        (json!({"messages": [{"role": "user"}], "tools": {"a": 1}}), "tools: must be a list of objects, got an object"),
        (json!({"messages": [{"role": "user"}], "tools": ["f"]}), "tools: must be a list of objects, got text in it"),
        (json!({"messages": [{"role": "user"}], "documents": "x"}), "documents: must be a list of objects, got text"),
    ] {
        let error = Conversation::from_json(given).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
    let written = json!({"messages": [{"role": "user"}], "tools": "[{\"name\": \"f\"}]"});
    assert_eq!(conversation(written).tools, Some(vec![json!({"name": "f"})]), "a list that is written as JSON");
}

/// What of the rendered text is literal.
fn literal(Rendered { text, literal, .. }: &Rendered) -> Vec<&str> {
    literal.iter().map(|stretch| &text[stretch.clone()]).collect()
}

#[test]
fn special_tokens_that_messages_spell_are_literal() {
    let template =
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content | trim }}{{ m.name }}</s>{% endfor %}{{ tools|tojson }}";
    let given = json!({
        "messages": [{"role": "user", "content": " <s>é</s> ", "name": "</s"}, {"role": "</s>", "content": "<</s>>"}],
        "tools": [{"name": "<s>"}],
    });
    let found = with_template(template).apply_chat_template(&conversation(given), false).unwrap();
    assert_eq!(found.text, "<s>user: <s>é</s></s</s><s></s>: <</s>></s>[{\"name\": \"<s>\"}]");
    assert_eq!(literal(&found), ["<s>", "</s>", "</s>", "</s>", "<s>"]);
    assert_eq!(found.literal[0], 9..12);
    // what a template looks for in the content is the template's own
    let splits = "{{ messages[0].content.split('</s>')[1] }}{% if '<unk>' in messages[0].content %}!{% endif %}";
    let found = render(splits, json!([{"role": "user", "content": "a</s><s>b<unk>"}])).unwrap();
    assert_eq!(found.text, "<s>b<unk>!");
    assert_eq!(literal(&found), ["<s>"]);
    let error = render("x", json!([{"role": "user", "content": "\u{fdd0}"}])).unwrap_err().to_string();
    assert!(error.contains("U+FDD0"), "{error}");
}

#[test]
fn no_message_makes_a_control_token() {
    let tokenizer = with_template("{% for m in messages %}{{ bos_token + m.content + eos_token }}{% endfor %}");
    proptest!(|(pieces in prop::collection::vec("<s>|</s>|<unk>|<|s>|/s>|a| |é", 0..12))| {
        let content = pieces.concat();
        let found = tokenizer.apply_chat_template(&conversation(json!([{"role": "user", "content": content}])), false);
        let found = found.unwrap();
        prop_assert_eq!(&found.text, &format!("<s>{content}</s>"));
        let tokens = tokenizer.encode_spans(&found.text, &found.literal, false).unwrap();
        let special = ["<s>", "</s>", "<unk>"].map(|token| tokenizer.token_to_id(token).unwrap());
        let controls: Vec<usize> = tokens.iter().filter(|token| special[..2].contains(&token.id)).map(|token| token.span.start).collect();
        prop_assert!(controls == [0, "<s>".len() + content.len()], "{:?}: {:?}", content, tokens);
    });
}
