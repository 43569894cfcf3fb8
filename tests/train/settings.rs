//! Runs whose options are compared.

use crate::command::{Ran, fixture};
use crate::run::Place;

/// A place with some records, and runs on them in folders `out-1`, `out-2` and so on.
pub struct Setting {
    pub place: Place,
    pub data: String,
    runs: std::cell::Cell<usize>,
}

impl Setting {
    pub fn new() -> Self {
        let place = Place::new();
        let data = place.random_records("data.jsonl", 12);
        Self { place, data, runs: 0.into() }
    }

    /// A run with these options, and its resolved configuration but for the date.
    pub fn run(&self, options: &[&str]) -> (Ran, toml::Table) {
        self.runs.set(self.runs.get() + 1);
        let out = format!("out-{}", self.runs.get());
        let ran = self.place.finetune(&fixture("gqa"), &self.data, &out, options);
        let config = self.config_in(&out);
        (ran, config)
    }

    /// The resolved configuration in the folder `out`, but for the date.
    pub fn config_in(&self, out: &str) -> toml::Table {
        let config = std::fs::read_to_string(self.place.path(out).join("config.toml")).unwrap_or_default();
        let mut config: toml::Table = config.parse().unwrap();
        config.remove("date");
        config
    }

    /// The resolved configuration of a run with these options.
    pub fn config(&self, options: &[&str]) -> toml::Table {
        let (ran, config) = self.run(options);
        assert_eq!(ran.code, 0, "{options:?}: {}", ran.stderr);
        config
    }

    /// Fails unless `options` and `ours` come to the same configuration.
    pub fn same(&self, options: &[&str], ours: &[&str]) {
        let [mut found, mut wanted] = [self.config(options), self.config(ours)];
        found.remove("out");
        wanted.remove("out");
        assert_eq!(found, wanted, "{options:?}");
    }
}
