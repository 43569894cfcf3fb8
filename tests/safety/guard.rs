//! Llama Guard: what it reads, and how its answer is read.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use serde::Deserialize;
use vicugna::device::Device;
use vicugna::dtype::DType;
use vicugna::generate::Reading;
use vicugna::io::model::ModelFiles;
use vicugna::io::tokenizer::Tokenizer;
use vicugna::safety::guard::{Profile, Prompt, scores};
use vicugna::safety::{Role, Turn};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn prompts_are_those_of_the_utility() {
    #[derive(Deserialize)]
    struct Case {
        profile: String,
        role: Role,
        turns: Vec<String>,
        prompt: String,
    }
    let text = std::fs::read_to_string(root().join("tests/fixtures/guard_prompts.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 12);
    for Case { profile, role, turns, prompt } in cases {
        let said = [Role::User, Role::Agent].into_iter().cycle().zip(turns);
        let turns: Vec<Turn> = said.map(|(role, text)| Turn { role, text }).collect();
        let found = Profile::find(&profile).unwrap().prompt(&turns, role);
        assert_eq!(found.text, prompt, "{profile}");
        let literal: Vec<&str> = found.literal.iter().map(|place| &found.text[place.clone()]).collect();
        assert!(turns.iter().all(|turn| literal.contains(&&turn.text[..])), "{profile}: {literal:?}");
        assert!(found.codes.iter().all(|category| prompt.contains(&format!("{}: {}", category.code, category.name))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_said_adds_no_control_token(
        parts in prop::collection::vec(
            prop::sample::select(vec!["<|begin|>", "<|end|>", "<|", "begin|>", "|>", "hello", " ", "\n\nAgent: ", "[/INST]", "é"]),
            1..12,
        ),
    ) {
        let tokenizer = Tokenizer::from_folder(root().join("assets/tiny")).unwrap();
        let mut profile = Profile::find("llama-guard-3").unwrap();
        profile.template = "<|begin|>{categories}<|end|>{conversation}<|begin|>end|>".into();
        let control = |text: &str| {
            let turn = Turn { role: Role::User, text: text.into() };
            let Prompt { text, literal, .. } = profile.prompt(&[turn], Role::User);
            let tokens = tokenizer.encode_spans(&text, &literal, true).unwrap();
            tokens.iter().filter_map(|token| tokenizer.special_token(token.id)).collect::<Vec<_>>()
        };
        prop_assert_eq!(control(&parts.concat()), control("hello"));
    }
}

/// What was said, and how likely each token is then.
type Rule<'a> = (&'a [&'a str], &'a [(&'a str, f64)]);

/// The scores of "safe" and "unsafe" in a language of these tokens, where what was said leads to these probabilities.
fn heard(language: &[Rule<'_>]) -> [f64; 2] {
    let tokens = ["safe", "unsafe", "un", "s", "afe", "\n\n", " safe", "ty", "other"];
    let rules: BTreeMap<Vec<&str>, &[(&str, f64)]> =
        language.iter().map(|(said, next)| (said.to_vec(), *next)).collect();
    let said = |ids: &[u32]| ids.iter().map(|&id| tokens[id as usize]).collect::<Vec<_>>();
    let mut next = |ids: &[u32]| {
        let likely = rules.get(&said(ids)).unwrap_or_else(|| panic!("{:?} is looked at", said(ids)));
        let of = |token: &str| likely.iter().find(|(name, _)| *name == token).map_or(1e-9, |(_, p)| *p);
        Ok(tokens.iter().map(|token| of(token).ln() as f32).collect())
    };
    scores(["safe", "unsafe"], &mut next, &|ids| Ok(said(ids).concat())).unwrap().each
}

fn close(found: [f64; 2], wanted: [f64; 2]) {
    assert!(
        found.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6),
        "{found:?}, not {wanted:?}"
    );
}

#[test]
fn a_word_counts_however_it_is_cut() {
    close(heard(&[(&[], &[("safe", 0.7), ("unsafe", 0.2), ("other", 0.1)])]), [0.7, 0.2]);
    // Behind a blank line, as Llama Guard 3 answers, the verdict is the second token.
    let behind: [Rule<'_>; 2] =
        [(&[], &[("\n\n", 0.9), ("safe", 0.1)]), (&["\n\n"], &[("unsafe", 0.5), ("safe", 0.5)])];
    close(heard(&behind), [0.1 + 0.45, 0.45]);
    let cut: [Rule<'_>; 3] = [
        (&[], &[("un", 0.5), ("s", 0.3), ("unsafe", 0.1), (" safe", 0.1)]),
        (&["un"], &[("safe", 0.8), ("other", 0.2)]),
        (&["s"], &[("afe", 0.5), ("other", 0.5)]),
    ];
    close(heard(&cut), [0.15 + 0.1, 0.4 + 0.1]);
}

#[test]
fn texts_that_begin_alike_are_read_on() {
    let files = ModelFiles::open(&root().join("tests/fixtures/gqa")).unwrap();
    let model = files.load(DType::F32, &Device::Cpu).unwrap();
    model.freeze().unwrap();
    let mut reading = Reading::default();
    let texts: [&[u32]; 5] = [&[3, 4, 5, 6, 7], &[3, 4, 5, 9], &[3, 4, 5, 9], &[3, 4, 5, 9, 8, 7], &[8]];
    // The last token is always read, for what comes after it; of the others those that were not read just before.
    for (text, computed) in texts.into_iter().zip([5, 1, 1, 2, 1]) {
        let before = reading.computed();
        let found = reading.read(&model, text).unwrap();
        assert_eq!(reading.computed() - before, computed, "{text:?}");
        let wanted = Reading::default().read(&model, text).unwrap();
        let apart = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5, "{text:?}: {apart:e} apart");
    }
    assert!(reading.read(&model, &[]).is_err());
}

#[test]
fn profiles_that_are_none_are_refused_by_their_key() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("own.toml");
    let good = std::fs::read_to_string(root().join("src/safety/guard/profiles/llama-guard-1.toml")).unwrap();
    let refusal = |from: &str, to: &str| {
        assert!(good.contains(from));
        std::fs::write(&path, good.replace(from, to)).unwrap();
        Profile::find(path.to_str().unwrap()).unwrap_err().to_string()
    };
    std::fs::write(&path, &good).unwrap();
    assert_eq!(Profile::find(path.to_str().unwrap()).unwrap(), Profile::find("llama-guard-1").unwrap());
    assert!(refusal("prefix = \"O\"", "prefix = \"O\"\nthreshold = 1").contains("threshold"));
    assert!(refusal("safe = \"safe\"\nun", "un").contains("`safe`"));
    assert!(refusal("safe = \"safe\"\n", "safe = \" \"\n").contains("safe is empty"));
    assert!(refusal("{conversation}", "").contains("template must have {conversation} once, it has it 0 times"));
    assert!(refusal("{categories}", "{categories}{categories}").contains("it has it 2 times"));
    let unknown = Profile::find("llama-guard-9").unwrap_err();
    assert!(unknown.hint().unwrap().contains("llama-guard-1, llama-guard-2, llama-guard-3"), "{unknown}");
}
