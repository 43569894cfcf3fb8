//! Texts and launches that nobody would write: each ends in a result or an error, soon, and never in a panic.

use crate::harness::{Bench, Random, grid, ptx};
use ptx_emulator::{Arch, Device, Launch, LaunchError, Module};
use std::panic::{AssertUnwindSafe, catch_unwind};

const TEXTS: [&str; 6] = [
    include_str!("../fixtures/micro.ptx"),
    include_str!("../fixtures/samples.ptx"),
    include_str!("../triton/vector_add.ptx"),
    include_str!("../triton/softmax.ptx"),
    include_str!("../triton/layer_norm.ptx"),
    include_str!("../triton/matmul.ptx"),
];

/// What a mutation puts in.
const WORDS: &[&str] = &[
    "bar.sync 0;",
    "bra $L__BB0_2;",
    "exit;",
    "@%p1",
    "@!%p1",
    "%r1",
    "%rd1",
    "%f1",
    "%p1",
    "{",
    "}",
    "[",
    "]",
    ";",
    ",",
    "0",
    "-1",
    "4294967295",
    "18446744073709551615",
    "0x8000000000000000",
    "0f7FC00000",
    "1e9",
    ".u64",
    ".v4",
    ".shared",
    ".local",
    ".reg .b32 %q<4000000000>;",
    ".shared .align 16 .b8 big[100000000];",
    ".local .b8 deep[1000000];",
    "%tid.x",
    "%ctaid.z",
    "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];",
    "st.shared.u8 [%r1], %rs1;",
    "atom.global.add.u32 %r1, [%rd1], %r2;",
    "shfl.sync.bfly.b32 %r1, %r1, 1, 31, -1;",
    "cp.async.cg.shared.global [%r1], [%rd1], 16;",
    "cp.async.wait_all;",
    "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2];",
    "bar.sync 3, 64;",
    "barrier.arrive 1, 32;",
    "vote.sync.any.pred %p1, %p1, -1;",
    "/*",
    "//",
    "\"",
    "\u{00e9}",
    "\u{1f999}",
    "L: bra L;",
    ".maxntid 4294967295, 4294967295, 4294967295",
    ".version 99.9",
    "_",
    "%r99999999999",
];

fn mutated(random: &mut Random, text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    for _ in 0..1 + random.bits() % 4 {
        if lines.is_empty() {
            break;
        }
        let at = random.bits() as usize % lines.len();
        let other = random.bits() as usize % lines.len();
        match random.bits() % 9 {
            0 => {
                lines.remove(at);
            }
            1 => lines.swap(at, other),
            2 => lines.insert(at, lines[other].clone()),
            3 => lines.insert(at, WORDS[random.bits() as usize % WORDS.len()].into()),
            4 => lines.truncate(at + 1),
            5 => {
                // One word for another.
                let words: Vec<&str> = lines[at].split(' ').collect();
                let place = random.bits() as usize % words.len();
                let word = WORDS[random.bits() as usize % WORDS.len()];
                lines[at] = words
                    .iter()
                    .enumerate()
                    .map(|(i, w)| if i == place { word } else { w })
                    .collect::<Vec<_>>()
                    .join(" ");
            }
            6 => {
                // One character for another.
                let mut chars: Vec<char> = lines[at].chars().collect();
                if let Some(place) = (random.bits() as usize).checked_rem(chars.len()) {
                    chars[place] = char::from(32 + (random.bits() % 95) as u8);
                }
                lines[at] = chars.into_iter().collect();
            }
            7 => {
                // One digit for another.
                let digit = char::from(b'0' + (random.bits() % 10) as u8);
                let place = lines[at].find(|c: char| c.is_ascii_digit());
                if let Some(place) = place {
                    lines[at].replace_range(place..place + 1, &digit.to_string());
                }
            }
            _ => lines[at] = format!("{} {}", lines[at], lines[other]),
        }
    }
    lines.join("\n") + "\n"
}

/// Parses and launches all that is in a text; says how many kernels ran to an end or a trap.
fn try_text(text: &str, random: &mut Random) -> usize {
    let Ok(module) = Module::parse(text) else { return 0 };
    let mut ran = 0;
    for kernel in module.kernels() {
        let mut device = Device::with_memory(Arch::Sm80, 64 << 20);
        let buffer = device.alloc(1 << 14).unwrap();
        device.fill(buffer, &[1, 0, 0, 0], 1 << 11).unwrap();
        let args: Vec<Vec<u8>> = kernel
            .params()
            .iter()
            .map(|param| match param.bytes {
                8 => buffer.to_le_bytes().to_vec(),
                4 => (random.bits() as u32 % 70).to_le_bytes().to_vec(),
                bytes => vec![0; bytes as usize],
            })
            .collect();
        let Ok(args) = kernel.pack(&args.iter().map(Vec::as_slice).collect::<Vec<_>>()) else { continue };
        let launch = Launch {
            args: &args,
            shared_bytes: random.bits() % 3 * 8192,
            seed: random.bits() % 3,
            step_limit: 20_000,
            threads: 1 + (random.bits() % 2) as usize,
            ..grid(2, [64, 128, 33][random.bits() as usize % 3])
        };
        ran += usize::from(!matches!(
            device.launch(kernel, &launch),
            Err(LaunchError::Refused { .. } | LaunchError::Memory(_))
        ));
    }
    ran
}

#[test]
fn mutated_texts_end_in_a_result_or_an_error() {
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(600);
    let mut ran = 0;
    for seed in 0..rounds {
        let mut random = Random::new(seed);
        let text = mutated(&mut random, TEXTS[seed as usize % TEXTS.len()]);
        let outcome = catch_unwind(AssertUnwindSafe(|| try_text(&text, &mut random)));
        ran += outcome.unwrap_or_else(|_| panic!("seed {seed} panicked"));
    }
    assert!(ran > rounds as usize / 4, "only {ran} kernels ran: the mutations are too coarse to test the machine");
}

#[test]
fn noise_is_no_ptx() {
    let mut random = Random::new(1);
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..random.bits() % 200).map(|_| random.bits() as u8).collect();
        assert!(Module::parse(&String::from_utf8_lossy(&bytes)).is_err());
        let words: Vec<&str> = (0..30).map(|_| WORDS[random.bits() as usize % WORDS.len()]).collect();
        let _ = Module::parse(&ptx("", &words.join(" ")));
    }
    let deep = "{".repeat(100_000);
    assert!(Module::parse(&ptx("", &deep)).is_err());
    assert!(
        Module::parse(&format!(".version 8.0\n.target sm_80\n.address_size 64\n.global .u32 a[2] = {deep};")).is_err()
    );
    assert!(Module::parse(&ptx("", &format!("mov.b64 %r1, {deep};"))).is_err());
}

#[test]
fn absurd_launches_are_refused_or_end() {
    let mut bench = Bench::new(&ptx("", ".reg .b32 %r<2>; mov.u32 %r1, %tid.x;"));
    for grid in [[i32::MAX as u32, 65535, 65535], [i32::MAX as u32, 1, 1], [1, 65535, 65535]] {
        let launch = Launch { grid, block: [1024, 1, 1], step_limit: 1 << 20, ..Launch::default() };
        assert!(matches!(bench.launch("k", launch, &[]), Err(LaunchError::Trap(_))), "a grid without end");
    }
    let launch = Launch { threads: usize::MAX, ..grid(1000, 32) };
    assert!(bench.launch("k", launch, &[]).is_ok());
    let mut bench = Bench::new(&ptx("", ".local .align 8 .b8 l[2000000000]; .reg .b64 %l; mov.u64 %l, l;"));
    assert!(matches!(bench.launch("k", grid(1, 1024), &[]), Err(LaunchError::Refused { .. })));
}

#[test]
fn memory_that_is_not_there_is_an_error() {
    let mut device = Device::with_memory(Arch::Sm80, 1 << 20);
    assert!(device.alloc(u64::MAX).is_err());
    let a = device.alloc(100).unwrap();
    assert!(device.write(a + 90, &[0; 11]).is_err());
    assert!(device.read(a.wrapping_sub(1), &mut [0; 2]).is_err());
    assert!(device.copy(a, a + 50, u64::MAX).is_err());
    assert!(device.copy(u64::MAX - 3, a, 10).is_err());
    assert!(device.fill(a, &[1, 2], u64::MAX).is_err());
    assert!(device.poison(a, 101).is_err());
    let text = ptx("", ".reg .b64 %a; mov.u64 %a, huge;");
    let text = text.replace(".visible", ".global .align 8 .b8 huge[4000000000];\n.visible");
    let module = Module::parse(&text).unwrap();
    match device.launch(module.kernel("k").unwrap(), &grid(1, 1)) {
        Err(LaunchError::Memory(error)) => assert!(error.to_string().contains("out of memory"), "{error}"),
        other => panic!("{other:?}"),
    }
}
