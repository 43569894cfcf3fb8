//! Rotary position embedding.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use crate::autograd::{Tensor, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "rope";

/// How frequencies are changed to reach beyond the positions a model was first trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// All frequencies divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// The context the model was first trained on.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// What in it cannot be, in words that name the field; `None` if all fits.
    pub fn contradiction(&self) -> Option<String> {
        let (Self::Linear { factor } | Self::Llama3 { factor, .. }) = *self;
        if !(factor >= 1.0 && factor.is_finite()) {
            return Some(format!("the factor of the rope scaling must be at least 1, got {factor}"));
        }
        match *self {
            Self::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } if !(low > 0.0 && high > low) => {
                Some(format!("high_freq_factor {high} must be above low_freq_factor {low}, and both above 0"))
            }
            Self::Llama3 { original_max_position_embeddings: 0, .. } => {
                Some("original_max_position_embeddings must be positive, got 0".into())
            }
            _ => None,
        }
    }

    /// The frequency that takes the place of `frequency`.
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let turns = original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
                let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let smooth = smooth.clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// The cosines and sines of every angle, computed in f64 and shared by all layers.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[positions, D]` f32: the cosines of a position's D/2 angles, then their sines.
    cos_sin: Tensor,
}

impl RopeTable {
    /// The table for heads of `head_dim` at the positions below `positions`, with frequencies `theta^(-2i/D)`, scaled.
    ///
    /// # Errors
    /// [`Error::Input`] if `head_dim` is odd or 0, or `theta` or `scaling` is out of its range.
    pub fn new(
        device: &Device,
        head_dim: usize,
        positions: usize,
        theta: f64,
        scaling: Option<RopeScaling>,
    ) -> Result<Self> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(Error::input(OP, format!("head_dim must be even, got {head_dim}")));
        }
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(Error::input(OP, format!("theta must be positive, got {theta}")));
        }
        if let Some(detail) = scaling.and_then(|scaling| scaling.contradiction()) {
            return Err(Error::input(OP, detail));
        }
        let frequency = |i| theta.powf(-((2 * i) as f64) / head_dim as f64);
        let frequencies: Vec<f64> =
            (0..head_dim / 2).map(|i| scaling.map_or(frequency(i), |scaling| scaling.apply(frequency(i)))).collect();
        Ok(Self { cos_sin: cpu::table(positions, &frequencies)?.to_device(device)? })
    }

    /// The number of positions it holds.
    pub fn positions(&self) -> usize {
        self.cos_sin.shape().rows()
    }

    /// D, the width of a head.
    pub fn head_dim(&self) -> usize {
        self.cos_sin.shape().last()
    }
}

/// Turns each pair `(x[i], x[i + D/2])` of every head of `q` and `k` by its position's angle `i`.
///
/// - Shapes: `q` `[rows, NH * D]`, `k` `[rows, NKV * D]`, `positions` `[rows]` → `q`, `k`; in place where not shared
/// - Dtypes: `q`, `k` f32 or bf16, both alike; `positions` u32; cosines and sines in f32
/// - Gradients: `q`, `k`, turned back in place; saves `positions` and the table
/// - Source: Su et al. 2021, <https://arxiv.org/abs/2104.09864>, with the pairs of Hugging Face's `rotate_half`
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit; [`Error::DType`] if the dtypes do not; [`Error::Input`] if a position is
/// beyond the table.
pub fn rope(mut q: Tensor, mut k: Tensor, table: &RopeTable, positions: &Tensor) -> Result<(Tensor, Tensor)> {
    refuse_misfits(&q, &k, table, positions)?;
    on_device!(q, rotate(&mut [&mut q, &mut k], table, positions, 1.0))?;
    let (table, positions) = (table.clone(), positions.detach());
    let rotated = [q.detach(), k.detach()];
    let [q, k] = record([&q, &k], rotated, move |mut dys| {
        let mut present: Vec<&mut Tensor> = dys.iter_mut().flatten().collect();
        on_device!(positions, rotate(&mut present, &table, &positions, -1.0))?;
        Ok(dys)
    });
    Ok((q, k))
}

fn refuse_misfits(q: &Tensor, k: &Tensor, table: &RopeTable, positions: &Tensor) -> Result<()> {
    check::dtype(OP, "positions", positions, DType::U32)?;
    check::shape(OP, "positions", positions, [q.shape().rows()])?;
    check::same_device(OP, "positions", positions, q)?;
    check::same_device(OP, "the table", &table.cos_sin, q)?;
    check::alike(OP, "k", k, q)?;
    let (rows, d) = (q.shape().rows(), table.head_dim());
    for (name, x) in [("q", q), ("k", k)] {
        if x.shape().rows() != rows || !x.shape().last().is_multiple_of(d) {
            let detail = format!("{name} must be [{rows}, a multiple of {d}], got {}", x.shape());
            return Err(Error::shape(OP, detail));
        }
    }
    check::float(OP, q.dtype())?;
    let end = table.positions();
    match check::first_beyond(positions, end)? {
        Some((row, position)) => {
            Err(Error::input(OP, format!("position {position} of row {row} is beyond the table of {end}")))
        }
        None => Ok(()),
    }
}
