//! The executable specification: every op as plain loops, forward and backward. Obvious and slow; imports nothing of ours.
//!
//! Each function is generic over [`Real`], which gives a test all it needs from one text: over f64 the right answer,
//! over f32 the rounding error of the same formula evaluated left to right, over [`Terms`] the sum of |terms| that bounds
//! the error of any other order.

use std::fmt::Debug;
use std::ops::{Add, Div, Mul, Neg, Sub};

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod grad_norm;
pub mod int8_matmul;
pub mod lora;
pub mod matmul;
pub mod nf4;
pub mod rmsnorm;
pub mod rope;
pub mod swiglu;
pub mod tolerance;

/// A number that a specification can be evaluated with.
pub trait Real:
    Copy
    + Debug
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// The nearest value.
    fn from_f64(value: f64) -> Self;
    /// The value, exactly.
    fn to_f64(self) -> f64;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The exponential function.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// Zero.
    fn zero() -> Self {
        Self::from_f64(0.0)
    }
    /// One.
    fn one() -> Self {
        Self::from_f64(1.0)
    }
}

macro_rules! real {
    ($t:ty) => {
        impl Real for $t {
            fn from_f64(value: f64) -> Self {
                value as $t
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln(self) -> Self {
                self.ln()
            }
        }
    };
}
real!(f64);
real!(f32);

/// An exact value together with the sum of the absolute values of the terms that made it.
///
/// Where terms cancel, the rounding error of any evaluation is proportional to that sum, not to the value.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The value.
    pub value: f64,
    /// The sum of |terms|, at least |value|.
    pub sum: f64,
}

impl PartialEq for Terms {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialOrd for Terms {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl Add for Terms {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { value: self.value + other.value, sum: self.sum + other.sum }
    }
}

impl Sub for Terms {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { value: self.value - other.value, sum: self.sum + other.sum }
    }
}

impl Mul for Terms {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        Self { value: self.value * other.value, sum: self.sum * other.sum }
    }
}

impl Div for Terms {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        Self { value: self.value / other.value, sum: self.sum * other.sum / (other.value * other.value) }
    }
}

impl Neg for Terms {
    type Output = Self;
    fn neg(self) -> Self {
        Self { value: -self.value, sum: self.sum }
    }
}

impl Real for Terms {
    fn from_f64(value: f64) -> Self {
        Self { value, sum: value.abs() }
    }
    fn to_f64(self) -> f64 {
        self.value
    }
    fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        Self { value, sum: if value == 0.0 { self.sum.sqrt() } else { self.sum / value } }
    }
    fn exp(self) -> Self {
        let value = self.value.exp();
        Self { value, sum: value * self.sum.max(1.0) }
    }
    fn ln(self) -> Self {
        let value = self.value.ln();
        Self { value, sum: value.abs().max(self.sum / self.value.abs()) }
    }
}
