//! `mma` and `ldmatrix` by the PTX ISA's formulas for which lane holds which element.

use crate::args;
use crate::harness::{Bench, Random, grid, ptx};

/// One kind of `mma`: its opcode's types, shape, bits of an element of A and B, and whether each is signed.
struct Kind {
    shape: (usize, usize),
    types: &'static str,
    bits: usize,
    signed: (bool, bool),
    accumulator: &'static str,
}

const fn kind(
    shape: (usize, usize),
    types: &'static str,
    bits: usize,
    signed: (bool, bool),
    accumulator: &'static str,
) -> Kind {
    Kind { shape, types, bits, signed, accumulator }
}

const KINDS: &[Kind] = &[
    kind((16, 8), "f32.bf16.bf16.f32", 16, (true, true), "f32"),
    kind((16, 16), "f32.bf16.bf16.f32", 16, (true, true), "f32"),
    kind((16, 8), "f32.f16.f16.f32", 16, (true, true), "f32"),
    kind((16, 16), "f32.f16.f16.f32", 16, (true, true), "f32"),
    kind((16, 8), "f16.f16.f16.f16", 16, (true, true), "f16"),
    kind((16, 16), "f16.f16.f16.f16", 16, (true, true), "f16"),
    kind((16, 4), "f32.tf32.tf32.f32", 32, (true, true), "f32"),
    kind((16, 8), "f32.tf32.tf32.f32", 32, (true, true), "f32"),
    kind((8, 16), "s32.s8.s8.s32", 8, (true, true), "s32"),
    kind((16, 16), "s32.s8.u8.s32", 8, (true, false), "s32"),
    kind((16, 32), "s32.u8.s8.s32", 8, (false, true), "s32"),
    kind((16, 32), "s32.u8.u8.s32", 8, (false, false), "s32"),
    kind((16, 32), "s32.s8.s8.s32", 8, (true, true), "s32"),
    kind((8, 32), "s32.s4.s4.s32", 4, (true, true), "s32"),
    kind((16, 32), "s32.u4.s4.s32", 4, (false, true), "s32"),
    kind((16, 64), "s32.s4.u4.s32", 4, (true, false), "s32"),
];

/// Where element `i` of a lane's A lies: row and column. PTX ISA, "Matrix fragments for mma.m16n8k…" and "mma.m8n8k…".
fn place_of_a(kind: &Kind, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let per = 32 / kind.bits;
    if kind.shape.0 == 8 {
        return (group, thread * per + (i % per));
    }
    match (kind.bits, kind.shape.1) {
        // a0 and a2 in row `group`, a1 and a3 below; a2 and a3 four columns on.
        (32, _) => (if i.is_multiple_of(2) { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 }),
        (16, 8) => (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1)),
        (16, _) => {
            let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
            (row, if i < 4 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 })
        }
        (8, 16) => (if i < 4 { group } else { group + 8 }, thread * 4 + (i & 3)),
        (8, _) => {
            let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
            (row, if i < 8 { thread * 4 + (i & 3) } else { thread * 4 + (i & 3) + 16 })
        }
        (_, 32) => (if i < 8 { group } else { group + 8 }, thread * 8 + (i & 7)),
        _ => {
            let row = if i < 8 || (16..24).contains(&i) { group } else { group + 8 };
            (row, if i < 16 { thread * 8 + (i & 7) } else { thread * 8 + (i & 7) + 32 })
        }
    }
}

/// Where element `i` of a lane's B lies: row (k) and column (n).
fn place_of_b(kind: &Kind, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    let row = match (kind.bits, kind.shape.1) {
        (32, _) => {
            if i == 0 {
                thread
            } else {
                thread + 4
            }
        }
        (16, 8) => thread * 2 + i,
        (16, _) => {
            if i < 2 {
                thread * 2 + (i & 1)
            } else {
                thread * 2 + (i & 1) + 8
            }
        }
        (8, 16) => thread * 4 + i,
        (8, _) => {
            if i < 4 {
                thread * 4 + (i & 3)
            } else {
                thread * 4 + (i & 3) + 16
            }
        }
        (_, 32) => thread * 8 + i,
        _ => {
            if i < 8 {
                thread * 8 + (i & 7)
            } else {
                thread * 8 + (i & 7) + 32
            }
        }
    };
    (row, group)
}

/// Where element `i` of a lane's C and D lies.
fn place_of_c(kind: &Kind, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if kind.shape.0 == 8 || i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

/// A small number as an element's bits.
fn encode(kind: &Kind, value: f32) -> u64 {
    match kind.types.split('.').nth(1) {
        Some("bf16") => u64::from(value.to_bits() >> 16),
        Some("f16") => f16(value),
        Some("tf32") => u64::from(value.to_bits()),
        _ => value as i64 as u64 & ((1 << kind.bits) - 1),
    }
}

/// A small number as f16.
fn f16(value: f32) -> u64 {
    let bits = value.to_bits();
    let (sign, exponent, fraction) = (bits >> 31, bits >> 23 & 0xff, bits & 0x7f_ffff);
    if value == 0.0 { 0 } else { u64::from(sign << 15 | (exponent + 15 - 127) << 10 | fraction >> 13) }
}

/// Matrices of small numbers, row by row, as the registers of A and of B.
fn operands(kind: &Kind, a: &[f32], b: &[f32]) -> [Vec<[u32; 32]>; 2] {
    let (m, k) = kind.shape;
    let per = 32 / kind.bits;
    let pack = |count: usize, place: &dyn Fn(usize, usize) -> f32| -> Vec<[u32; 32]> {
        let word = |register: usize, lane: usize| {
            let part = |part: usize| encode(kind, place(lane, register * per + part)) << (kind.bits * part);
            (0..per).fold(0u64, |word, at| word | part(at)) as u32
        };
        (0..count).map(|register| std::array::from_fn(|lane| word(register, lane))).collect()
    };
    let a_words = pack(m * k * kind.bits / 1024, &|lane, i| {
        let (row, column) = place_of_a(kind, lane, i);
        a[row * k + column]
    });
    let b_words = pack(8 * k * kind.bits / 1024, &|lane, i| {
        let (row, column) = place_of_b(kind, lane, i);
        b[row * 8 + column]
    });
    [a_words, b_words]
}

fn registers(count: usize, name: &str) -> String {
    (0..count).map(|i| format!("%{name}{i}")).collect::<Vec<_>>().join(", ")
}

/// Runs one `mma` on fragments given as words, `[register][lane]`.
fn run(kind: &Kind, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]]) -> Vec<u32> {
    let (m, k) = kind.shape;
    let ty = if kind.accumulator == "s32" {
        "b32"
    } else if kind.accumulator == "f32" {
        "f32"
    } else {
        "b32"
    };
    let mut body = format!(
        ".reg .b32 %t, %a<4>, %b<4>; .reg .{ty} %c<4>, %d<4>; .reg .b64 %in, %out, %at;
        ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, 4;
        add.u64 %in, %in, %at; add.u64 %out, %out, %at;\n"
    );
    // The last are loaded first, so that a register of D may share its row with another of C, A or B.
    let mut offset = 128 * (a.len() + b.len() + c.len());
    for (name, count, ty) in [("c", c.len(), ty), ("b", b.len(), "b32"), ("a", a.len(), "b32")] {
        for i in (0..count).rev() {
            offset -= 128;
            body += &format!("ld.global.{ty} %{name}{i}, [%in+{offset}];\n");
        }
    }
    let [d, a_list, b_list, c_list] =
        [("d", c.len()), ("a", a.len()), ("b", b.len()), ("c", c.len())].map(|(name, count)| registers(count, name));
    body += &format!(
        "mma.sync.aligned.m{m}n8k{k}.row.col.{} {{{d}}}, {{{a_list}}}, {{{b_list}}}, {{{c_list}}};\n",
        kind.types
    );
    for i in 0..c.len() {
        body += &format!("st.global.{ty} [%out+{}], %d{i};\n", 128 * i);
    }
    let mut bench = Bench::new(&ptx(".param .u64 out, .param .u64 in", &body));
    let words: Vec<u32> = [a, b, c].concat().into_iter().flatten().collect();
    let (input, output) = (bench.buffer(&words), bench.empty::<u32>(32 * c.len()));
    bench.launch("k", grid(1, 32), args![output, input]).unwrap();
    bench.read(output, 32 * c.len())
}

#[test]
fn products_match_the_published_layouts() {
    for kind in KINDS {
        let (m, k) = kind.shape;
        let mut random = Random::new(k as u64);
        let mut draw = |signed: bool| {
            let value = (random.bits() % 8) as i64;
            if signed { value - 4 } else { value }
        };
        let a: Vec<i64> = (0..m * k).map(|_| draw(kind.signed.0)).collect();
        let b: Vec<i64> = (0..k * 8).map(|_| draw(kind.signed.1)).collect();
        let c: Vec<i64> = (0..m * 8).map(|_| draw(true)).collect();
        let floats = |values: &[i64]| values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        let [a_words, b_words] = operands(kind, &floats(&a), &floats(&b));
        let at = |lane: usize, i: usize| {
            let (row, column) = place_of_c(kind, lane, i);
            row * 8 + column
        };
        let totals = m * 8 / 32;
        let value_bits = |value: i64| match kind.accumulator {
            "f32" => (value as f32).to_bits(),
            _ => value as i32 as u32,
        };
        let fragment = |values: &[i64]| -> Vec<[u32; 32]> {
            if kind.accumulator == "f16" {
                let pair = |register: usize, lane: usize| {
                    f16(values[at(lane, 2 * register)] as f32) | f16(values[at(lane, 2 * register + 1)] as f32) << 16
                };
                return (0..totals / 2)
                    .map(|register| std::array::from_fn(|lane| pair(register, lane) as u32))
                    .collect();
            }
            (0..totals).map(|i| std::array::from_fn(|lane| value_bits(values[at(lane, i)]))).collect()
        };
        let product: Vec<i64> = (0..m * 8)
            .map(|entry| c[entry] + (0..k).map(|i| a[entry / 8 * k + i] * b[i * 8 + entry % 8]).sum::<i64>())
            .collect();
        let got = run(kind, &a_words, &b_words, &fragment(&c));
        assert_eq!(got, fragment(&product).concat(), "m{m}n8k{k} {}", kind.types);
    }
}

/// Sums that no order makes exact.
#[test]
fn sums_of_any_products_are_close() {
    for kind in KINDS.iter().filter(|kind| kind.accumulator == "f32") {
        let (m, k) = kind.shape;
        let mut random = Random::new(k as u64);
        // Eight bits, which every type holds, of numbers below 1.
        let mut draw = |length: usize| -> Vec<f32> {
            let value = |bits: u64| (bits as i8 as f32) * 2f32.powi(-((bits >> 8) as i32 & 7) - 7);
            (0..length).map(|_| value(random.bits())).collect()
        };
        let (a, b, c) = (draw(m * k), draw(8 * k), draw(m * 8));
        let place = |lane: usize, i: usize| {
            let (row, column) = place_of_c(kind, lane, i);
            row * 8 + column
        };
        let [a_words, b_words] = operands(kind, &a, &b);
        let c_words: Vec<[u32; 32]> =
            (0..m * 8 / 32).map(|i| std::array::from_fn(|lane| c[place(lane, i)].to_bits())).collect();
        for (at, got) in run(kind, &a_words, &b_words, &c_words).into_iter().enumerate() {
            let entry = place(at % 32, at / 32);
            let product = |i: usize| f64::from(a[entry / 8 * k + i]) * f64::from(b[i * 8 + entry % 8]);
            let terms = (0..k).map(product).chain([f64::from(c[entry])]);
            let (want, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let error = (f64::from(f32::from_bits(got)) - want).abs();
            assert!(error <= size * k as f64 * 2f64.powi(-24), "{} {entry}: {error:e} off {want}", kind.types);
        }
    }
}

#[test]
fn extremes_of_integers_wrap_or_saturate() {
    let kind = kind((16, 32), "s32.s8.s8.s32", 8, (true, true), "s32");
    let all = |word: u32, count: usize| vec![[word; 32]; count];
    let got = run(&kind, &all(0x8080_8080, 4), &all(0x8080_8080, 2), &all(i32::MAX as u32, 4));
    assert!(got.iter().all(|&sum| sum == (i32::MAX).wrapping_add(32 * 128 * 128) as u32));
    let kind = Kind { types: "satfinite.s32.s8.s8.s32", ..kind };
    let ramp: Vec<_> = (0..4).map(|register| [i32::MAX as u32 - 32 * 128 * 128 * register; 32]).collect();
    let got = run(&kind, &all(0x8080_8080, 4), &all(0x8080_8080, 2), &ramp);
    assert!(got[..64].iter().all(|&sum| sum == i32::MAX as u32));
    assert!(got[64..96].iter().all(|&sum| sum == i32::MAX as u32 - 32 * 128 * 128));
    let kind = Kind { types: "s32.u8.u8.s32", signed: (false, false), ..kind };
    let got = run(&kind, &all(u32::MAX, 4), &all(u32::MAX, 2), &all(0, 4));
    assert!(got.iter().all(|&sum| sum == 32 * 255 * 255));
}

#[test]
fn matrices_are_loaded_by_the_published_layout() {
    for (count, name) in [(1, "x1"), (2, "x2"), (4, "x4")] {
        for trans in [false, true] {
            let list = registers(count, "r");
            let suffix = if trans { ".trans" } else { "" };
            let mut body = format!(
                ".reg .b32 %t, %at, %base, %r<4>, %row; .reg .b64 %out, %wide; .shared .align 16 .b8 s[2048];
                ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mov.u32 %base, s;
                .reg .b16 %h; .reg .pred %p; mov.u32 %row, 0;
                FILL: mad.lo.u32 %at, %row, 32, %t; cvt.u16.u32 %h, %at; shl.b32 %at, %at, 1; add.u32 %at, %at, %base;
                st.shared.b16 [%at], %h; add.u32 %row, %row, 1; setp.lt.u32 %p, %row, 32; @%p bra FILL;
                // Lane l points to row (5 l) % 32 of 32 rows of eight.
                mul.lo.u32 %at, %t, 5; and.b32 %at, %at, 31; shl.b32 %at, %at, 4; add.u32 %at, %at, %base;
                ldmatrix.sync.aligned.m8n8.{name}{suffix}.shared.b16 {{{list}}}, [%at];
                mul.wide.u32 %wide, %t, 4; add.u64 %out, %out, %wide;\n"
            );
            for i in 0..count {
                body += &format!("st.global.b32 [%out+{}], %r{i};\n", 128 * i);
            }
            let mut bench = Bench::new(&ptx(".param .u64 out", &body));
            let out = bench.empty::<u32>(32 * count);
            bench.launch("k", grid(1, 32), args![out]).unwrap();
            let element =
                |matrix: usize, row: usize, column: usize| ((5 * (8 * matrix + row) % 32) * 8 + column) as u32;
            let want = |matrix: usize, lane: usize| {
                let (first, second) = (lane / 4, 2 * (lane % 4));
                let pick = |i: usize| {
                    if trans { element(matrix, second + i, first) } else { element(matrix, first, second + i) }
                };
                pick(0) | pick(1) << 16
            };
            let want: Vec<u32> = (0..count)
                .flat_map(|matrix| (0..32).map(move |lane| (matrix, lane)))
                .map(|(m, l)| want(m, l))
                .collect();
            assert_eq!(bench.read::<u32>(out, 32 * count), want, "{name}{suffix}");
        }
    }
}
