//! Integers and bits.

/// Division; by zero gives all ones, as the hardware does, and the most negative number by -1 wraps.
macro_rules! divide {
    ($($div:ident $rem:ident $ty:ty,)+) => {$(
        #[inline(always)]
        pub fn $div(a: $ty, b: $ty) -> $ty {
            if b == 0 { !0 } else { a.wrapping_div(b) }
        }
        #[inline(always)]
        pub fn $rem(a: $ty, b: $ty) -> $ty {
            if b == 0 { a } else { a.wrapping_rem(b) }
        }
    )+};
}

divide! {
    div_u16 rem_u16 u16, div_s16 rem_s16 i16, div_u32 rem_u32 u32,
    div_s32 rem_s32 i32, div_u64 rem_u64 u64, div_s64 rem_s64 i64,
}

#[inline(always)]
pub fn mul_hi_u64(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

#[inline(always)]
pub fn mul_hi_s64(a: i64, b: i64) -> i64 {
    ((i128::from(a) * i128::from(b)) >> 64) as i64
}

/// Low 24 bits, sign-extended.
#[inline(always)]
pub fn s24(a: i32) -> i64 {
    i64::from(a << 8 >> 8)
}

/// Low 24 bits.
#[inline(always)]
pub fn u24(a: u32) -> u64 {
    u64::from(a & 0xff_ffff)
}

/// Shifts past the width give zero, or the sign.
macro_rules! shifts {
    ($($shl:ident $shr:ident $sar:ident $unsigned:ty, $signed:ty,)+) => {$(
        #[inline(always)]
        pub fn $shl(a: $unsigned, b: u32) -> $unsigned {
            if b < <$unsigned>::BITS { a << b } else { 0 }
        }
        #[inline(always)]
        pub fn $shr(a: $unsigned, b: u32) -> $unsigned {
            if b < <$unsigned>::BITS { a >> b } else { 0 }
        }
        #[inline(always)]
        pub fn $sar(a: $signed, b: u32) -> $signed {
            a >> b.min(<$signed>::BITS - 1)
        }
    )+};
}

shifts! {
    shl_b16 shr_u16 shr_s16 u16, i16,
    shl_b32 shr_u32 shr_s32 u32, i32,
    shl_b64 shr_u64 shr_s64 u64, i64,
}

#[inline(always)]
fn joined(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[inline(always)]
pub fn shf_l_wrap(low: u32, high: u32, by: u32) -> u32 {
    ((joined(low, high) << (by & 31)) >> 32) as u32
}

#[inline(always)]
pub fn shf_l_clamp(low: u32, high: u32, by: u32) -> u32 {
    ((joined(low, high) << by.min(32)) >> 32) as u32
}

#[inline(always)]
pub fn shf_r_wrap(low: u32, high: u32, by: u32) -> u32 {
    (joined(low, high) >> (by & 31)) as u32
}

#[inline(always)]
pub fn shf_r_clamp(low: u32, high: u32, by: u32) -> u32 {
    (joined(low, high) >> by.min(32)) as u32
}

/// Position of the highest bit that is not a sign bit; all ones where there is none.
#[inline(always)]
pub fn bfind_u32(a: u32) -> u32 {
    if a == 0 { !0 } else { 31 - a.leading_zeros() }
}

#[inline(always)]
pub fn bfind_s32(a: i32) -> u32 {
    bfind_u32((a ^ (a >> 31)) as u32)
}

#[inline(always)]
pub fn bfind_u64(a: u64) -> u32 {
    if a == 0 { !0 } else { 63 - a.leading_zeros() }
}

#[inline(always)]
pub fn bfind_s64(a: i64) -> u32 {
    bfind_u64((a ^ (a >> 63)) as u64)
}

/// How far left the found bit must move to reach the top.
#[inline(always)]
pub fn shift_amount<const BITS: u32>(found: u32) -> u32 {
    if found == !0 { !0 } else { BITS - 1 - found }
}

/// Bit field extract: `len` bits from `pos`; a signed field is filled with its highest bit that exists.
macro_rules! bit_field {
    ($($extract:ident $insert:ident $ty:ty, $signed:ident $signed_ty:ty,)+) => {$(
        #[inline(always)]
        pub fn $extract(a: $ty, pos: u32, len: u32) -> $ty {
            let (pos, len) = (pos & 0xff, len & 0xff);
            let field = if pos < <$ty>::BITS { a >> pos } else { 0 };
            if len >= <$ty>::BITS { field } else { field & ((1 << len) - 1) }
        }

        #[inline(always)]
        pub fn $signed(a: $signed_ty, pos: u32, len: u32) -> $signed_ty {
            let (pos, len) = (pos & 0xff, len & 0xff);
            if len == 0 {
                return 0;
            }
            let top = (pos + len - 1).min(<$ty>::BITS - 1);
            let sign = a >> top & 1;
            let field = $extract(a as $ty, pos, len) as $signed_ty;
            let kept = if pos < <$ty>::BITS { len.min(<$ty>::BITS - pos) } else { 0 };
            if sign != 0 && kept < <$ty>::BITS { field | (-1 << kept) } else { field }
        }

        /// Bit field insert: the low `len` bits of `a` into `b` at `pos`.
        #[inline(always)]
        pub fn $insert(a: $ty, b: $ty, pos: u32, len: u32) -> $ty {
            let (pos, len) = (pos & 0xff, len & 0xff);
            if pos >= <$ty>::BITS || len == 0 {
                return b;
            }
            let ones = if len >= <$ty>::BITS { !0 } else { (1 << len) - 1 };
            b & !(ones << pos) | (a & ones) << pos
        }
    )+};
}

bit_field! {
    bfe_u32 bfi_b32 u32, bfe_s32 i32,
    bfe_u64 bfi_b64 u64, bfe_s64 i64,
}

/// Any function of three bits, given as its truth table.
#[inline(always)]
pub fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut out = 0;
    for at in 0..8 {
        let chosen = 0u32.wrapping_sub(table >> at & 1);
        let pick = |value: u32, bit: u32| if at & bit != 0 { value } else { !value };
        out |= chosen & pick(a, 4) & pick(b, 2) & pick(c, 1);
    }
    out
}

/// Byte permute: each nibble of `selector` names a byte of b:a, its top bit replicates that byte's sign.
#[inline(always)]
pub fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let source = joined(a, b);
    let mut out = 0;
    for byte in 0..4 {
        let nibble = selector >> (4 * byte) & 15;
        let value = (source >> (8 * (nibble & 7))) as u32 & 0xff;
        let sign = if value & 0x80 != 0 { 0xff } else { 0 };
        out |= (if nibble & 8 != 0 { sign } else { value }) << (8 * byte);
    }
    out
}

/// The bytes that each special mode of `prmt` picks for each value of the selector's two low bits.
const PRMT_MODES: [(&str, [u32; 4]); 6] = [
    ("f4e", [0x3210, 0x4321, 0x5432, 0x6543]),
    ("b4e", [0x5670, 0x6701, 0x7012, 0x0123]),
    ("rc8", [0x0000, 0x1111, 0x2222, 0x3333]),
    ("ecl", [0x3210, 0x3211, 0x3222, 0x3333]),
    ("ecr", [0x0000, 0x1110, 0x2210, 0x3210]),
    ("rc16", [0x1010, 0x3232, 0x1010, 0x3232]),
];

/// `prmt` in special mode number `MODE` of [`prmt_mode`].
#[inline(always)]
pub fn prmt_special<const MODE: usize>(a: u32, b: u32, selector: u32) -> u32 {
    prmt(a, b, PRMT_MODES[MODE].1[(selector & 3) as usize])
}

/// The number of a special mode of `prmt`.
pub fn prmt_mode(name: &str) -> Option<usize> {
    PRMT_MODES.iter().position(|(known, _)| *known == name)
}

/// Dot product of four bytes and an addend; `A` and `B` tell whether each side is signed.
#[inline(always)]
pub fn dp4a<const A: bool, const B: bool>(a: u32, b: u32, c: u32) -> u32 {
    let byte = |word: u32, at: u32, signed: bool| {
        let byte = (word >> (8 * at)) as u8;
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..4).fold(c, |sum, at| sum.wrapping_add(byte(a, at, A).wrapping_mul(byte(b, at, B)) as u32))
}

/// Dot product of two halves of `a` with two bytes of `b`, the high ones where `HIGH`.
#[inline(always)]
pub fn dp2a<const A: bool, const B: bool, const HIGH: bool>(a: u32, b: u32, c: u32) -> u32 {
    let half = |at: u32| {
        let half = (a >> (16 * at)) as u16;
        if A { i32::from(half as i16) } else { i32::from(half) }
    };
    let byte = |at: u32| {
        let byte = (b >> (8 * at + if HIGH { 16 } else { 0 })) as u8;
        if B { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..2).fold(c, |sum, at| sum.wrapping_add(half(at).wrapping_mul(byte(at)) as u32))
}
