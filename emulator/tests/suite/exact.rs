//! Floating-point results by integer arithmetic alone: an independent judge of rounding.

/// Two's complement fixed point: bit 0 is worth 2 to the -`POINT`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fixed([u64; WORDS]);

const WORDS: usize = 12;
const POINT: i32 = 320;

/// A direction of rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Round {
    Nearest,
    Away,
    Zero,
    Down,
    Up,
}

impl Fixed {
    pub const ZERO: Self = Self([0; WORDS]);

    /// `value` times 2 to the `exponent`.
    pub fn of(value: i128, exponent: i32) -> Self {
        let fill = if value < 0 { u64::MAX } else { 0 };
        let mut words = [fill; WORDS];
        words[0] = value as u64;
        words[1] = (value >> 64) as u64;
        Self(words).shifted(exponent + POINT)
    }

    /// The exact value of a finite f32.
    pub fn of_f32(x: f32) -> Self {
        let (value, exponent) = parts(x);
        Self::of(value.into(), exponent)
    }

    /// The exact product of two finite f32.
    pub fn product(a: f32, b: f32) -> Self {
        let ((a, i), (b, j)) = (parts(a), parts(b));
        Self::of(i128::from(a) * i128::from(b), i + j)
    }

    fn shifted(self, left: i32) -> Self {
        let mut out = [0; WORDS];
        for bit in 0..WORDS as i32 * 64 {
            let from = bit - left;
            if from >= 0 && self.bit(from) {
                out[bit as usize / 64] |= 1 << (bit % 64);
            }
        }
        Self(out)
    }

    fn bit(&self, at: i32) -> bool {
        at >= WORDS as i32 * 64 && self.negative()
            || at < WORDS as i32 * 64 && self.0[at as usize / 64] >> (at % 64) & 1 != 0
    }

    fn negative(&self) -> bool {
        self.0[WORDS - 1] >> 63 != 0
    }

    pub fn plus(self, other: Self) -> Self {
        let (mut out, mut carry) = ([0; WORDS], false);
        for (at, word) in out.iter_mut().enumerate() {
            let (sum, first) = self.0[at].overflowing_add(other.0[at]);
            let (sum, second) = sum.overflowing_add(carry.into());
            (*word, carry) = (sum, first || second);
        }
        Self(out)
    }

    pub fn minus(self, other: Self) -> Self {
        self.plus(Self(other.0.map(|word| !word)).plus(Self::of(1, -POINT)))
    }

    fn magnitude(self) -> Self {
        if self.negative() { Self::ZERO.minus(self) } else { self }
    }

    /// Rounded to a format with so many bits of significand, least normal exponent and greatest exponent: the bits of
    /// the result's magnitude as significand and exponent of the last place, or nothing for what is beyond the format.
    pub fn round(self, precision: i32, least: i32, most: i32, round: Round) -> Option<f64> {
        if self == Self::ZERO {
            return Some(0.0);
        }
        let magnitude = self.magnitude();
        let top = (0..WORDS as i32 * 64).rev().find(|&bit| magnitude.bit(bit)).unwrap();
        let last = (top - precision + 1).max(least - precision + 1 + POINT);
        let mut significand: u64 = (last..=top).rev().fold(0, |value, bit| value << 1 | u64::from(magnitude.bit(bit)));
        let half = last > 0 && magnitude.bit(last - 1);
        let rest = (0..(last - 1).max(0)).any(|bit| magnitude.bit(bit));
        let up = match round {
            Round::Nearest => half && (rest || significand & 1 != 0),
            Round::Away => half,
            Round::Zero => false,
            Round::Down => self.negative() && (half || rest),
            Round::Up => !self.negative() && (half || rest),
        };
        significand += u64::from(up);
        let exponent = last - POINT;
        let value = significand as f64 * 2f64.powi(exponent);
        let beyond = value >= 2f64.powi(most + 1);
        let value = if beyond { overflow(precision, most, round, self.negative()) } else { value };
        Some(if self.negative() { -value } else { value })
    }

    /// Rounded to f32.
    pub fn to_f32(self, round: Round) -> f32 {
        self.round(24, -126, 127, round).unwrap() as f32
    }
}

fn overflow(precision: i32, most: i32, round: Round, negative: bool) -> f64 {
    let largest = (2f64.powi(precision) - 1.0) * 2f64.powi(most - precision + 1);
    match (round, negative) {
        (Round::Zero, _) | (Round::Down, false) | (Round::Up, true) => largest,
        _ => f64::INFINITY,
    }
}

/// A finite f32 as an integer times a power of two.
fn parts(x: f32) -> (i64, i32) {
    let bits = x.to_bits();
    let (fraction, biased) = (i64::from(bits & 0x007f_ffff), (bits >> 23 & 0xff) as i32);
    let (value, exponent) = if biased == 0 { (fraction, -149) } else { (fraction | 0x0080_0000, biased - 150) };
    (if bits >> 31 != 0 { -value } else { value }, exponent)
}
