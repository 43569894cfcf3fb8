//! Floating-point instructions on boundary values: rounding, NaN, zeros, subnormals, flushing, saturation.

use crate::exact::{Fixed, Round};
use crate::harness::Random;
use crate::opcodes::Reg::{B16, B32, B64};
use crate::opcodes::{integers, product, run, run_text};

/// The one NaN of f32 results.
const NAN: u32 = 0x7fff_ffff;

/// Boundary values of f32.
pub fn floats() -> Vec<u64> {
    let mut values: Vec<u32> = [
        0.0,
        1.0,
        1.5,
        2.0,
        2.5,
        3.0,
        0.5,
        0.1,
        1e-30,
        1e30,
        3.402_823_5e38,
        16_777_215.0,
        16_777_216.0,
        0.333_333_34,
        f32::MIN_POSITIVE,
        f32::INFINITY,
        2_147_483_648.0,
        65504.0,
        65520.0,
        6.0e-8,
    ]
    .map(f32::to_bits)
    .to_vec();
    // The smallest subnormals, the largest, the float after 1.
    values.extend([1, 2, 3, 0x007f_ffff, 0x0080_0001, 0x3f80_0001, 0x7f7f_fffe]);
    let negative: Vec<u32> = values.iter().map(|bits| bits | 0x8000_0000).collect();
    values.extend(negative);
    values.extend([0x7fc0_0000, 0xffc0_1234, 0x7f80_0001]);
    let mut random = Random::new(77);
    values.extend((0..6).map(|_| random.bits() as u32));
    values.iter().map(|&bits| u64::from(bits)).collect()
}

pub fn float(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

pub fn bits(x: f32) -> u64 {
    if x.is_nan() { NAN.into() } else { x.to_bits().into() }
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

pub const MODES: [(&str, Round); 4] =
    [("rn", Round::Nearest), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)];

fn check(opcode: &str, sources: usize, rows: &[Vec<u64>], expected: impl Fn(&[f32]) -> f32) {
    let got = run(opcode, B32, &[B32; 3][..sources], rows);
    for (row, got) in rows.iter().zip(got) {
        let values: Vec<f32> = row.iter().map(|&bits| float(bits)).collect();
        let want = bits(expected(&values));
        assert_eq!(got, want, "{opcode} of {values:?} ({row:x?}) gave {} instead of {}", float(got), float(want));
    }
}

/// The value of an exact sum; zeros take their sign from the terms.
fn rounded(sum: Fixed, round: Round, negative: &[bool]) -> f32 {
    if sum != Fixed::ZERO {
        return sum.to_f32(round);
    }
    let all = negative.iter().all(|&negative| negative);
    let any = negative.iter().any(|&negative| negative);
    if all || any && round == Round::Down { -0.0 } else { 0.0 }
}

fn sum(a: f32, b: f32, round: Round) -> f32 {
    if !a.is_finite() || !b.is_finite() {
        return a + b;
    }
    rounded(Fixed::of_f32(a).plus(Fixed::of_f32(b)), round, &[a.is_sign_negative(), b.is_sign_negative()])
}

fn times(a: f32, b: f32, round: Round) -> f32 {
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return a * b;
    }
    // A product that rounds to zero keeps its sign.
    Fixed::product(a, b).to_f32(round).copysign(a * b)
}

fn fused(a: f32, b: f32, c: f32, round: Round) -> f32 {
    if !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return a.mul_add(b, c);
    }
    let negative = a.is_sign_negative() != b.is_sign_negative();
    let exact = Fixed::product(a, b).plus(Fixed::of_f32(c));
    let value = rounded(exact, round, &[negative, c.is_sign_negative()]);
    if value == 0.0 && exact != Fixed::ZERO {
        value.copysign(if exact.minus(Fixed::ZERO).to_f32(Round::Up) > 0.0 { 1.0 } else { -1.0 })
    } else {
        value
    }
}

#[test]
fn sums_and_products_round_in_every_direction() {
    let list = floats();
    let rows = product(&[&list, &list]);
    for (mode, round) in MODES {
        check(&format!("add.{mode}.f32"), 2, &rows, |v| sum(v[0], v[1], round));
        check(&format!("sub.{mode}.f32"), 2, &rows, |v| sum(v[0], -v[1], round));
        check(&format!("mul.{mode}.f32"), 2, &rows, |v| times(v[0], v[1], round));
        check(&format!("add.{mode}.ftz.f32"), 2, &rows, |v| flushed(sum(flushed(v[0]), flushed(v[1]), round)));
        check(&format!("mul.{mode}.ftz.f32"), 2, &rows, |v| flushed(times(flushed(v[0]), flushed(v[1]), round)));
        let saturated = |x: f32| if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 };
        check(&format!("add.{mode}.sat.f32"), 2, &rows, |v| saturated(sum(v[0], v[1], round)));
    }
    check("add.f32", 2, &rows, |v| v[0] + v[1]);
    check("mul.f32", 2, &rows, |v| v[0] * v[1]);
}

#[test]
fn fused_sums_round_in_every_direction() {
    let list: Vec<u64> = floats().into_iter().step_by(2).collect();
    let rows = product(&[&list, &list, &list]);
    for (mode, round) in MODES {
        check(&format!("fma.{mode}.f32"), 3, &rows, |v| fused(v[0], v[1], v[2], round));
    }
}

#[test]
fn quotients_and_roots_round_in_every_direction() {
    let list = floats();
    let rows = product(&[&list, &list]);
    // A quotient q is right where the error of q is on the allowed side and the next float is on the other.
    let quotient = |a: f32, b: f32, round: Round| {
        if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
            return a / b;
        }
        let near = a / b;
        let exact_side = |q: f32| {
            // The sign of a/b - q, from a - q b and the sign of b.
            let rest = Fixed::of_f32(a).minus(Fixed::product(q, b));
            let sign = if rest == Fixed::ZERO {
                0
            } else if rest.to_f32(Round::Away) > 0.0 || rest.to_f32(Round::Up) > 0.0 {
                1
            } else {
                -1
            };
            if b < 0.0 { -sign } else { sign }
        };
        directed(near, round, exact_side).copysign(a * b.signum())
    };
    let root = |a: f32, round: Round| {
        if !a.is_finite() || a <= 0.0 {
            return a.sqrt();
        }
        directed(a.sqrt(), round, |q| {
            let rest = Fixed::of_f32(a).minus(Fixed::product(q, q));
            if rest == Fixed::ZERO {
                0
            } else if rest.to_f32(Round::Up) > 0.0 {
                1
            } else {
                -1
            }
        })
    };
    for (mode, round) in MODES {
        check(&format!("div.{mode}.f32"), 2, &rows, |v| quotient(v[0], v[1], round));
        let single = product(&[&list]);
        check(&format!("rcp.{mode}.f32"), 1, &single, |v| quotient(1.0, v[0], round));
        check(&format!("sqrt.{mode}.f32"), 1, &single, |v| root(v[0], round));
        check(&format!("sqrt.{mode}.ftz.f32"), 1, &single, |v| flushed(root(flushed(v[0]), round)));
    }
}

/// The neighbour of the nearest float that the direction asks for; `side(q)` is the sign of what is left above q.
fn directed(near: f32, round: Round, side: impl Fn(f32) -> i32) -> f32 {
    if near.is_infinite() {
        // The exact value is finite but beyond the largest float.
        return match (round, near > 0.0) {
            (Round::Nearest | Round::Away, _) | (Round::Up, true) | (Round::Down, false) => near,
            _ => f32::MAX.copysign(near),
        };
    }
    let above = side(near);
    match round {
        Round::Up if above > 0 => near.next_up(),
        Round::Down if above < 0 => near.next_down(),
        Round::Zero if near > 0.0 && above < 0 => near.next_down(),
        Round::Zero if near < 0.0 && above > 0 => near.next_up(),
        _ => near,
    }
}

#[test]
fn extremes_and_signs() {
    let list = floats();
    let rows = product(&[&list, &list]);
    let larger = |a: f32, b: f32| match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => {
            if a.is_sign_negative() {
                b
            } else {
                a
            }
        }
        _ => {
            if a > b {
                a
            } else {
                b
            }
        }
    };
    let smaller = |a: f32, b: f32| -larger(-a, -b);
    check("max.f32", 2, &rows, |v| larger(v[0], v[1]));
    check("min.f32", 2, &rows, |v| smaller(v[0], v[1]));
    check("max.ftz.f32", 2, &rows, |v| larger(flushed(v[0]), flushed(v[1])));
    let strict =
        |f: &dyn Fn(f32, f32) -> f32, a: f32, b: f32| if a.is_nan() || b.is_nan() { f32::NAN } else { f(a, b) };
    check("max.NaN.f32", 2, &rows, |v| strict(&larger, v[0], v[1]));
    check("min.NaN.f32", 2, &rows, |v| strict(&smaller, v[0], v[1]));
    let rows_of_one = product(&[&list]);
    for (row, got) in rows_of_one.iter().zip(run("neg.f32", B32, &[B32], &rows_of_one)) {
        assert_eq!(got, row[0] ^ 0x8000_0000);
    }
    for (row, got) in rows_of_one.iter().zip(run("abs.f32", B32, &[B32], &rows_of_one)) {
        assert_eq!(got, row[0] & 0x7fff_ffff);
    }
    for (row, got) in rows.iter().zip(run("copysign.f32", B32, &[B32; 2], &rows)) {
        assert_eq!(got, row[1] & 0x7fff_ffff | row[0] & 0x8000_0000);
    }
}

#[test]
fn comparisons_know_nan() {
    let list = floats();
    let rows = product(&[&list, &list]);
    type Case = (&'static str, fn(f32, f32) -> bool);
    let ordered: [Case; 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    for (name, f) in ordered {
        for (suffix, unordered) in [("", false), ("u", true)] {
            for ftz in [false, true] {
                let text = format!(
                    "setp.{name}{suffix}{}.f32 %p, %a, %b; selp.b32 %o, 1, 0, %p;",
                    if ftz { ".ftz" } else { "" }
                );
                for (row, got) in rows.iter().zip(run_text(&text, B32, &[B32; 2], &rows)) {
                    let [a, b] = [row[0], row[1]].map(|bits| if ftz { flushed(float(bits)) } else { float(bits) });
                    let want = if a.is_nan() || b.is_nan() { unordered } else { f(a, b) };
                    assert_eq!(got, u64::from(want), "{text} of {a} and {b}");
                }
            }
        }
    }
    for (name, want_nan) in [("num", false), ("nan", true)] {
        let text = format!("setp.{name}.f32 %p, %a, %b; selp.b32 %o, 1, 0, %p;");
        for (row, got) in rows.iter().zip(run_text(&text, B32, &[B32; 2], &rows)) {
            let nan = float(row[0]).is_nan() || float(row[1]).is_nan();
            assert_eq!(got, u64::from(nan == want_nan));
        }
    }
    let got = run("set.lt.f32.f32", B32, &[B32; 2], &rows);
    for (row, got) in rows.iter().zip(got) {
        assert_eq!(float(got), if float(row[0]) < float(row[1]) { 1.0 } else { 0.0 });
    }
}

/// A float to the integers, rounded and clamped as the PTX ISA says.
fn to_integer(x: f64, round: &str, low: i128, high: i128, nan: i128) -> i128 {
    let whole = match round {
        "rni" => x.round_ties_even(),
        "rzi" => x.trunc(),
        "rmi" => x.floor(),
        _ => x.ceil(),
    };
    if whole.is_nan() { nan } else { (whole as i128).clamp(low, high) }
}

#[test]
fn floats_to_integers() {
    let rows = product(&[&floats()]);
    for (ty, bits, sign) in [
        ("u16", 16, false),
        ("s16", 16, true),
        ("u32", 32, false),
        ("s32", 32, true),
        ("u64", 64, false),
        ("s64", 64, true),
    ] {
        let (low, high) =
            if sign { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
        for round in ["rni", "rzi", "rmi", "rpi"] {
            let opcode = format!("cvt.{round}.{ty}.f32");
            let nan = if bits == 64 { 1i128 << 63 } else { 0 };
            let to = if bits == 16 {
                B16
            } else if bits == 32 {
                B32
            } else {
                B64
            };
            for (row, got) in rows.iter().zip(run(&opcode, to, &[B32], &rows)) {
                let want =
                    to_integer(f64::from(float(row[0])), round, low, high, nan) as u64 & (u64::MAX >> (64 - bits));
                assert_eq!(got, want, "{opcode} of {}", float(row[0]));
            }
        }
    }
}

#[test]
fn integers_to_floats() {
    for (ty, bits, sign) in [
        ("u16", 16, false),
        ("s16", 16, true),
        ("u32", 32, false),
        ("s32", 32, true),
        ("u64", 64, false),
        ("s64", 64, true),
    ] {
        let rows = product(&[&integers(bits)]);
        let from = if bits == 16 {
            B16
        } else if bits == 32 {
            B32
        } else {
            B64
        };
        let value = |bits_of: u64| {
            if sign { i128::from((bits_of << (64 - bits)) as i64 >> (64 - bits)) } else { bits_of.into() }
        };
        for (mode, round) in MODES {
            let opcode = format!("cvt.{mode}.f32.{ty}");
            for (row, got) in rows.iter().zip(run(&opcode, B32, &[from], &rows)) {
                assert_eq!(float(got), Fixed::of(value(row[0]), 0).to_f32(round), "{opcode} of {}", value(row[0]));
            }
        }
        let opcode = format!("cvt.rn.f64.{ty}");
        for (row, got) in rows.iter().zip(run(&opcode, B64, &[from], &rows)) {
            assert_eq!(f64::from_bits(got), value(row[0]) as f64, "{opcode}");
        }
    }
}

#[test]
fn floats_to_integral_floats() {
    let rows = product(&[&floats()]);
    check("cvt.rni.f32.f32", 1, &rows, |v| v[0].round_ties_even());
    check("cvt.rzi.f32.f32", 1, &rows, |v| v[0].trunc());
    check("cvt.rmi.f32.f32", 1, &rows, |v| v[0].floor());
    check("cvt.rpi.f32.f32", 1, &rows, |v| v[0].ceil());
    check("cvt.sat.f32.f32", 1, &rows, |v| if v[0].is_nan() { 0.0 } else { v[0].clamp(0.0, 1.0) + 0.0 });
}

#[test]
fn approximations_are_close() {
    let mut random = Random::new(21);
    let list: Vec<u64> = (0..2000).map(|_| u64::from((random.float() * 60.0).to_bits())).collect();
    let rows = product(&[&list]);
    type Case = (&'static str, fn(f64) -> f64, f64, f64);
    // Name, function, relative and absolute error that the PTX ISA allows.
    let cases: [Case; 8] = [
        ("ex2.approx.f32", f64::exp2, 2e-7, 0.0),
        ("ex2.approx.ftz.f32", f64::exp2, 2e-7, 0.0),
        ("lg2.approx.f32", f64::log2, 2e-7, 2e-7),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), 1.2e-7, 0.0),
        ("rcp.approx.ftz.f32", |x| 1.0 / x, 1.2e-7, 0.0),
        ("sqrt.approx.f32", f64::sqrt, 2e-7, 0.0),
        ("sin.approx.f32", f64::sin, 0.0, 4e-7),
        ("tanh.approx.f32", f64::tanh, 5e-4, 0.0),
    ];
    for (opcode, f, relative, absolute) in cases {
        for (row, got) in rows.iter().zip(run(opcode, B32, &[B32], &rows)) {
            let (x, got) = (f64::from(float(row[0])), f64::from(float(got)));
            let want = f(x);
            let close = (got - want).abs() <= relative * want.abs() + absolute;
            assert!(close || got.is_nan() && want.is_nan(), "{opcode} of {x} gave {got} instead of {want}");
        }
    }
    let special = [0f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-45, -1.0, 1.0]
        .map(|x| vec![u64::from(x.to_bits())]);
    let expected: [(&str, [f32; 8]); 4] = [
        ("ex2.approx.f32", [1.0, 1.0, f32::INFINITY, 0.0, f32::NAN, 1.0, 0.5, 2.0]),
        (
            "lg2.approx.f32",
            [f32::NEG_INFINITY, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, f32::NAN, -149.0, f32::NAN, 0.0],
        ),
        (
            "rsqrt.approx.f32",
            [f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::NAN, f32::NAN, 2f32.powf(74.5), f32::NAN, 1.0],
        ),
        ("rcp.approx.ftz.f32", [f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::NAN, f32::INFINITY, -1.0, 1.0]),
    ];
    for (opcode, want) in expected {
        let got: Vec<u64> = run(opcode, B32, &[B32], &special);
        assert_eq!(got, want.map(bits), "{opcode}");
    }
}
