//! f16 and bf16: arithmetic, extremes, signs, flushing, saturation, conversions.

use crate::exact::{Fixed, Round};
use crate::floats::{MODES, float, floats};
use crate::harness::Random;
use crate::opcodes::Reg::{B16, B32, B64};
use crate::opcodes::{integers, product, run, run_text, signed};

/// 16-bit formats: name, bits of significand, least and greatest exponent, bits of the fraction.
const SMALL: [(&str, i32, i32, i32, u32); 2] = [("f16", 11, -14, 15, 10), ("bf16", 8, -126, 127, 7)];

/// The bits of a value that a 16-bit format holds.
fn small_bits(x: f64, least: i32, fraction: u32) -> u64 {
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    if x.is_nan() {
        return 0x7fff;
    }
    let magnitude = x.abs();
    let all_ones = ((1u64 << (15 - fraction)) - 1) << fraction;
    if magnitude.is_infinite() {
        return sign | all_ones;
    }
    let place = 2f64.powi(least - fraction as i32);
    if magnitude < 2f64.powi(least) {
        return sign | (magnitude / place) as u64;
    }
    let exponent = magnitude.log2().floor() as i32;
    let exponent = if 2f64.powi(exponent) > magnitude { exponent - 1 } else { exponent };
    let exponent = if 2f64.powi(exponent + 1) <= magnitude { exponent + 1 } else { exponent };
    let significand = (magnitude / 2f64.powi(exponent - fraction as i32)) as u64;
    sign | ((exponent - least + 1) as u64) << fraction | significand & ((1 << fraction) - 1)
}

/// The value of a 16-bit format's bits.
fn small_value(bits: u64, least: i32, fraction: u32) -> f64 {
    let (field, biased) = (bits & ((1 << fraction) - 1), (bits >> fraction & ((1 << (15 - fraction)) - 1)) as i32);
    let special = biased == (1 << (15 - fraction)) - 1;
    let magnitude = match (special, biased, field) {
        (true, _, 0) => f64::INFINITY,
        (true, ..) => f64::NAN,
        (_, 0, _) => field as f64 * 2f64.powi(least - fraction as i32),
        _ => (field + (1 << fraction)) as f64 * 2f64.powi(biased - 1 + least - fraction as i32),
    };
    if bits & 0x8000 != 0 { -magnitude } else { magnitude }
}

/// A 16-bit format as `SMALL` has it.
type Format = (&'static str, i32, i32, i32, u32);

fn values((.., fraction): Format) -> Vec<u64> {
    let ones = ((1u64 << (15 - fraction)) - 1) << fraction;
    let mut list =
        vec![0, 0x8000, 1, 0x8001, ones, ones | 0x8000, ones + 1, ones - 1, 1 << fraction, (1 << fraction) - 1];
    list.extend([0x3c00, 0xbc00, 0x3f80, 0xbf80, 0x4000, 0x3555]);
    let mut random = Random::new(2);
    list.extend((0..8).map(|_| random.bits() & 0xffff));
    list
}

fn value((_, _, least, _, fraction): Format, bits: u64) -> f32 {
    small_value(bits, least, fraction) as f32
}

/// The format's bits of a value that is not finite or that the format holds.
fn bits((_, _, least, _, fraction): Format, x: f32) -> u64 {
    small_bits(x.into(), least, fraction)
}

/// The format's bits of an exact value; `like` has the sign of a zero.
fn narrow(format: Format, exact: Fixed, like: f32) -> u64 {
    let (_, precision, least, most, _) = format;
    let value = exact.round(precision, least, most, Round::Nearest).unwrap();
    if value == 0.0 { bits(format, 0f32.copysign(like)) } else { small_bits(value, least, format.4) }
}

/// Rounds an f32 to the format.
fn rounded(format: Format, x: f32) -> u64 {
    if x.is_finite() { narrow(format, Fixed::of_f32(x), x) } else { bits(format, x) }
}

fn times(format: Format, a: f32, b: f32) -> u64 {
    if (a * b).is_finite() || a.is_finite() && b.is_finite() {
        narrow(format, Fixed::product(a, b), a * b)
    } else {
        bits(format, a * b)
    }
}

fn flushed(format: Format, x: f32) -> f32 {
    if f64::from(x.abs()) < 2f64.powi(format.2) { 0f32.copysign(x) } else { x }
}

fn check(format: Format, opcode: &str, sources: usize, rows: &[Vec<u64>], expected: impl Fn(&[f32]) -> u64) {
    let opcode = format!("{opcode}.{}", format.0);
    for (row, got) in rows.iter().zip(run(&opcode, B16, &[B16; 3][..sources], rows)) {
        let values: Vec<f32> = row.iter().map(|&bits| value(format, bits)).collect();
        let want = expected(&values);
        assert_eq!(got, want, "{opcode} of {row:x?} gave {got:#x} instead of {want:#x}");
    }
    // The same in both halves of a pair.
    let pairs: Vec<Vec<u64>> =
        rows.windows(2).map(|two| two[0].iter().zip(&two[1]).map(|(low, high)| low | high << 16).collect()).collect();
    for (row, got) in pairs.iter().zip(run(&format!("{opcode}x2"), B32, &[B32; 3][..sources], &pairs)) {
        let half =
            |shift: u32| expected(&row.iter().map(|&word| value(format, word >> shift & 0xffff)).collect::<Vec<_>>());
        assert_eq!(got, half(0) | half(16) << 16, "{opcode}x2 of {row:x?}");
    }
}

#[test]
fn products_are_rounded_once() {
    for format in SMALL {
        let list = values(format);
        let rows = product(&[&list, &list]);
        check(format, "mul.rn", 2, &rows, |v| times(format, v[0], v[1]));
        check(format, "mul", 2, &rows, |v| times(format, v[0], v[1]));
        if format.0 == "f16" {
            check(format, "mul.ftz", 2, &rows, |v| {
                let product = value(format, times(format, flushed(format, v[0]), flushed(format, v[1])));
                bits(format, flushed(format, product))
            });
            let saturated = |x: f32| if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 };
            check(format, "mul.sat", 2, &rows, |v| bits(format, saturated(value(format, times(format, v[0], v[1])))));
            check(format, "add.rn.sat", 2, &rows, |v| {
                bits(format, saturated(value(format, rounded(format, v[0] + v[1]))))
            });
        }
    }
}

#[test]
fn fused_sums_are_cut_at_zero() {
    for format in SMALL {
        let list = values(format);
        let rows = product(&[&list, &list]);
        // a times b plus -0 is the product.
        let with_zero: Vec<Vec<u64>> = rows.iter().map(|row| vec![row[0], row[1], 0x8000]).collect();
        check(format, "fma.rn.relu", 3, &with_zero, |v| {
            let product = times(format, v[0], v[1]);
            if value(format, product) < 0.0 { 0 } else { product }
        });
    }
}

#[test]
fn extremes_and_signs() {
    for format in SMALL {
        let list = values(format);
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
        check(format, "max", 2, &rows, |v| bits(format, larger(v[0], v[1])));
        check(format, "min", 2, &rows, |v| bits(format, smaller(v[0], v[1])));
        let strict = |x: f32, v: &[f32]| if v.iter().any(|x| x.is_nan()) { 0x7fff } else { bits(format, x) };
        check(format, "max.NaN", 2, &rows, |v| strict(larger(v[0], v[1]), v));
        check(format, "min.NaN", 2, &rows, |v| strict(smaller(v[0], v[1]), v));
        let one = product(&[&list]);
        for (row, got) in one.iter().zip(run(&format!("neg.{}", format.0), B16, &[B16], &one)) {
            assert_eq!(got, row[0] ^ 0x8000);
        }
        for (row, got) in one.iter().zip(run(&format!("abs.{}", format.0), B16, &[B16], &one)) {
            assert_eq!(got, row[0] & 0x7fff);
        }
        for (name, f) in [("lt", f32::lt as fn(&f32, &f32) -> bool), ("eq", f32::eq), ("ge", f32::ge)] {
            let text = format!("setp.{name}.{} %p, %a, %b; selp.b32 %o, 1, 0, %p;", format.0);
            for (row, got) in rows.iter().zip(run_text(&text, B32, &[B16; 2], &rows)) {
                assert_eq!(got, u64::from(f(&value(format, row[0]), &value(format, row[1]))), "{text} of {row:x?}");
            }
        }
    }
}

#[test]
fn approximations_of_halves() {
    for format in SMALL {
        let list = values(format);
        let rows = product(&[&list]);
        let (ex2, ulp) =
            if format.0 == "bf16" { ("ex2.approx.ftz.bf16", 2f64.powi(-7)) } else { ("ex2.approx.f16", 2f64.powi(-9)) };
        let tanh = format!("tanh.approx.{}", format.0);
        for (opcode, f) in [(ex2, f64::exp2 as fn(f64) -> f64), (&tanh, f64::tanh)] {
            for (row, got) in rows.iter().zip(run(opcode, B16, &[B16], &rows)) {
                let (x, got) = (f64::from(value(format, row[0])), f64::from(value(format, got)));
                let want = f(x);
                let least = 2f64.powi(format.2);
                let most = 2f64.powi(format.3 + 1);
                let close = (got - want).abs() <= ulp * want.abs() + if want.abs() < least { least } else { 0.0 };
                assert!(
                    close || got == want || want >= most && got.is_infinite() || got.is_nan() && want.is_nan(),
                    "{opcode} of {x} gave {got} instead of {want}"
                );
            }
        }
    }
}

#[test]
fn halves_and_integers() {
    let f16 = SMALL[0];
    let rows = product(&[&values(f16)]);
    for (mode, round) in
        [("rni", f32::round_ties_even as fn(f32) -> f32), ("rzi", f32::trunc), ("rmi", f32::floor), ("rpi", f32::ceil)]
    {
        for (row, got) in rows.iter().zip(run(&format!("cvt.{mode}.s32.f16"), B32, &[B16], &rows)) {
            // A NaN becomes zero where source and result have fewer than 64 bits.
            let x = value(f16, row[0]);
            assert_eq!(got as u32 as i32, round(x) as i32, "cvt.{mode}.s32.f16 of {x}");
        }
        for (row, got) in rows.iter().zip(run(&format!("cvt.{mode}.u8.f16"), B16, &[B16], &rows)) {
            assert_eq!(got, u64::from(round(value(f16, row[0])) as u8));
        }
        for (row, got) in rows.iter().zip(run(&format!("cvt.{mode}.f16.f16"), B16, &[B16], &rows)) {
            assert_eq!(got, bits(f16, round(value(f16, row[0]))));
        }
    }
    for format in SMALL {
        for (ty, width, reg) in [("s16", 16, B16), ("s32", 32, B32), ("s64", 64, B64)] {
            if format.0 == "bf16" && ty != "s32" {
                continue;
            }
            let rows = product(&[&integers(width)]);
            for (row, got) in rows.iter().zip(run(&format!("cvt.rn.{}.{ty}", format.0), B16, &[reg], &rows)) {
                let exact = Fixed::of(signed(row[0], width), 0);
                assert_eq!(got, narrow(format, exact, 0.0), "cvt.rn.{}.{ty} of {row:x?}", format.0);
            }
        }
    }
}

#[test]
fn narrowing_cuts_and_saturates() {
    let singles: Vec<u64> = [
        0f32,
        -0.0,
        1.0,
        -1.0,
        0.3,
        -0.3,
        1e-8,
        3e-41,
        65519.0,
        65520.0,
        1e38,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        2.0,
    ]
    .map(|x| u64::from(x.to_bits()))
    .to_vec();
    let rows = product(&[&singles]);
    let float = |row: &[u64]| f32::from_bits(row[0] as u32);
    for format in SMALL {
        for (row, got) in rows.iter().zip(run(&format!("cvt.rn.relu.{}.f32", format.0), B16, &[B32], &rows)) {
            let x = float(row);
            // -0 may stay: the PTX ISA clamps negative values.
            assert_eq!(got, if x < 0.0 { 0 } else { rounded(format, x) }, "relu of {x}");
        }
        let pairs: Vec<Vec<u64>> = singles.windows(2).map(<[u64]>::to_vec).collect();
        for (row, got) in pairs.iter().zip(run(&format!("cvt.rn.relu.{}x2.f32", format.0), B32, &[B32; 2], &pairs)) {
            let half = |bits: u64| {
                let x = f32::from_bits(bits as u32);
                if x < 0.0 { 0 } else { rounded(format, x) }
            };
            assert_eq!(got, half(row[0]) << 16 | half(row[1]), "relu of {row:x?}");
        }
    }
    let f16 = SMALL[0];
    for (row, got) in rows.iter().zip(run("cvt.rn.sat.f16.f32", B16, &[B32], &rows)) {
        let x = float(row);
        assert_eq!(got, if x.is_nan() { 0 } else { rounded(f16, x.clamp(0.0, 1.0) + 0.0) }, "sat of {x}");
    }
    for (mode, round) in [("rn", Round::Nearest), ("rz", Round::Zero)] {
        for (row, got) in rows.iter().zip(run(&format!("cvt.{mode}.tf32.f32"), B32, &[B32], &rows)) {
            let x = float(row);
            let want = if x.is_finite() {
                (Fixed::of_f32(x).round(11, -126, 127, round).unwrap() as f32).copysign(x)
            } else {
                x
            };
            assert_eq!(got, crate::floats::bits(want), "cvt.{mode}.tf32.f32 of {x}");
        }
    }
}

#[test]
fn narrowing_to_sixteen_bits() {
    let mut list = floats();
    let mut random = Random::new(5);
    list.extend((0..400).map(|_| u64::from((random.float() * 2f32.powi(random.bits() as i32 % 24)).to_bits())));
    let rows = product(&[&list]);
    for (ty, precision, least, most, fraction) in SMALL {
        let narrow = |x: f32, round| {
            let value = if x.is_finite() {
                Fixed::of_f32(x).round(precision, least, most, round).unwrap()
            } else {
                f64::from(x)
            };
            small_bits(if value == 0.0 { 0f64.copysign(x.into()) } else { value }, least, fraction)
        };
        for (mode, round) in MODES.into_iter().filter(|(mode, _)| matches!(*mode, "rn" | "rz")) {
            let opcode = format!("cvt.{mode}.{ty}.f32");
            for (row, got) in rows.iter().zip(run(&opcode, B16, &[B32], &rows)) {
                assert_eq!(got, narrow(float(row[0]), round), "{opcode} of {} ({:#x})", float(row[0]), row[0]);
            }
            let pairs: Vec<Vec<u64>> = list.windows(2).map(<[u64]>::to_vec).collect();
            let opcode = format!("cvt.{mode}.{ty}x2.f32");
            for (row, got) in pairs.iter().zip(run(&opcode, B32, &[B32; 2], &pairs)) {
                assert_eq!(
                    got,
                    narrow(float(row[0]), round) << 16 | narrow(float(row[1]), round),
                    "{opcode} of {row:x?}"
                );
            }
        }
        let every: Vec<Vec<u64>> = (0..=0xffff).map(|bits| vec![bits]).collect();
        let opcode = format!("cvt.f32.{ty}");
        for (row, got) in every.iter().zip(run(&opcode, B32, &[B16], &every)) {
            assert_eq!(
                got,
                crate::floats::bits(small_value(row[0], least, fraction) as f32),
                "{opcode} of {:#x}",
                row[0]
            );
        }
    }
    for (row, got) in rows.iter().zip(run("cvt.rna.tf32.f32", B32, &[B32], &rows)) {
        let x = float(row[0]);
        let want = if x.is_finite() {
            (Fixed::of_f32(x).round(11, -126, 127, Round::Away).unwrap() as f32).copysign(x)
        } else {
            x
        };
        assert_eq!(got, crate::floats::bits(want), "cvt.rna.tf32.f32 of {x}");
    }
}

#[test]
fn sixteen_bit_arithmetic_rounds_once() {
    for (ty, precision, least, most, fraction) in SMALL {
        let mut random = Random::new(9);
        let ones = ((1u64 << (15 - fraction)) - 1) << fraction;
        let mut list = vec![
            0,
            0x8000,
            1,
            0x8001,
            ones,
            ones | 0x8000,
            ones + 1,
            ones - 1,
            1 << fraction,
            (1 << fraction) - 1,
            0x3c00,
            0x3f80,
        ];
        list.extend((0..10).map(|_| random.bits() & 0xffff));
        let value = |bits| small_value(bits, least, fraction) as f32;
        let narrow = |exact: Fixed, zero: f32| {
            let value = exact.round(precision, least, most, Round::Nearest).unwrap();
            small_bits(
                if value == 0.0 {
                    0f64.copysign(if exact == Fixed::ZERO { zero.into() } else { exact.to_f32(Round::Down).into() })
                } else {
                    value
                },
                least,
                fraction,
            )
        };
        let fused = |a: f32, b: f32, c: f32| {
            if !a.is_finite() || !b.is_finite() || !c.is_finite() {
                return small_bits(f64::from(a) * f64::from(b) + f64::from(c), least, fraction);
            }
            narrow(Fixed::product(a, b).plus(Fixed::of_f32(c)), a * b + c)
        };
        let rows = product(&[&list, &list, &list]);
        for (row, got) in rows.iter().zip(run(&format!("fma.rn.{ty}"), B16, &[B16; 3], &rows)) {
            let want = fused(value(row[0]), value(row[1]), value(row[2]));
            assert_eq!(got, want, "fma.rn.{ty} of {row:x?}");
        }
        let rows = product(&[&list, &list]);
        for (name, one) in [("add", 1.0f32), ("sub", -1.0)] {
            for (row, got) in rows.iter().zip(run(&format!("{name}.rn.{ty}"), B16, &[B16; 2], &rows)) {
                assert_eq!(got, fused(value(row[1]), one, value(row[0])), "{name}.rn.{ty} of {row:x?}");
            }
        }
        // Pairs do the same to both halves.
        let pairs: Vec<Vec<u64>> = rows
            .windows(2)
            .map(|two| vec![two[0][0] | two[1][0] << 16, two[0][1] | two[1][1] << 16, 0x8000_8000])
            .collect();
        for (row, got) in pairs.iter().zip(run(&format!("fma.rn.{ty}x2"), B32, &[B32; 3], &pairs)) {
            let half = |shift: u32| {
                let [a, b, c] = [row[0], row[1], row[2]].map(|word| value(word >> shift & 0xffff));
                fused(a, b, c)
            };
            assert_eq!(got, half(0) | half(16) << 16, "fma.rn.{ty}x2 of {row:x?}");
        }
    }
}
