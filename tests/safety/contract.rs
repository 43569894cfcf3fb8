//! Only what every checker calls safe is safe.

use proptest::prelude::*;
use vicugna::error::{Error, Result};
use vicugna::safety::{Category, Checker, Judgement, Outcome, Role, Turn, Verdict, judge, judged};

fn turns(said: &[(Role, &str)]) -> Vec<Turn> {
    said.iter().map(|&(role, text)| Turn { role, text: text.into() }).collect()
}

/// A checker that does as it is told: 0 says safe, 1 unsafe, 2 cannot judge, 3 fails, 4 panics.
struct Told(u8);

impl Checker for Told {
    fn name(&self) -> &str {
        "told"
    }

    fn judge(&mut self, _: &[Turn], _: Role) -> Result<Judgement> {
        let verdict = match self.0 {
            0 => Verdict::Safe,
            1 => Verdict::Unsafe { categories: vec![Category { code: "S1".into(), name: "Volcanoes".into() }] },
            2 => Verdict::CannotJudge { why: "of its own".into() },
            3 => return Err(Error::input("told", "to fail")),
            _ => panic!("told to"),
        };
        Ok(Judgement { checker: "told".into(), verdict, score: None, tokens: 1 })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_else_is_safe(told in prop::collection::vec(0..5u8, 0..5)) {
        let mut checkers: Vec<Box<dyn Checker>> = told.iter().map(|&told| Box::new(Told(told)) as _).collect();
        let found = judge(&mut checkers, &turns(&[(Role::User, "hi")]), Role::User);
        prop_assert_eq!(found.len(), told.len());
        let wanted = match told.iter().max() {
            None => Outcome::Unchecked,
            Some(0) => Outcome::Safe,
            Some(_) if told.contains(&1) => Outcome::Unsafe,
            Some(_) => Outcome::CannotJudge,
        };
        prop_assert_eq!(Outcome::of(&found), wanted);
    }
}

#[test]
fn a_checker_that_fails_says_why() {
    let mut checkers: Vec<Box<dyn Checker>> = vec![Box::new(Told(3)), Box::new(Told(4))];
    let found = judge(&mut checkers, &turns(&[(Role::User, "hi")]), Role::User);
    let why = |verdict: &Verdict| match verdict {
        Verdict::CannotJudge { why } => why.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(why(&found[0].verdict), "told: to fail");
    assert_eq!(why(&found[1].verdict), "the checker panicked");
}

#[test]
fn an_answer_is_judged_with_what_was_asked_and_a_question_without_the_answer() {
    let [ask, answer] = [(Role::User, "one"), (Role::Agent, "two")];
    let all = turns(&[ask, answer, ask, answer]);
    assert_eq!(judged(&all, Role::User).unwrap(), &all[..3]);
    assert_eq!(judged(&all, Role::Agent).unwrap(), &all[..]);
    let refusal = |said: &[(Role, &str)], role| judged(&turns(said), role).unwrap_err().to_string();
    assert!(refusal(&[ask], Role::Agent).contains("says nothing"));
    assert!(refusal(&[], Role::User).contains("says nothing"));
    assert!(refusal(&[answer], Role::Agent).contains("without what it was asked"));
    assert!(refusal(&[(Role::User, " \n")], Role::User).contains("is empty"));
    assert!(refusal(&[(Role::User, ""), answer], Role::Agent).contains("is empty"));
}
