//! Tables over types: an expression compiled for each type that an instruction takes.

/// `T` is the unsigned integer of `ty`'s size.
macro_rules! by_size {
    ($ty:expr, $T:ident => $alu:expr) => {
        match $ty.bits() {
            16 => by_size!(@ $T = u16, $alu),
            32 => by_size!(@ $T = u32, $alu),
            64 => by_size!(@ $T = u64, $alu),
            _ => return None,
        }
    };
    (@ $T:ident = $concrete:ty, $alu:expr) => {{
        type $T = $concrete;
        $alu
    }};
}

/// `T` is the integer of `ty`'s size and sign.
macro_rules! by_sign {
    ($ty:expr, $T:ident => $alu:expr) => {
        match $ty {
            Type::U16 => by_size!(@ $T = u16, $alu),
            Type::S16 => by_size!(@ $T = i16, $alu),
            Type::U32 => by_size!(@ $T = u32, $alu),
            Type::S32 => by_size!(@ $T = i32, $alu),
            Type::U64 => by_size!(@ $T = u64, $alu),
            Type::S64 => by_size!(@ $T = i64, $alu),
            _ => return None,
        }
    };
}

/// Constants `A` and `B` are what the two flags are.
macro_rules! by_flags {
    ($a:expr, $b:expr, $A:ident, $B:ident => $alu:expr) => {
        match ($a, $b) {
            (false, false) => by_flags!(@ $A = false, $B = false, $alu),
            (false, true) => by_flags!(@ $A = false, $B = true, $alu),
            (true, false) => by_flags!(@ $A = true, $B = false, $alu),
            (true, true) => by_flags!(@ $A = true, $B = true, $alu),
        }
    };
    (@ $A:ident = $a:literal, $B:ident = $b:literal, $alu:expr) => {{
        const $A: bool = $a;
        const $B: bool = $b;
        $alu
    }};
}

/// Constant `M` is the direction of rounding.
macro_rules! by_mode {
    ($mode:expr, $M:ident => $alu:expr) => {
        match $mode {
            Mode::Nearest => by_mode!(@ $M = Mode::Nearest, $alu),
            Mode::NearestAway => by_mode!(@ $M = Mode::NearestAway, $alu),
            Mode::Zero => by_mode!(@ $M = Mode::Zero, $alu),
            Mode::Down => by_mode!(@ $M = Mode::Down, $alu),
            Mode::Up => by_mode!(@ $M = Mode::Up, $alu),
        }
    };
    (@ $M:ident = $mode:expr, $alu:expr) => {{
        const $M: Mode = $mode;
        $alu
    }};
}

pub(super) use {by_flags, by_mode, by_sign, by_size};
