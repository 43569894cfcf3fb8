//! The 16 values of each kind, the thresholds between them, and the map of 256 for nested scales.

/// The values of nf4, ascending: quantiles of the normal distribution.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The values of fp4 by their bits: bit 3 is the sign, two of exponent, one of significand, the largest scaled to 1.
const FP4: [f32; 16] = [
    0.0,
    0.0625 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    0.5,
    2.0 / 12.0,
    0.25,
    0.0,
    -0.0625 / 12.0,
    -8.0 / 12.0,
    -1.0,
    -4.0 / 12.0,
    -0.5,
    -2.0 / 12.0,
    -0.25,
];

/// The codes of each kind by ascending value. Of the two zeros of fp4 PyTorch's sort puts +0 first.
const NF4_ORDER: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const FP4_ORDER: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];

/// What the codes of 4-bit weights stand for, named as bitsandbytes' `quant_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 16 quantiles of the normal distribution.
    Nf4,
    /// Floating point: a sign, two bits of exponent, one of significand.
    Fp4,
}

impl Kind {
    /// The kind of that `quant_type`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Nf4, Self::Fp4].into_iter().find(|kind| kind.name() == name)
    }

    /// Its `quant_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }

    /// What each code stands for, bitsandbytes' `quant_map`.
    pub fn table(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }

    /// The codes by ascending value.
    pub(super) fn order(self) -> &'static [u8; 16] {
        match self {
            Self::Nf4 => &NF4_ORDER,
            Self::Fp4 => &FP4_ORDER,
        }
    }

    /// The middles between neighbouring values, ascending.
    pub(super) fn thresholds(self) -> [f32; 15] {
        let value = |i: usize| self.table()[usize::from(self.order()[i])];
        std::array::from_fn(|i| (value(i) + value(i + 1)) / 2.0)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The signed dynamic map of 256 ascending values, bit for bit bitsandbytes' `create_dynamic_map()`: seven decades from
/// 1e-6 to 1, each with twice the values of the last, zero, and one.
pub fn dynamic_map() -> [f32; 256] {
    const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    let decades = DECADES.into_iter().enumerate();
    let positive = decades.flat_map(|(i, decade)| (0..1 << i).map(move |k| decade * middle(k, 1 << i)));
    let mut map = [0.0; 256];
    map[255] = 1.0;
    for (i, value) in positive.enumerate() {
        (map[128 + i], map[126 - i]) = (value, -value);
    }
    map
}

/// The middle of the part `k` of `[0.1, 1]` cut into `parts`.
fn middle(k: usize, parts: usize) -> f32 {
    (linspace(k, parts) + linspace(k + 1, parts)) / 2.0
}

/// The `k`-th of `parts + 1` points from 0.1 to 1 as torch.linspace has it: counted from the nearer end, rounded once.
fn linspace(k: usize, parts: usize) -> f32 {
    let step = f64::from((1.0 - 0.1f32) / parts as f32);
    if k < parts.div_ceil(2) {
        (f64::from(0.1f32) + step * k as f64) as f32
    } else {
        (1.0 - step * (parts - k) as f64) as f32
    }
}
