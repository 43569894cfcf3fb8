//! One instruction at a time, on boundary values, against what the PTX ISA says, computed another way.

use crate::args;
use crate::harness::{Bench, Random, grid};

/// A register's type in a one-instruction kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reg {
    Pred,
    B16,
    B32,
    B64,
}

use Reg::{B16, B32, B64};

impl Reg {
    fn spelled(self) -> &'static str {
        match self {
            Self::Pred => "pred",
            Self::B16 => "b16",
            Self::B32 => "b32",
            Self::B64 => "b64",
        }
    }
}

/// Runs `opcode` on each row of sources and gives each result's bits.
pub fn run(opcode: &str, to: Reg, from: &[Reg], rows: &[Vec<u64>]) -> Vec<u64> {
    let names = ["%a", "%b", "%c", "%d"];
    let sources = names[..from.len()].join(", ");
    run_text(&format!("{opcode} %o, {sources};"), to, from, rows)
}

/// Runs `text`, which makes %o of %a, %b, %c and %d.
pub fn run_text(text: &str, to: Reg, from: &[Reg], rows: &[Vec<u64>]) -> Vec<u64> {
    let names = ["%a", "%b", "%c", "%d"];
    let mut body = format!(
        ".reg .b32 %i, %n; .reg .b64 %at, %in, %out; .reg .pred %p, %q; .reg .{} %o;\n",
        if to == Reg::Pred { "b32" } else { to.spelled() }
    );
    for (name, reg) in names.iter().zip(from) {
        let kind = if *reg == Reg::Pred { "pred" } else { reg.spelled() };
        body += &format!(".reg .{kind} {name};\n");
    }
    body += "ld.param.u64 %out, [out]; ld.param.u64 %in, [in]; ld.param.u32 %n, [n];\n";
    body += ".reg .b32 %ctaid, %ntid, %tid; mov.u32 %ctaid, %ctaid.x; mov.u32 %ntid, %ntid.x; mov.u32 %tid, %tid.x;\n";
    body += "mad.lo.u32 %i, %ctaid, %ntid, %tid; setp.ge.u32 %p, %i, %n; @%p bra END;\n";
    body += &format!("mul.wide.u32 %at, %i, {}; add.u64 %in, %in, %at;\n", 8 * from.len());
    for (at, reg) in from.iter().enumerate() {
        match reg {
            Reg::Pred => body += &format!("ld.global.b32 %n, [%in+{}]; setp.ne.u32 {}, %n, 0;\n", 8 * at, names[at]),
            _ => body += &format!("ld.global.{} {}, [%in+{}];\n", reg.spelled(), names[at], 8 * at),
        }
    }
    body += &format!(
        "{text}\nmul.wide.u32 %at, %i, 8; add.u64 %out, %out, %at; st.global.{} [%out], %o;\nEND:",
        if to == Reg::Pred { "b32" } else { to.spelled() }
    );
    let mut bench = Bench::new(&crate::harness::ptx(".param .u64 out, .param .u64 in, .param .u32 n", &body));
    let content: Vec<u64> = rows.iter().flatten().copied().collect();
    let (input, output) = (bench.buffer(&content), bench.buffer(&vec![0u64; rows.len()]));
    bench.launch("k", grid(rows.len().div_ceil(128) as u32, 128), args![output, input, rows.len() as u32]).unwrap();
    bench.read(output, rows.len())
}

/// Every combination of one value from each list.
pub fn product(lists: &[&[u64]]) -> Vec<Vec<u64>> {
    lists.iter().fold(vec![Vec::new()], |rows, list| {
        rows.iter().flat_map(|row| list.iter().map(|&value| [row.as_slice(), &[value]].concat())).collect()
    })
}

/// Boundary values of integers of `bits`, and some others.
pub fn integers(bits: u32) -> Vec<u64> {
    let mask = u64::MAX >> (64 - bits);
    let top = 1u64 << (bits - 1);
    let mut random = Random::new(bits.into());
    let mut values = vec![0, 1, 2, 3, 7, 0x55, 0x80, mask, mask - 1, top, top - 1, top + 1, mask >> 8, mask / 3];
    values.extend((0..4).map(|_| random.bits() & mask));
    values
}

/// Counts of shifts, inside and outside of every width.
pub const COUNTS: &[u64] = &[0, 1, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 0x8000_0000, 0xffff_ffff];

pub fn check(opcode: &str, to: Reg, from: &[Reg], rows: &[Vec<u64>], expected: impl Fn(&[u64]) -> u64) {
    let got = run(opcode, to, from, rows);
    for (row, got) in rows.iter().zip(got) {
        let want = expected(row);
        assert_eq!(got, want, "{opcode} of {row:x?} gave {got:#x} instead of {want:#x}");
    }
}

/// The value of `bits` low bits with their sign.
pub fn signed(value: u64, bits: u32) -> i128 {
    i128::from((value << (64 - bits)) as i64 >> (64 - bits))
}

pub fn masked(value: i128, bits: u32) -> u64 {
    value as u64 & (u64::MAX >> (64 - bits))
}

pub fn reg(bits: u32) -> Reg {
    match bits {
        16 => B16,
        32 => B32,
        _ => B64,
    }
}

/// Each integer type: its name, bits and sign.
const TYPES: [(&str, u32, bool); 6] = [
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

/// A value of an integer type.
pub fn value(value: u64, bits: u32, sign: bool) -> i128 {
    if sign { signed(value, bits) } else { i128::from(value) }
}

#[test]
fn two_operand_integers() {
    type Case = (&'static str, fn(i128, i128, u32, bool) -> i128);
    let cases: [Case; 8] = [
        ("add", |a, b, _, _| a + b),
        ("sub", |a, b, _, _| a - b),
        ("mul.lo", |a, b, _, _| (a as u128).wrapping_mul(b as u128) as i128),
        ("mul.hi", |a, b, bits, sign| high(a, b, bits, sign)),
        ("min", |a, b, _, _| a.min(b)),
        ("max", |a, b, _, _| a.max(b)),
        ("div", |a, b, _, _| if b == 0 { -1 } else { a / b }),
        ("rem", |a, b, _, _| if b == 0 { a } else { a % b }),
    ];
    for (ty, bits, sign) in TYPES {
        let rows = product(&[&integers(bits), &integers(bits)]);
        for (name, f) in cases {
            check(&format!("{name}.{ty}"), reg(bits), &[reg(bits); 2], &rows, |row| {
                masked(f(value(row[0], bits, sign), value(row[1], bits, sign), bits, sign), bits)
            });
        }
    }
}

/// The upper half of a product, by schoolbook multiplication where 128 bits do not hold it.
fn high(a: i128, b: i128, bits: u32, sign: bool) -> i128 {
    if bits < 64 {
        return (a * b) >> bits;
    }
    let (x, y) = (a as u64, b as u64);
    let (xl, xh, yl, yh) = (x & 0xffff_ffff, x >> 32, y & 0xffff_ffff, y >> 32);
    let middle = ((xl * yl) >> 32) as u128 + (xh as u128 * yl as u128) + (xl as u128 * yh as u128);
    let unsigned = (xh as u128 * yh as u128 + (middle >> 32)) as u64;
    let mut result = unsigned;
    if sign && a < 0 {
        result = result.wrapping_sub(y);
    }
    if sign && b < 0 {
        result = result.wrapping_sub(x);
    }
    result.into()
}

#[test]
fn wide_products_and_multiply_add() {
    for (ty, bits, sign) in TYPES {
        let list = integers(bits);
        if bits < 64 {
            let rows = product(&[&list, &list]);
            check(&format!("mul.wide.{ty}"), reg(2 * bits), &[reg(bits); 2], &rows, |row| {
                masked(value(row[0], bits, sign) * value(row[1], bits, sign), 2 * bits)
            });
            let rows = product(&[&list, &list, &integers(2 * bits)[..9]]);
            check(&format!("mad.wide.{ty}"), reg(2 * bits), &[reg(bits), reg(bits), reg(2 * bits)], &rows, |row| {
                masked(value(row[0], bits, sign) * value(row[1], bits, sign) + i128::from(row[2]), 2 * bits)
            });
        }
        let rows = product(&[&list, &list, &list[..9]]);
        check(&format!("mad.lo.{ty}"), reg(bits), &[reg(bits); 3], &rows, |row| {
            row[0].wrapping_mul(row[1]).wrapping_add(row[2]) & (u64::MAX >> (64 - bits))
        });
        check(&format!("sad.{ty}"), reg(bits), &[reg(bits); 3], &rows, |row| {
            let distance = (value(row[0], bits, sign) - value(row[1], bits, sign)).abs();
            masked(i128::from(row[2]) + distance, bits)
        });
    }
}

#[test]
fn one_operand_integers() {
    for (ty, bits, sign) in TYPES {
        let rows = product(&[&integers(bits)]);
        if sign {
            check(&format!("abs.{ty}"), reg(bits), &[reg(bits)], &rows, |row| masked(signed(row[0], bits).abs(), bits));
            check(&format!("neg.{ty}"), reg(bits), &[reg(bits)], &rows, |row| masked(-signed(row[0], bits), bits));
        }
        if bits >= 32 {
            let find = |value: u64| {
                let negative = sign && value >> (bits - 1) & 1 != 0;
                (0..bits).rev().find(|&bit| (value >> bit & 1 != 0) != negative)
            };
            check(&format!("bfind.{ty}"), B32, &[reg(bits)], &rows, |row| find(row[0]).map_or(0xffff_ffff, u64::from));
            check(&format!("bfind.shiftamt.{ty}"), B32, &[reg(bits)], &rows, |row| {
                find(row[0]).map_or(0xffff_ffff, |bit| u64::from(bits - 1 - bit))
            });
        }
    }
    for bits in [16, 32, 64] {
        let rows = product(&[&integers(bits)]);
        let bit = |value: u64, at: u32| value >> at & 1;
        check(&format!("not.b{bits}"), reg(bits), &[reg(bits)], &rows, |row| masked(!i128::from(row[0]), bits));
        check(&format!("cnot.b{bits}"), reg(bits), &[reg(bits)], &rows, |row| u64::from(row[0] == 0));
        if bits > 16 {
            check(&format!("popc.b{bits}"), B32, &[reg(bits)], &rows, |row| (0..bits).map(|at| bit(row[0], at)).sum());
            check(&format!("clz.b{bits}"), B32, &[reg(bits)], &rows, |row| {
                (0..bits).rev().take_while(|&at| bit(row[0], at) == 0).count() as u64
            });
            check(&format!("brev.b{bits}"), reg(bits), &[reg(bits)], &rows, |row| {
                (0..bits).fold(0, |value, at| value | bit(row[0], at) << (bits - 1 - at))
            });
        }
    }
}

#[test]
fn shifts_past_the_width() {
    for bits in [16, 32, 64] {
        let rows = product(&[&integers(bits), COUNTS]);
        let by = |row: &[u64]| row[1].min(100) as u32;
        let from = [reg(bits), B32];
        check(&format!("shl.b{bits}"), reg(bits), &from, &rows, |row| {
            if by(row) >= bits { 0 } else { masked(i128::from(row[0]) << by(row), bits) }
        });
        check(
            &format!("shr.u{bits}"),
            reg(bits),
            &from,
            &rows,
            |row| if by(row) >= bits { 0 } else { row[0] >> by(row) },
        );
        check(&format!("shr.s{bits}"), reg(bits), &from, &rows, |row| masked(signed(row[0], bits) >> by(row), bits));
    }
    let rows = product(&[&integers(32)[..12], &integers(32)[..12], COUNTS]);
    let joined = |row: &[u64]| u128::from(row[1]) << 32 | u128::from(row[0]);
    for (name, clamps) in [("wrap", false), ("clamp", true)] {
        let by = |row: &[u64]| if clamps { row[2].min(32) } else { row[2] & 31 };
        check(&format!("shf.l.{name}.b32"), B32, &[B32; 3], &rows, |row| {
            ((joined(row) << by(row)) >> 32) as u32 as u64
        });
        check(&format!("shf.r.{name}.b32"), B32, &[B32; 3], &rows, |row| (joined(row) >> by(row)) as u32 as u64);
    }
}

#[test]
fn bit_fields() {
    let counts = &[0, 1, 7, 16, 31, 32, 33, 63, 64, 255, 256 + 3];
    for bits in [32, 64] {
        let list = &integers(bits)[..];
        let bit = |value: u64, at: u64| if at < 64 { value >> at & 1 } else { 0 };
        for sign in [false, true] {
            let rows = product(&[list, counts, counts]);
            let name = format!("bfe.{}{bits}", if sign { 's' } else { 'u' });
            check(&name, reg(bits), &[reg(bits), B32, B32], &rows, |row| {
                // The PTX ISA's own text: bit i is a[pos + i] inside the field and the word, else the sign.
                let (pos, len, msb) = (row[1] & 0xff, row[2] & 0xff, u64::from(bits) - 1);
                let filler = match (sign, len) {
                    (false, _) | (_, 0) => 0,
                    _ => bit(row[0], (pos + len - 1).min(msb)),
                };
                (0..=msb).fold(0, |value, i| {
                    value | (if i < len && pos + i <= msb { bit(row[0], pos + i) } else { filler }) << i
                })
            });
        }
        let rows = product(&[&list[..10], &list[..10], counts, counts]);
        check(&format!("bfi.b{bits}"), reg(bits), &[reg(bits), reg(bits), B32, B32], &rows, |row| {
            let (pos, len, msb) = (row[2] & 0xff, row[3] & 0xff, u64::from(bits) - 1);
            (0..=msb).fold(0, |value, i| {
                value | (if i >= pos && i < pos + len { bit(row[0], i - pos) } else { bit(row[1], i) }) << i
            })
        });
    }
}

#[test]
fn logic_and_permutes() {
    for bits in [16, 32, 64] {
        let rows = product(&[&integers(bits), &integers(bits)]);
        check(&format!("and.b{bits}"), reg(bits), &[reg(bits); 2], &rows, |row| row[0] & row[1]);
        check(&format!("or.b{bits}"), reg(bits), &[reg(bits); 2], &rows, |row| row[0] | row[1]);
        check(&format!("xor.b{bits}"), reg(bits), &[reg(bits); 2], &rows, |row| row[0] ^ row[1]);
    }
    let list = &integers(32)[10..18];
    let rows = product(&[list, list, list]);
    for table in [0x00, 0x80, 0xfe, 0x96, 0xca, 0xe8, 0x1b, 0xff] {
        let got = run_text(&format!("lop3.b32 %o, %a, %b, %c, {table};"), B32, &[B32; 3], &rows);
        for (row, got) in rows.iter().zip(got) {
            let pick =
                |at: u32| (table >> ((row[0] >> at & 1) * 4 + (row[1] >> at & 1) * 2 + (row[2] >> at & 1))) & 1u64;
            assert_eq!(got, (0..32).fold(0, |value, at| value | pick(at) << at));
        }
    }
    let selectors = [0x3210, 0x7654, 0x0123, 0xfedc, 0x8888, 0x4040, 0x51ea, 0xffff_3210];
    let rows = product(&[list, list, &selectors]);
    let bytes = |row: &[u64]| (row[1] << 32 | row[0]).to_le_bytes();
    check("prmt.b32", B32, &[B32; 3], &rows, |row| {
        (0..4).fold(0, |value, at| {
            let nibble = row[2] >> (4 * at) & 15;
            let byte = bytes(row)[(nibble & 7) as usize];
            let byte = if nibble & 8 == 0 {
                byte
            } else if byte >= 0x80 {
                0xff
            } else {
                0
            };
            value | u64::from(byte) << (8 * at)
        })
    });
    let rows = product(&[list, list, &[0, 1, 2, 3, 6, 0xffff_ffff]]);
    type Mode = (&'static str, fn(u64, u64) -> u64);
    let modes: [Mode; 6] = [
        ("f4e", |selector, at| selector + at),
        ("b4e", |selector, at| (8 + selector - at) % 8),
        ("rc8", |selector, _| selector),
        ("ecl", |selector, at| selector.max(at)),
        ("ecr", |selector, at| selector.min(at)),
        ("rc16", |selector, at| (selector & 1) * 2 + at % 2),
    ];
    for (mode, pick) in modes {
        check(&format!("prmt.b32.{mode}"), B32, &[B32; 3], &rows, |row| {
            (0..4).fold(0, |value, at| value | u64::from(bytes(row)[pick(row[2] & 3, at) as usize]) << (8 * at))
        });
    }
}

#[test]
fn dot_products_of_bytes() {
    let list = &integers(32)[4..18];
    let rows = product(&[list, list, &[0, 1, 0x7fff_ffff, 0xffff_ffff]]);
    for (a, a_signed) in [("s32", true), ("u32", false)] {
        for (b, b_signed) in [("s32", true), ("u32", false)] {
            let part =
                |word: u64, at: u32, bits: u32, sign: bool| value(word >> (bits * at) & ((1 << bits) - 1), bits, sign);
            check(&format!("dp4a.{a}.{b}"), B32, &[B32; 3], &rows, |row| {
                let sum: i128 = (0..4).map(|at| part(row[0], at, 8, a_signed) * part(row[1], at, 8, b_signed)).sum();
                masked(sum + i128::from(row[2]), 32)
            });
            for (half, first) in [("lo", 0), ("hi", 2)] {
                check(&format!("dp2a.{half}.{a}.{b}"), B32, &[B32; 3], &rows, |row| {
                    let product = |at| part(row[0], at, 16, a_signed) * part(row[1], first + at, 8, b_signed);
                    masked(product(0) + product(1) + i128::from(row[2]), 32)
                });
            }
        }
    }
}

#[test]
fn carries_are_passed_on() {
    let list = &integers(64);
    let rows = product(&[list, list]);
    for (low, high, f) in
        [("add.cc", "addc", u64::wrapping_add as fn(u64, u64) -> u64), ("sub.cc", "subc", u64::wrapping_sub)]
    {
        let text = format!(
            ".reg .b32 %al, %ah, %bl, %bh, %ol, %oh; mov.b64 {{%al, %ah}}, %a; mov.b64 {{%bl, %bh}}, %b;
            {low}.u32 %ol, %al, %bl; {high}.u32 %oh, %ah, %bh; mov.b64 %o, {{%ol, %oh}};"
        );
        for (row, got) in rows.iter().zip(run_text(&text, B64, &[B64; 2], &rows)) {
            assert_eq!(got, f(row[0], row[1]), "{low} of {row:x?}");
        }
    }
    let text = ".reg .b32 %l, %h; mul.lo.u32 %l, %a, %b; mul.hi.u32 %h, %a, %b;
        mad.lo.cc.u32 %l, %c, %d, %l; madc.hi.u32 %h, %c, %d, %h; mov.b64 %o, {%l, %h};";
    let short = &integers(32)[..12];
    let rows = product(&[short, short, short, short]);
    for (row, got) in rows.iter().zip(run_text(text, B64, &[B32; 4], &rows)) {
        assert_eq!(got, (row[0] * row[1]).wrapping_add(row[2].wrapping_mul(row[3])), "{row:x?}");
    }
}

#[test]
fn saturation_of_integers() {
    let rows = product(&[&integers(32), &integers(32)]);
    let clamp = |value: i128| masked(value.clamp(i32::MIN.into(), i32::MAX.into()), 32);
    check("add.sat.s32", B32, &[B32; 2], &rows, |row| clamp(signed(row[0], 32) + signed(row[1], 32)));
    check("sub.sat.s32", B32, &[B32; 2], &rows, |row| clamp(signed(row[0], 32) - signed(row[1], 32)));
}

#[test]
fn comparisons_of_integers() {
    for (ty, bits, sign) in TYPES {
        let rows = product(&[&integers(bits), &integers(bits)]);
        type Case = (&'static str, fn(&i128, &i128) -> bool);
        let cases: [Case; 6] = [
            ("eq", i128::eq),
            ("ne", i128::ne),
            ("lt", i128::lt),
            ("le", i128::le),
            ("gt", i128::gt),
            ("ge", i128::ge),
        ];
        for (name, f) in cases {
            let text = format!("setp.{name}.{ty} %p|%q, %a, %b; selp.b32 %o, 1, 2, %p; @%q or.b32 %o, %o, 16;");
            for (row, got) in rows.iter().zip(run_text(&text, B32, &[reg(bits); 2], &rows)) {
                let holds = f(&value(row[0], bits, sign), &value(row[1], bits, sign));
                assert_eq!(got, if holds { 1 } else { 18 }, "{text} of {row:x?}");
            }
        }
    }
}

#[test]
fn comparisons_combine_with_predicates() {
    let rows = product(&[&[1, 2], &[1, 2], &[0, 1]]);
    type Case = (&'static str, fn(bool, bool) -> bool);
    let cases: [Case; 3] = [("and", |a, b| a && b), ("or", |a, b| a || b), ("xor", |a, b| a != b)];
    for (name, f) in cases {
        for not in ["", "!"] {
            let text =
                format!("setp.lt.{name}.u32 %p|%q, %a, %b, {not}%c; selp.b32 %o, 1, 0, %p; @%q or.b32 %o, %o, 2;");
            for (row, got) in rows.iter().zip(run_text(&text, B32, &[B32, B32, Reg::Pred], &rows)) {
                let (holds, other) = (row[0] < row[1], (row[2] != 0) != (not == "!"));
                assert_eq!(got, u64::from(f(holds, other)) | u64::from(f(!holds, other)) << 1, "{text} of {row:?}");
            }
        }
    }
}

#[test]
fn conversions_between_integers() {
    let all = [("u8", 8, false), ("s8", 8, true)].into_iter().chain(TYPES).collect::<Vec<_>>();
    for (from, from_bits, from_sign) in &all {
        let values = integers((*from_bits).max(16));
        let rows = product(&[&values]);
        for (to, to_bits, to_sign) in &all {
            // A narrow result is widened to its register as its own sign says.
            let register = (*to_bits).max(16);
            let source = |row: &[u64]| value(row[0] & (u64::MAX >> (64 - from_bits)), *from_bits, *from_sign);
            let widened = |result: i128| masked(value(masked(result, *to_bits), *to_bits, *to_sign), register);
            let (to_reg, from_reg) = (reg(register), reg((*from_bits).max(16)));
            check(&format!("cvt.{to}.{from}"), to_reg, &[from_reg], &rows, |row| widened(source(row)));
            let (low, high) = match (*to_sign, *to_bits) {
                (true, bits) => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
                (false, bits) => (0, (1i128 << bits) - 1),
            };
            check(&format!("cvt.sat.{to}.{from}"), to_reg, &[from_reg], &rows, |row| {
                widened(source(row).clamp(low, high))
            });
        }
    }
}

#[test]
fn narrow_results_widen_to_wide_registers() {
    let rows = product(&[&integers(32)]);
    check("cvt.s8.s32", B32, &[B32], &rows, |row| masked(signed(row[0] & 0xff, 8), 32));
    check("cvt.u8.s32", B32, &[B32], &rows, |row| row[0] & 0xff);
    check("cvt.s16.s32", B32, &[B32], &rows, |row| masked(signed(row[0] & 0xffff, 16), 32));
    check("cvt.s32.s32", B64, &[B32], &rows, |row| masked(signed(row[0], 32), 64));
    check("cvt.u32.u32", B64, &[B32], &rows, |row| row[0]);
    let loads = product(&[&integers(64)]);
    for (ty, bits, sign) in [
        ("u8", 8, false),
        ("s8", 8, true),
        ("u16", 16, false),
        ("s16", 16, true),
        ("u32", 32, false),
        ("s32", 32, true),
    ] {
        for register in [16, 32, 64].into_iter().filter(|&register| register >= bits) {
            let text = format!("ld.global.{ty} %o, [%in];");
            for (row, got) in loads.iter().zip(run_text(&text, reg(register), &[B64], &loads)) {
                let want = masked(value(row[0] & (u64::MAX >> (64 - bits)), bits, sign), register);
                assert_eq!(got, want, "{text} into {register} bits of {row:x?}");
            }
        }
    }
}
