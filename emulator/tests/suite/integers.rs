//! Integer instructions beyond the plain ones, selections, and values packed into one register.

use crate::opcodes::Reg::{B16, B32, B64, Pred};
use crate::opcodes::{check, integers, masked, product, reg, run, run_text, signed, value};

#[test]
fn high_products_with_an_addend() {
    for (ty, bits, sign) in [("u32", 32, false), ("s32", 32, true)] {
        let list = integers(bits);
        let rows = product(&[&list, &list, &list[..8]]);
        check(&format!("mad.hi.{ty}"), B32, &[B32; 3], &rows, |row| {
            masked(((value(row[0], bits, sign) * value(row[1], bits, sign)) >> 32) + i128::from(row[2]), 32)
        });
    }
    let list = integers(32);
    let rows = product(&[&list, &list, &list[..8]]);
    check("mad.hi.sat.s32", B32, &[B32; 3], &rows, |row| {
        let sum = ((signed(row[0], 32) * signed(row[1], 32)) >> 32) + signed(row[2], 32);
        masked(sum.clamp(i32::MIN.into(), i32::MAX.into()), 32)
    });
    let list = integers(64);
    let rows = product(&[&list, &list, &list[..8]]);
    for ty in ["u64", "s64"] {
        let high =
            run(&format!("mul.hi.{ty}"), B64, &[B64; 2], &rows.iter().map(|row| row[..2].to_vec()).collect::<Vec<_>>());
        let got = run(&format!("mad.hi.{ty}"), B64, &[B64; 3], &rows);
        for ((row, high), got) in rows.iter().zip(high).zip(got) {
            assert_eq!(got, high.wrapping_add(row[2]), "mad.hi.{ty} of {row:x?}");
        }
    }
}

#[test]
fn products_of_24_bits() {
    let list = [0, 1, 0x7f_ffff, 0x80_0000, 0xff_ffff, 0x0100_0000, 0xffff_ffff, 0x8000_0001, 0x12_3456];
    let rows = product(&[&list, &list, &[0, 1, 0xffff_ffff, 0x8000_0000]]);
    for (ty, sign) in [("u32", false), ("s32", true)] {
        let part = |word: u64| value(word & 0xff_ffff, 24, sign);
        for (half, shift) in [("lo", 0), ("hi", 16)] {
            check(&format!("mul24.{half}.{ty}"), B32, &[B32; 2], &product(&[&list, &list]), |row| {
                masked((part(row[0]) * part(row[1])) >> shift, 32)
            });
            check(&format!("mad24.{half}.{ty}"), B32, &[B32; 3], &rows, |row| {
                masked(((part(row[0]) * part(row[1])) >> shift) + i128::from(row[2]), 32)
            });
        }
    }
}

#[test]
fn carries_of_64_bits() {
    let list = &integers(64)[..14];
    let rows = product(&[list, list, list, list]);
    type Case = (&'static str, &'static str, fn(u128, u128) -> u128);
    let cases: [Case; 2] = [("add.cc", "addc", u128::wrapping_add), ("sub.cc", "subc", u128::wrapping_sub)];
    for (low, high, f) in cases {
        let text = format!(".reg .b64 %l; {low}.u64 %l, %a, %c; {high}.u64 %o, %b, %d;");
        for (row, got) in rows.iter().zip(run_text(&text, B64, &[B64; 4], &rows)) {
            let wide = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
            assert_eq!(got, (f(wide(row[0], row[1]), wide(row[2], row[3])) >> 64) as u64, "{low} of {row:x?}");
        }
    }
    // The carry goes through: addc.cc and mad.hi.cc take part in a chain of three.
    let text =
        ".reg .b32 %x, %y, %z; add.cc.u32 %x, %a, %b; addc.cc.u32 %y, %a, %b; addc.u32 %z, 0, 0; mov.b64 %o, {%y, %z};";
    let short = integers(32);
    let rows = product(&[&short, &short]);
    for (row, got) in rows.iter().zip(run_text(text, B64, &[B32; 2], &rows)) {
        assert_eq!(got, row[0] + row[1] + ((row[0] + row[1]) >> 32), "{row:x?}");
    }
    let text = ".reg .b32 %x, %y; mad.lo.cc.u32 %x, %a, %b, %c; madc.hi.cc.u32 %y, %a, %b, %d; addc.u32 %x, 0, 0; mov.b64 %o, {%y, %x};";
    let rows = product(&[&short[..12], &short[..12], &short[..6], &short[..6]]);
    for (row, got) in rows.iter().zip(run_text(text, B64, &[B32; 4], &rows)) {
        let product = u128::from(row[0]) * u128::from(row[1]);
        let low = (product & 0xffff_ffff) + u128::from(row[2]);
        assert_eq!(u128::from(got), (product >> 32) + u128::from(row[3]) + (low >> 32), "{row:x?}");
    }
}

#[test]
fn selections() {
    for bits in [16, 32, 64] {
        let list = &integers(bits)[8..14];
        let rows = product(&[list, list, &[0, 1]]);
        check(&format!("selp.b{bits}"), reg(bits), &[reg(bits), reg(bits), Pred], &rows, |row| {
            row[usize::from(row[2] == 0)]
        });
        let rows = product(&[list, list, &integers(32)]);
        check(&format!("slct.u{bits}.s32"), reg(bits), &[reg(bits), reg(bits), B32], &rows, |row| {
            row[usize::from(signed(row[2], 32) < 0)]
        });
        let floats =
            [0u32, 0x8000_0000, 1, 0x8000_0001, 0x3f80_0000, 0xbf80_0000, 0x7fc0_0000, 0xff80_0000].map(u64::from);
        let rows = product(&[list, list, &floats]);
        check(&format!("slct.b{bits}.f32"), reg(bits), &[reg(bits), reg(bits), B32], &rows, |row| {
            let c = f32::from_bits(row[2] as u32);
            row[usize::from(c < 0.0 || c.is_nan())]
        });
    }
    // Flushed, the least negative subnormal is -0, which counts as not negative.
    let got = run("slct.ftz.b32.f32", B32, &[B32; 3], &[vec![1, 2, 0x8000_0001]]);
    assert_eq!(got, [1]);
}

#[test]
fn comparisons_give_values() {
    let rows = product(&[&integers(32), &integers(32)]);
    check("set.lt.u32.s32", B32, &[B32; 2], &rows, |row| {
        if signed(row[0], 32) < signed(row[1], 32) { 0xffff_ffff } else { 0 }
    });
    check("set.ge.f32.u32", B32, &[B32; 2], &rows, |row| if row[0] >= row[1] { 0x3f80_0000 } else { 0 });
    type Case = (&'static str, fn(&u64, &u64) -> bool);
    let cases: [Case; 4] = [("lo", u64::lt), ("ls", u64::le), ("hi", u64::gt), ("hs", u64::ge)];
    for (name, f) in cases {
        let text = format!("setp.{name}.u32 %p, %a, %b; selp.b32 %o, 1, 0, %p;");
        for (row, got) in rows.iter().zip(run_text(&text, B32, &[B32; 2], &rows)) {
            assert_eq!(got, u64::from(f(&row[0], &row[1])), "{text} of {row:x?}");
        }
    }
}

#[test]
fn logic_on_predicates() {
    let rows = product(&[&[0, 1], &[0, 1]]);
    type Case = (&'static str, fn(u64, u64) -> u64);
    let cases: [Case; 5] = [
        ("and.pred %p, %a, %b;", |a, b| a & b),
        ("or.pred %p, %a, %b;", |a, b| a | b),
        ("xor.pred %p, %a, %b;", |a, b| a ^ b),
        ("not.pred %p, %a;", |a, _| 1 - a),
        ("mov.pred %p, %b;", |_, b| b),
    ];
    for (text, f) in cases {
        let got = run_text(&format!("{text} selp.b32 %o, 1, 0, %p;"), B32, &[Pred; 2], &rows);
        assert_eq!(got, rows.iter().map(|row| f(row[0], row[1])).collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn values_are_packed_and_unpacked() {
    let rows = product(&[&integers(16), &integers(16)]);
    for (row, got) in rows.iter().zip(run_text("mov.b32 %o, {%a, %b};", B32, &[B16; 2], &rows)) {
        assert_eq!(got, row[0] | row[1] << 16);
    }
    let rows = product(&[&integers(64)]);
    let text = ".reg .b16 %w<4>; mov.b64 {%w0, %w1, %w2, %w3}, %a; mov.b64 %o, {%w3, %w2, %w1, %w0};";
    for (row, got) in rows.iter().zip(run_text(text, B64, &[B64], &rows)) {
        assert_eq!(got, (0..4).fold(0, |value, at| value << 16 | row[0] >> (16 * at) & 0xffff), "{row:x?}");
    }
    let text = ".reg .b32 %l, %h; mov.b64 {%l, %h}, %a; mov.b64 %o, {%h, %l};";
    for (row, got) in rows.iter().zip(run_text(text, B64, &[B64], &rows)) {
        assert_eq!(got, row[0].rotate_left(32));
    }
    let text = ".reg .b16 %h; mov.b32 {_, %h}, %a; mov.b32 %o, {0, %h};";
    let rows = product(&[&integers(32)]);
    for (row, got) in rows.iter().zip(run_text(text, B32, &[B32], &rows)) {
        assert_eq!(got, row[0] & 0xffff_0000);
    }
}
