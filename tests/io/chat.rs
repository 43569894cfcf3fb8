//! Chat templates with what those of Llama 2, 3, 3.2 and SmolLM2 use. The expected texts are transformers'.

use std::fs;

use serde_json::{Value, json};
use vicugna::error::Result;
use vicugna::io::tokenizer::{Message, Tokenizer};

use super::files::fixture;

/// The roles must alternate; the system message goes into the first of the user's.
const INST: &str = "\
{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}\
{% else %}{% set rest = messages %}{% set system = false %}{% endif %}\
{% for message in rest %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}\
{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

/// Blocks on lines of their own, which leave no line; `tools` that are none; the date.
const HEADERS: &str = r#"{{- bos_token }}
{%- if not date is defined %}
    {%- set date = strftime_now("%Y") | length %}
{%- endif %}

{#- The system message first #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\n\n" }}
{%- if tools is not none %}
    {{- raise_exception("no tools") }}
{%- endif %}
{{- "Digits of the year: " + date|string + "\n\n" + system }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|end|>\n\n' + message['content'] | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\n\n' }}
{%- endif %}
"#;

/// The rest: namespaces, loop controls, Python's methods, JSON, macros, undefined names.
const FEATURES: &str = r#"{%- set ns = namespace(n=0) -%}
{% for message in messages %}
  {%- if message.role == 'system' %}{% continue %}{% endif %}
  {%- set ns.n = ns.n + 1 %}
  {%- if ns.n > 2 %}{% break %}{% endif %}
  {% if message.content is string and message.tool_calls is not defined %}
{{ loop.index }}|{{ message.content.strip().split(' ')[-1].upper() }}|{{ message['content'][:5] | tojson }}
  {% endif %}
{% endfor %}
{% macro m(x, y='d') %}[{{ x }}{{ y }}]{% endmacro %}
{{ m('q', y='z') }}{{ missing }}|{{ {"b": [1, "é<&'"], "c": none, "d": true} | tojson }}|{{ [1] | tojson(indent=2) }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | map(attribute='role') | join(',') }}
"#;

fn tokenizer(config: &Value, file: Option<&str>) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let source = vicugna::io::gguf::Gguf::open(fixture("gguf_llama_spm/tiny.gguf")).unwrap().tokenizer().unwrap();
    source.write(folder.path()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    if let Some(template) = file {
        fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    }
    Tokenizer::from_folder(folder.path()).unwrap()
}

fn render(template: &str, messages: &[(&str, &str)], add_generation_prompt: bool) -> Result<String> {
    let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": template});
    tokenizer(&config, None).apply_chat_template(&conversation(messages), add_generation_prompt)
}

fn conversation(messages: &[(&str, &str)]) -> Vec<Message> {
    messages.iter().map(|&(role, content)| Message { role: role.into(), content: content.into() }).collect()
}

#[test]
fn templates_render_as_in_transformers() {
    let long = [("system", " S \n"), ("user", " x y "), ("assistant", "  y\n"), ("user", "z")];
    for (template, messages, prompt, expected) in [
        (INST, &long[1..2], true, "<s>[INST] x y [/INST]"),
        (INST, &long, false, "<s>[INST] <<SYS>>\n S \n\n<</SYS>>\n\n x y [/INST] y </s><s>[INST] z [/INST]"),
        (
            HEADERS,
            &long[1..2],
            true,
            "<s><|start|>system<|end|>\n\nDigits of the year: 4\n\n<|start|>user<|end|>\n\nx y<|eot|><|start|>assistant<|end|>\n\n",
        ),
        (
            HEADERS,
            &long,
            false,
            "<s><|start|>system<|end|>\n\nDigits of the year: 4\n\nS<|start|>user<|end|>\n\nx y<|eot|><|start|>assistant<|end|>\n\ny<|eot|><|start|>user<|end|>\n\nz<|eot|>",
        ),
        (
            FEATURES,
            &long[1..2],
            true,
            "1|Y|\" x y \"\n[qz]|{\"b\": [1, \"é<&'\"], \"c\": null, \"d\": true}|[\n  1\n]\n1user",
        ),
        (
            FEATURES,
            &long,
            false,
            "2|Y|\" x y \"\n3|Y|\"  y\\n\"\n[qz]|{\"b\": [1, \"é<&'\"], \"c\": null, \"d\": true}|[\n  1\n]\n2system,user,assistant,user",
        ),
    ] {
        assert_eq!(render(template, messages, prompt).unwrap(), expected);
    }
}

#[test]
fn a_template_refuses_in_its_own_words() {
    let error = render(INST, &[("user", "a"), ("user", "b")], true).unwrap_err().to_string();
    assert!(error.contains("chat template: ") && error.contains("Roles must alternate"), "{error}");
    let error = render("{% if %}", &[("user", "a")], true).unwrap_err().to_string();
    assert!(error.contains("chat template: syntax error"), "{error}");
    let error = render("{{ strftime_now('%Q') }}", &[("user", "a")], true).unwrap_err().to_string();
    assert!(error.contains("strftime_now: %Q"), "{error}");
}

#[test]
fn a_tokenizer_without_a_template_says_so() {
    let error = tokenizer(&json!({}), None).apply_chat_template(&conversation(&[("user", "a")]), true).unwrap_err();
    assert!(error.to_string().ends_with(": has no chat template"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn the_file_comes_before_the_config_and_default_before_other_names() {
    let named = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"}]);
    let config = json!({"chat_template": named});
    let render = |tokenizer: Tokenizer| tokenizer.apply_chat_template(&conversation(&[("user", "a")]), true).unwrap();
    assert_eq!(render(tokenizer(&config, None)), "default");
    assert_eq!(render(tokenizer(&config, Some("from the file"))), "from the file");
}
