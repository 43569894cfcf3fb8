//! Kernels broken in one place at a time: a trap or a wrong result must tell.
//!
//! A mutant is run on every case of its kernel, in two orders of warps, until one tells. Survivors that compute the same
//! are listed in `EQUIVALENT` with their proof and leave the count; there are no others.

use crate::case::{Case, Failure};
use crate::catalogue;
use std::collections::BTreeMap;
use std::ops::Range;

/// One way to break a kernel, at one place.
struct Mutant<'a> {
    /// Number of the way in [`WAYS`].
    way: usize,
    /// The kernel's cases.
    cases: &'a [Case],
    /// What stands in place of some lines of the kernel's text: thousands of mutants share the text itself.
    edit: Option<(Range<usize>, String)>,
    /// Number of the buffer that is an element shorter.
    shortened: Option<usize>,
    /// The line that is changed, with the source line that it came from.
    place: String,
    line: usize,
}

const WAYS: &[&str] = &[
    "remove a bar.sync",
    "make a barrier divergent",
    "shift a global address by one access",
    "shorten an allocation by one element",
    "drop a bounds predicate",
    "shfl or vote with half the mask",
    "read unwritten shared memory (drop a st.shared)",
    "blocks write one address (one block's number for all)",
    "issue cp.async one barrier early",
    "remove a cp.async.wait_group",
    "swap lanes in an ldmatrix address",
];

/// A line of PTX and what stands in its place; nothing where the way does not apply. The second argument is the lines
/// before.
type Change = fn(&str, &[&str]) -> Option<String>;

/// The ways that change one line, by their number.
const CHANGES: &[(usize, Change)] = &[
    (0, |line, _| line.trim_start().starts_with("bar.sync").then(String::new)),
    (1, |line, _| {
        line.trim_start().starts_with("bar.sync").then(|| {
            let half = ".reg .pred half; .reg .b32 lane; mov.u32 lane, %laneid; setp.lt.u32 half, lane, 16;";
            format!("{{ {half} @half {} }}", line.trim())
        })
    }),
    (2, shifted),
    (4, unguarded),
    (5, |line, _| {
        let collective = line.contains("shfl.sync") || line.contains("vote.sync");
        collective.then(|| line.replace("0xffffffff", "0x0000ffff").replace("-1;", "65535;"))
    }),
    (6, |line, _| line.trim_start().starts_with("st.shared").then(String::new)),
    (7, |line, _| line.contains("%ctaid").then(|| replace_ctaid(line))),
    (9, |line, _| line.trim_start().starts_with("cp.async.wait_group").then(String::new)),
    (10, |line, _| {
        let (head, address) = line.rsplit_once('[')?;
        let (register, rest) = address.split_at(address.find(['+', ']'])?);
        line.contains("ldmatrix").then(|| {
            format!("{{ .reg .b32 other; shfl.sync.bfly.b32 other, {register}, 1, 31, -1; {head}[other{rest} }}")
        })
    }),
];

/// A guarded instruction without its guard, where that is an inequality: a bound. A branch then never jumps.
fn unguarded(line: &str, before: &[&str]) -> Option<String> {
    let (guard, rest) = line.trim_start().split_once(char::is_whitespace)?;
    let predicate = guard.strip_prefix('@')?.trim_start_matches('!');
    let sets = |line: &&&str| line.contains("setp.") && line.split(['\t', ' ', ',', '|']).any(|word| word == predicate);
    let set = before.iter().rev().find(sets)?;
    let bound = ["setp.lt", "setp.le", "setp.gt", "setp.ge"].iter().any(|opcode| set.contains(opcode));
    bound.then(|| if rest.trim_start().starts_with("bra") { String::new() } else { rest.into() })
}

fn replace_ctaid(line: &str) -> String {
    let at = line.find("%ctaid").unwrap_or(0);
    let end = at + line[at..].find([';', ',']).unwrap_or(0);
    format!("{}0{}", &line[..at], &line[end..])
}

/// A load or store of global memory, by its own bytes further.
fn shifted(line: &str, _: &[&str]) -> Option<String> {
    let opcode = line.split_whitespace().find(|word| word.starts_with("ld.global") || word.starts_with("st.global"));
    let copies = line.trim_start().starts_with("cp.async.c");
    let bytes = match opcode {
        None if !copies => return None,
        None => 16,
        Some(opcode) => {
            let lanes = if opcode.contains(".v4") {
                4
            } else if opcode.contains(".v2") {
                2
            } else {
                1
            };
            lanes
                * opcode
                    .trim_end_matches(|c: char| !c.is_ascii_digit())
                    .rsplit(|c: char| !c.is_ascii_digit())
                    .next()?
                    .parse::<u32>()
                    .ok()?
                / 8
        }
    };
    let from = if copies { line.rfind('[')? } else { line.find('[')? };
    let end = from + line[from..].find(']')?;
    Some(format!("{}+{bytes}{}", &line[..end], &line[end..]))
}

/// Every mutant of one kernel.
fn mutants(cases: &[Case]) -> Vec<Mutant<'_>> {
    let case = &cases[0];
    let lines: Vec<&str> = case.ptx.lines().collect();
    let mut out = Vec::new();
    let mut source = String::new();
    for (at, line) in lines.iter().enumerate() {
        if let Some(loc) = line.trim().strip_prefix(".loc") {
            let text = |place: &str| {
                let mut numbers = place.split_whitespace().map_while(|number| number.trim_matches(',').parse().ok());
                let (file, line) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                format!("`{}`", case.source(file as u32, line))
            };
            let (own, caller) = loc.split_once("inlined_at").unwrap_or((loc, ""));
            source = text(own);
            if !caller.is_empty() {
                source += &format!(" in {}", text(caller));
            }
        }
        let place = format!("{}: {} of {source}", case.entry, line.trim());
        for &(way, change) in CHANGES {
            if let Some(changed) = change(line, &lines[..at]) {
                let edit = Some((at..at + 1, changed));
                out.push(Mutant { way, cases, edit, shortened: None, place: place.clone(), line: at });
            }
        }
        if line.trim_start().starts_with("bar.sync") && case.ptx.contains("cp.async.c") {
            // The copies between this barrier and the next commit are issued before it: the barrier moves behind them.
            if let Some(commit) = lines[at..].iter().position(|line| line.contains("cp.async.commit_group")) {
                let to = at + commit + 1;
                let edit = Some((at..to, [&lines[at + 1..to], &[*line]].concat().join("\n")));
                out.push(Mutant { way: 8, cases, edit, shortened: None, place, line: at });
            }
        }
    }
    for case in cases {
        for buffer in case.buffers() {
            let place = format!("{}: buffer {buffer}", case.name);
            let cases = std::slice::from_ref(case);
            out.push(Mutant { way: 3, cases, edit: None, shortened: Some(buffer), place, line: 0 });
        }
    }
    out
}

/// How a mutant ended.
enum Fate {
    Trap,
    Result,
    Survived,
}

impl Mutant<'_> {
    /// The text of the kernel, broken.
    fn ptx(&self) -> String {
        let ptx = &self.cases[0].ptx;
        let Some((range, text)) = &self.edit else { return ptx.clone() };
        let lines: Vec<&str> = ptx.lines().collect();
        [&lines[..range.start], &[text.as_str()], &lines[range.end..], &[""]].concat().join("\n")
    }

    fn fate(&self) -> Fate {
        let ptx = self.ptx();
        for case in self.cases {
            for seed in [0, 5] {
                match case.run(&ptx, seed, self.shortened) {
                    Ok(_) => {}
                    Err(Failure::Trap(_)) => return Fate::Trap,
                    Err(Failure::Wrong(_)) => return Fate::Result,
                    Err(Failure::Refused(text)) => panic!("{}: the mutant is no kernel: {text}", self.place),
                }
            }
        }
        Fate::Survived
    }
}

impl Mutant<'_> {
    /// Whether any case comes to the line that is changed, and, for a guarded line, past its guard.
    fn reached(&self) -> &'static str {
        let stops = |guarded: bool| {
            let case = &self.cases[0];
            let mut lines: Vec<&str> = case.ptx.lines().collect();
            let guard = lines[self.line].split_whitespace().next().filter(|word| guarded && word.starts_with('@'));
            let stop = format!("{} trap;", guard.unwrap_or_default());
            lines[self.line] = &stop;
            let ptx = lines.join("\n") + "\n";
            self.cases.iter().any(|case| matches!(case.run(&ptx, 0, None), Err(Failure::Trap(_))))
        };
        match (stops(false), stops(true)) {
            (false, _) => "never reached",
            (_, false) => "guard never holds",
            _ => "reached",
        }
    }
}

/// Mutants that compute what the kernel computes.
struct Equivalent {
    way: usize,
    /// Parts of the place.
    place: &'static [&'static str],
    /// Claims that the line is never reached or its guard never holds, which the test then asks of every case.
    never: bool,
    why: &'static str,
}

const fn never(way: usize, place: &'static [&'static str], why: &'static str) -> Equivalent {
    Equivalent { way, place, never: true, why }
}

const fn same(way: usize, place: &'static [&'static str], why: &'static str) -> Equivalent {
    Equivalent { way, place, never: false, why }
}

const SPLIT: &str = "a round that the compiler split off a loop of exactly 512 / 128 rounds";
const NO_MULTIPLE: &str = "a copy of the round for an i that is no multiple of 32";
const NOT_USED: &str = "param, m and v come with the tensor's entry, but the norm uses grad and n alone";

const ALL_ROUNDS: &str = "the compiler's copy for other numbers of rounds than the 1, 2 or 8 of W and the block";
const NO_STEPS: &str = "copies beyond K, which are zeros, to a stage that nobody reads after";
const FULL_SPANS: &str = "on the way back only spans before the last are fetched again, and those are full";
const NO_ROWS: &str = "copies of no rows, which are zeros, to a tile that nobody reads after";

const EQUIVALENT: &[Equivalent] = &[
    same(4, &["matmul_rows", "for (int k0 = warp_id() * STRETCH"], "a warp without a stretch of K adds zeros"),
    same(4, &["copy(stages + stage * STAGE)"], NO_STEPS),
    same(4, &["of `if (slice == 0) {`"], NO_STEPS),
    never(2, &["attention_decode", "in `cp_async(q_tile.at("], ALL_ROUNDS),
    same(4, &["attention_bwd", "of `if (visible >= 16) return;`"], "the mask leaves what every query of the tile sees"),
    same(4, &["attention", "of `if (start + KEYS < keys) fetch_keys("], NO_ROWS),
    same(4, &["attention_decode", "of `if (start < end) {"], NO_ROWS),
    never(4, &["_matmul", "of `if (steps == 0) return;`"], "a product with an empty K, list or K2 is not begun"),
    same(4, &["int8_matmul_nt", "of `if (count > 0) outliers("], "a list of no columns has no steps"),
    same(
        4,
        &["nf4_matmul", "_64: ", "left > 0 ? codes.eight("],
        "codes beyond K, which are numbers, meet zeros of a, and columns beyond N are not stored",
    ),
    never(4, &["nf4_matmul", "j < count ? values["], "a chunk that is read has a first element"),
    never(4, &["quantize", "held[i] = column(span, i) < columns"], FULL_SPANS),
    never(4, &["quantize_gradient", "FACTORS && c < K", "in `if (span != Row<N>::last(K))"], FULL_SPANS),
    same(
        4,
        &["quantize_gradient", "codes[j] = inside ?"],
        "a row with an infinite product or none has a factor of 0, and what is no number is rounded to 0",
    ),
    never(4, &["bra", "of `for ("], "the compiler's test before a loop's first round, which every launch takes"),
    never(4, &["gemm_bf16", "copy16("], SPLIT),
    never(2, &["gemm_bf16", "cp.async"], SPLIT),
    same(3, &["cross_entropy_bwd", ", 1 2: buffer 0"], "a gradient times one is neither read nor written"),
    same(3, &["cross_entropy_bwd", ", 1 inf: buffer 1"], "dy is not read where the loss is not finite"),
    never(4, &["embedding_bwd", "if (i % WARP == 0)"], NO_MULTIPLE),
    never(2, &["embedding_bwd", "if (i % WARP == 0)"], NO_MULTIPLE),
    same(4, &["embedding_bwd", "of `for (int tile"], "a warp without columns finds each of its columns beyond H"),
    same(
        4,
        &["embedding_bwd", "if (c >= H) continue;"],
        "reads of the row after into sums that `if (c < H)` does not store",
    ),
    same(
        3,
        &["embedding_bwd", "buffer 2"],
        "of ids the first row of each run is read, and the last row begins no run here",
    ),
    same(2, &["grad_norm", "shared = tensors["], NOT_USED),
    same(6, &["grad_norm", "shared = tensors["], NOT_USED),
    same(3, &["grad_norm", "three tensors"], NOT_USED),
    same(
        3,
        &["grad_norm_sum", "buffer 1"],
        "the last word of the table is the kind of a gradient, which was for grad_norm",
    ),
    same(3, &["adamw scale inf"], "nothing but the scale is read"),
];

/// Why a survivor counts as the kernel's equal.
fn proof(mutant: &Mutant) -> Option<&'static str> {
    let applies = |entry: &&Equivalent| {
        let here = entry.way == mutant.way && entry.place.iter().all(|part| mutant.place.contains(part));
        here && (!entry.never || mutant.reached() != "reached")
    };
    EQUIVALENT.iter().find(applies).map(|entry| entry.why)
}

/// Instances of the multiplication's template that have the lines of others, which are broken: larger tiles, another type.
const INSTANCES: &[&str] = &[
    "bf16_256",
    "int8_matmul_nt_bf16_128",
    "int8_matmul_nn_128",
    "int8_matmul_nn_256",
    "nf4_matmul_nt_bf16_128",
    "nn_bf16_128",
    "tn_bf16_128",
    "dx_bf16_128",
    "nn_f32_any",
    "tn_f32_any",
    "da_f32_64",
    "xa_f32_any",
    "dx_f32_any",
];

#[test]
fn broken_kernels_are_told() {
    let mut kernels: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    let cases = catalogue::all().into_iter().chain(catalogue::pipelines());
    for case in cases.filter(|case| !INSTANCES.iter().any(|name| case.entry.ends_with(name))) {
        kernels.entry(case.entry.clone()).or_default().push(case);
    }
    // Thousands of neighbours break alike: every fourth is enough for each change, and every week all are run.
    let step = if std::env::var_os("VICUGNA_ALL_MUTANTS").is_some() { 1 } else { 4 };
    let mutants: Vec<Mutant> = kernels.values().flat_map(|cases| mutants(cases)).step_by(step).collect();
    println!("one mutant of {step} is run");
    let fates = crate::in_parallel(&mutants, Mutant::fate);
    let mut table = vec![[0usize; 4]; WAYS.len()];
    let mut survivors = Vec::new();
    for (mutant, fate) in mutants.iter().zip(&fates) {
        let column = match fate {
            Fate::Trap => 0,
            Fate::Result => 1,
            Fate::Survived => {
                let proof = proof(mutant);
                let why = proof.map_or_else(|| format!("unexplained; {}", mutant.reached()), String::from);
                survivors.push(format!("{}: {} ({why})", WAYS[mutant.way], mutant.place));
                if proof.is_some() { 3 } else { 2 }
            }
        };
        table[mutant.way][column] += 1;
    }
    println!("{:<56}{:>8}{:>8}{:>12}{:>12}", "mutants", "trap", "result", "unexplained", "equivalent");
    for (way, [trap, result, survived, equivalent]) in WAYS.iter().zip(&table) {
        println!("{way:<56}{trap:>8}{result:>8}{survived:>12}{equivalent:>12}");
    }
    survivors.iter().for_each(|survivor| println!("{survivor}"));
    let [trap, result, survived, _] = table.iter().fold([0; 4], |all, row| std::array::from_fn(|at| all[at] + row[at]));
    let caught = (trap + result) as f64 / (trap + result + survived) as f64;
    println!("{} of {} caught: {:.2} %", trap + result, trap + result + survived, 100.0 * caught);
    assert!(table.iter().all(|row| row.iter().sum::<usize>() > 0), "a way of breaking kernels applies nowhere");
    assert!(survived == 0, "{survived} mutants survived unexplained");
}
