//! Names of which two make one option: whether something is done, and how.

use super::table::{FOUR_BITS, NF4_DOUBLE};
use super::{Options, Pair, canonical, one_of, refuse};
use crate::error::{Error, Result};

/// Llama-recipes' names for whether gradients are clipped, and to what norm.
pub(super) const CLIPPING: [&str; 2] = ["gradient_clipping", "gradient_clipping_threshold"];

/// Transformers' names for when something is done and after how many steps, our name, and the values of the first.
const INTERVALS: [([&str; 2], &str, &[&str]); 2] = [
    (["eval_strategy", "eval_steps"], "eval_every", &["no", "steps", "epoch"]),
    (["save_strategy", "save_steps"], "save_every", &["no", "steps", "epoch", "best"]),
];

/// Bitsandbytes' names for the kind of 4 bits, whether their scales are quantized too, and from where on activations are
/// outliers in 8 bits.
const QUANT_TYPE: &str = "quant_type";
const DOUBLE: &str = "use_double_quant";
const THRESHOLD: &str = "llm_int8_threshold";

/// JumpStart's and llama-recipes' names for whether a model is sharded, and how, and what their ways are called here.
const FSDP: [&str; 2] = ["enable_fsdp", "use_fsdp"];
const FSDP_STRATEGY: &str = "sharding_strategy";
const STRATEGIES: [(&str, &str); 3] = [("FULL_SHARD", "full"), ("SHARD_GRAD_OP", "grad-op"), ("NO_SHARD", "none")];

/// All of these names.
pub(super) const NAMES: [&str; 12] = [
    CLIPPING[0],
    CLIPPING[1],
    INTERVALS[0].0[0],
    INTERVALS[0].0[1],
    INTERVALS[1].0[0],
    INTERVALS[1].0[1],
    QUANT_TYPE,
    DOUBLE,
    THRESHOLD,
    FSDP[0],
    FSDP[1],
    FSDP_STRATEGY,
];

/// The names whose values are true or false.
pub(super) const TRUTHS: [&str; 4] = [CLIPPING[0], DOUBLE, FSDP[0], FSDP[1]];

impl Options<'_> {
    /// Makes our options of what one source, whose options are `pairs`, has said in two names.
    pub(super) fn join_parts(&mut self, pairs: &[Pair]) -> Result<()> {
        for (names, ours, strategies) in INTERVALS {
            self.join_interval(names, ours, strategies)?;
        }
        self.refuse_warmup(pairs)
    }

    /// Makes the interval `ours` of a strategy and a number of steps; 0 is once an epoch. Checkpoints are written in any
    /// case; where nothing is to be evaluated, nothing is kept for it.
    fn join_interval(&mut self, names: [&str; 2], ours: &str, strategies: &[&str]) -> Result<()> {
        let [strategy, steps] = names.map(|name| self.values.remove(name).flatten());
        let [strategy_as, steps_as] = names.map(|name| self.given.remove(name).unwrap_or_else(|| name.into()));
        let has_steps = steps.is_some();
        let every = match (strategy.as_deref(), steps) {
            (None, None) => return Ok(()),
            (None | Some("steps"), Some(steps)) => steps,
            (Some("steps"), None) => {
                return Err(Error::input(format!("--{strategy_as}"), format!("steps needs --{}", names[1])));
            }
            (Some("no"), _) if ours == "eval_every" => return self.evaluate_nothing(&strategy_as),
            (Some(other), _) if strategies.contains(&other) => "0".into(),
            (Some(other), _) => return Err(refuse(&strategy_as, other, &one_of(strategies.iter().copied()))),
        };
        self.put(ours, if has_steps { &steps_as } else { &strategy_as }, Some(every))
    }

    fn evaluate_nothing(&mut self, written: &str) -> Result<()> {
        match self.values.contains_key("eval") {
            true => Err(refuse(written, "no", "--eval names what to evaluate on")),
            false => self.put("validation_split_ratio", written, Some("0".into())),
        }
    }

    /// Refuses warm-up with transformers' schedule "constant", which has none there.
    fn refuse_warmup(&self, pairs: &[Pair]) -> Result<()> {
        let mut schedules = pairs.iter().filter(|(name, _)| canonical(name) == "lr_scheduler_type");
        let is_constant = schedules.any(|(_, value)| value.as_deref() == Some("constant"));
        let warms_up =
            |name: &str| self.values.get(name).cloned().flatten().is_some_and(|value| value.parse() != Ok(0.0));
        match is_constant && ["warmup_steps", "warmup_ratio"].into_iter().any(warms_up) {
            true => Err(Error::input("--lr_scheduler_type", "constant has no warm-up")
                .with_hint("say constant_with_warmup, or leave the warm-up out")),
            false => Ok(()),
        }
    }

    /// Makes one option of llama-recipes' two.
    pub(super) fn clip(&mut self) {
        let [clips, threshold] = CLIPPING.map(|name| self.values.remove(name).flatten());
        if clips.as_deref() == Some("true") {
            self.values.entry("max_grad_norm".into()).or_insert(threshold.or_else(|| Some("1".into())));
        }
    }

    /// Makes our strategy of whether there is to be one, and which; as for its owners it changes nothing alone.
    pub(super) fn choose_strategy(&mut self) -> Result<()> {
        let shards = FSDP.map(|name| self.values.remove(name).flatten()).iter().any(|on| on.as_deref() == Some("true"));
        let strategy = self.values.remove(FSDP_STRATEGY).flatten();
        if !shards {
            return Ok(());
        }
        let strategy = strategy.map_or("FULL_SHARD".into(), |name| name.to_uppercase());
        match STRATEGIES.iter().find(|(theirs, _)| strategy.ends_with(theirs)) {
            Some((_, ours)) => self.unless_given("shard", Some(ours.to_string())),
            None if strategy.ends_with("HYBRID_SHARD") => {
                return Err(refuse(FSDP_STRATEGY, &strategy, "hybrid sharding is not in this version"));
            }
            None => {
                return Err(refuse(FSDP_STRATEGY, &strategy, &one_of(STRATEGIES.iter().map(|(theirs, _)| *theirs))));
            }
        }
        Ok(())
    }

    /// Makes a scheme of its parts. As for their owners, what is of another scheme than the chosen one changes nothing.
    pub(super) fn choose_scheme(&mut self) -> Result<()> {
        let [kind, double, threshold] = [QUANT_TYPE, DOUBLE, THRESHOLD].map(|name| self.values.remove(name).flatten());
        let kind = kind.map(|kind| kind.to_lowercase());
        if let Some(kind) = kind.as_deref().filter(|kind| !["nf4", "fp4"].contains(kind)) {
            return Err(refuse(QUANT_TYPE, kind, "it is nf4 or fp4"));
        }
        let scheme = self.values.get("quantize").cloned().flatten();
        let double = double.unwrap_or_else(|| (scheme.as_deref() == Some(NF4_DOUBLE)).to_string());
        match scheme.as_deref() {
            Some(FOUR_BITS) => self.in_four_bits(kind.unwrap_or_else(|| "fp4".into()), double),
            Some(NF4_DOUBLE) => self.in_four_bits(kind.unwrap_or_else(|| "nf4".into()), double),
            Some(ours @ ("nf4" | "fp4")) => self.in_four_bits(ours.into(), double),
            // Theirs by default, which is of no consequence without 8 bits.
            None if threshold.as_deref().is_some_and(|threshold| threshold.parse() == Ok(6.0)) => {}
            Some("int8") | None => self.unless_given("int8_threshold", threshold),
            Some(_) => {}
        }
        Ok(())
    }

    fn in_four_bits(&mut self, kind: String, double: String) {
        self.values.insert("quantize".into(), Some(kind));
        self.unless_given("double_quant", Some(double));
    }

    /// Sets one of our options, if it has no value.
    fn unless_given(&mut self, name: &str, value: Option<String>) {
        if value.is_some() {
            self.values.entry(name.into()).or_insert(value);
        }
    }
}
