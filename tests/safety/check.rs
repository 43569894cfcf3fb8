//! `vicugna safety check`.

use serde_json::Value;

use crate::command::vicugna;

fn check(extra: &[&str]) -> (i32, Value) {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny");
    let fixed = ["safety", "check", "--model", model, "--checkers", "llama-guard", "--json", "--quiet"];
    let ran = vicugna(&[&fixed[..], extra].concat());
    let found = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr));
    (ran.code, found)
}

/// A guard's profile that fits into 512 tokens.
fn short(folder: &std::path::Path) -> String {
    let path = folder.join("short.toml");
    let text = "name = \"short\"\nprefix = \"S\"\nsafe = \"safe\"\nunsafe = \"unsafe\"\n\
        template = \"<|begin|>Is {role} safe?\\n{categories}\\n{conversation}\\n\"\n\
        categories = [{ name = \"Volcanoes\" }, { name = \"Submarines\" }]\nroles = { user = \"U\", agent = \"A\" }\n";
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn a_model_that_is_no_guard_cannot_judge() {
    let folder = tempfile::TempDir::new().unwrap();
    let profile = short(folder.path());
    for extra in [&["--role", "user"][..], &["--role", "agent", "--user-prompt", "What?"]] {
        let (code, found) = check(&[extra, &["--profile", &profile, "Is it tall?"]].concat());
        assert_eq!((code, &found["outcome"]), (1, &Value::from("cannot-judge")), "{found}");
        let why = found["checks"][0]["why"].as_str().unwrap();
        assert_eq!(why, "the guard: says neither \"safe\" nor \"unsafe\" with a probability of 0.5");
    }
}

#[test]
fn what_does_not_fit_is_not_safe() {
    let (code, found) = check(&["Is it tall?"]);
    assert_eq!((code, &found["outcome"]), (1, &Value::from("cannot-judge")), "{found}");
    let why = found["checks"][0]["why"].as_str().unwrap();
    assert!(
        why.starts_with("conversation: it takes ") && why.ends_with("more than the model's context of 512"),
        "{why}"
    );
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny");
    let fixed = ["safety", "check", "--model", model, "--checkers", "llama-guard"];
    let ask = |extra: &[&str]| vicugna(&[&fixed[..], extra].concat());
    assert_eq!(ask(&["--role", "agent", "text"]).code, 2);
    assert_eq!(vicugna(&["safety", "check", "--model", model, "text"]).code, 2);
    ask(&["--user-prompt", "asked", "text"]).refused("--user-prompt: is of no use to judge the user's text");
    ask(&["--threshold", "1.5", "text"]).refused("--threshold: must be from 0 to 1, got 1.5");
    ask(&["--profile", "own.toml", "text"]).refused("own.toml: there is no such profile, and no such file");
}
