//! f64, kinds of numbers, and the approximations that `floats` leaves out.

use crate::harness::Random;
use crate::opcodes::Reg::{B32, B64};
use crate::opcodes::{product, run, run_text};

fn doubles() -> Vec<u64> {
    let mut values: Vec<u64> = [
        0.0,
        1.0,
        1.5,
        2.5,
        0.1,
        1e300,
        1e-300,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::INFINITY,
        4_294_967_296.0,
        9.3e18,
        16_777_217.0,
        3.402_823_6e38,
        1.401_298_5e-45,
        6e-46,
    ]
    .iter()
    .flat_map(|x: &f64| [x.to_bits(), (-x).to_bits()])
    .collect();
    values.extend([1, 2, 0x000f_ffff_ffff_ffff, 0x7ff8_0000_0000_0000, 0xfff8_0000_0000_1234]);
    let mut random = Random::new(8);
    values.extend((0..4).map(|_| random.bits()));
    values
}

fn same(got: u64, want: f64) -> bool {
    got == want.to_bits() || f64::from_bits(got).is_nan() && want.is_nan()
}

fn check(opcode: &str, sources: usize, rows: &[Vec<u64>], expected: impl Fn(&[f64]) -> f64) {
    for (row, got) in rows.iter().zip(run(opcode, B64, &[B64; 3][..sources], rows)) {
        let values: Vec<f64> = row.iter().map(|&bits| f64::from_bits(bits)).collect();
        let want = expected(&values);
        assert!(same(got, want), "{opcode} of {values:?} gave {} instead of {want}", f64::from_bits(got));
    }
}

#[test]
fn arithmetic_of_doubles() {
    let list = doubles();
    let one = product(&[&list]);
    let two = product(&[&list, &list]);
    let three = product(&[&list[..16], &list[8..24], &list[20..]]);
    check("add.rn.f64", 2, &two, |v| v[0] + v[1]);
    check("sub.f64", 2, &two, |v| v[0] - v[1]);
    check("mul.rn.f64", 2, &two, |v| v[0] * v[1]);
    check("div.rn.f64", 2, &two, |v| v[0] / v[1]);
    check("fma.rn.f64", 3, &three, |v| v[0].mul_add(v[1], v[2]));
    check("mad.rn.f64", 3, &three, |v| v[0].mul_add(v[1], v[2]));
    check("rcp.rn.f64", 1, &one, |v| 1.0 / v[0]);
    check("sqrt.rn.f64", 1, &one, |v| v[0].sqrt());
    check("abs.f64", 1, &one, |v| v[0].abs());
    check("neg.f64", 1, &one, |v| -v[0]);
    check("copysign.f64", 2, &two, |v| v[1].copysign(v[0]));
    let larger = |a: f64, b: f64| match (a.is_nan(), b.is_nan()) {
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
    check("max.f64", 2, &two, |v| larger(v[0], v[1]));
    check("min.f64", 2, &two, |v| -larger(-v[0], -v[1]));
}

#[test]
fn doubles_compare_and_convert() {
    let list = doubles();
    let rows = product(&[&list, &list]);
    for (name, f) in [("lt", f64::lt as fn(&f64, &f64) -> bool), ("eq", f64::eq), ("ge", f64::ge)] {
        let text = format!("setp.{name}.f64 %p, %a, %b; selp.b32 %o, 1, 0, %p;");
        for (row, got) in rows.iter().zip(run_text(&text, B32, &[B64; 2], &rows)) {
            let [a, b] = [row[0], row[1]].map(f64::from_bits);
            assert_eq!(got, u64::from(f(&a, &b)), "{text} of {a} and {b}");
        }
    }
    let rows = product(&[&list]);
    for (row, got) in rows.iter().zip(run("cvt.rn.f32.f64", B32, &[B64], &rows)) {
        let want = f64::from_bits(row[0]) as f32;
        assert!(got == u64::from(want.to_bits()) || want.is_nan() && got == 0x7fff_ffff, "cvt.rn.f32.f64 of {row:x?}");
    }
    // Toward zero: of the two floats around, the one nearer to zero.
    for (row, got) in rows.iter().zip(run("cvt.rz.f32.f64", B32, &[B64], &rows)) {
        let (x, got) = (f64::from_bits(row[0]), f32::from_bits(got as u32));
        if x.is_finite() {
            let beyond = f64::from(if x < 0.0 { got.next_down() } else { got.next_up() });
            assert!(f64::from(got).abs() <= x.abs() && beyond.abs() > x.abs(), "cvt.rz.f32.f64 of {x} gave {got}");
        }
    }
    let singles: Vec<Vec<u64>> =
        [0f32, -0.0, 1.5, 1e-45, f32::MAX, f32::NEG_INFINITY].iter().map(|x| vec![x.to_bits().into()]).collect();
    for (row, got) in singles.iter().zip(run("cvt.f64.f32", B64, &[B32], &singles)) {
        assert!(same(got, f32::from_bits(row[0] as u32).into()));
    }
    check("cvt.rni.f64.f64", 1, &rows, |v| v[0].round_ties_even());
    check("cvt.rzi.f64.f64", 1, &rows, |v| v[0].trunc());
    for (row, got) in rows.iter().zip(run("cvt.rzi.s32.f64", B32, &[B64], &rows)) {
        let x = f64::from_bits(row[0]);
        let want = if x.is_nan() { i32::MIN } else { x.trunc().clamp(i32::MIN.into(), i32::MAX.into()) as i32 };
        assert_eq!(got as u32 as i32, want, "cvt.rzi.s32.f64 of {x}");
    }
}

#[test]
fn kinds_of_numbers() {
    let list = doubles();
    let singles: Vec<u64> =
        [0x7f80_0000u32, 0x7fc0_0000, 1, 0x8000_0001, 0x0080_0000, 0, 0x8000_0000, 0x3f80_0000].map(u64::from).to_vec();
    for (kind, f) in [
        ("finite", f64::is_finite as fn(f64) -> bool),
        ("infinite", f64::is_infinite),
        ("number", |x: f64| !x.is_nan()),
        ("notanumber", f64::is_nan),
        ("normal", f64::is_normal),
        ("subnormal", f64::is_subnormal),
    ] {
        let rows = product(&[&list]);
        let text = format!("testp.{kind}.f64 %p, %a; selp.b32 %o, 1, 0, %p;");
        for (row, got) in rows.iter().zip(run_text(&text, B32, &[B64], &rows)) {
            assert_eq!(got, u64::from(f(f64::from_bits(row[0]))), "{text} of {row:x?}");
        }
        let rows = product(&[&singles]);
        let text = format!("testp.{kind}.f32 %p, %a; selp.b32 %o, 1, 0, %p;");
        for (row, got) in rows.iter().zip(run_text(&text, B32, &[B32], &rows)) {
            let x = f32::from_bits(row[0] as u32);
            let want = match kind {
                "normal" => x.is_normal(),
                "subnormal" => x.is_subnormal(),
                _ => f(x.into()),
            };
            assert_eq!(got, u64::from(want), "{text} of {row:x?}");
        }
    }
}

#[test]
fn approximate_quotients_and_cosines() {
    let mut random = Random::new(4);
    let list: Vec<u64> = (0..60).map(|_| u64::from((random.float() * 50.0).to_bits())).collect();
    let rows = product(&[&list, &list]);
    let float = |bits: u64| f64::from(f32::from_bits(bits as u32));
    for opcode in ["div.full.f32", "div.approx.f32", "div.full.ftz.f32", "div.approx.ftz.f32"] {
        for (row, got) in rows.iter().zip(run(opcode, B32, &[B32; 2], &rows)) {
            let want = float(row[0]) / float(row[1]);
            assert!((float(got) - want).abs() <= 2.4e-7 * want.abs(), "{opcode} of {row:x?}");
        }
    }
    let rows = product(&[&list]);
    for (row, got) in rows.iter().zip(run("cos.approx.f32", B32, &[B32], &rows)) {
        assert!((float(got) - float(row[0]).cos()).abs() < 4e-7);
    }
    // The PTX ISA: for a divisor between 2^126 and 2^128, div.approx gives zero, and NaN for an infinite dividend.
    let huge = u64::from(2f32.powi(127).to_bits());
    let infinity = u64::from(f32::INFINITY.to_bits());
    let got = run("div.approx.f32", B32, &[B32; 2], &[vec![huge, huge], vec![infinity, huge]]);
    assert_eq!(got[0], 0);
    assert!(f32::from_bits(got[1] as u32).is_nan(), "{:#x}", got[1]);
}
