//! Rotary position embedding.

mod cpu;
mod cuda;
mod scaling;

pub(crate) use cuda::KERNELS;
pub use scaling::RopeScaling;

use std::ops::Range;

use super::check;
use crate::autograd::{Tensor, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "rope";

/// The cosines and sines of every angle, computed in f64 and shared by all layers.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `[positions, D]` f32: the cosines of a position's D/2 angles, then their sines, scaled as YaRN has it.
    cos_sin: Tensor,
}

impl RopeTable {
    /// The table of a text of `positions` tokens for heads of `head_dim`, with frequencies `theta^(-2i/D)`, scaled.
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
        let text = 0..positions;
        Self::of_texts(device, head_dim, std::slice::from_ref(&text), theta, scaling)
    }

    /// The tables of several texts, one after the other: of each the positions of a range that ends where the text does,
    /// as dynamic scaling's frequencies depend on its length.
    ///
    /// # Errors
    /// As [`RopeTable::new`].
    pub fn of_texts(
        device: &Device,
        head_dim: usize,
        texts: &[Range<usize>],
        theta: f64,
        scaling: Option<RopeScaling>,
    ) -> Result<Self> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(Error::input(OP, format!("head_dim must be even, got {head_dim}")));
        }
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(Error::input(OP, format!("theta must be positive, got {theta}")));
        }
        if let Some(detail) = scaling.and_then(|scaling| scaling.refusal()) {
            return Err(Error::input(OP, detail));
        }
        let frequencies = |length| scaling::frequencies(scaling, head_dim, theta, length);
        let longest = texts.iter().map(|text| text.end).max().unwrap_or(0);
        if !frequencies(longest).iter().all(|frequency| frequency.is_finite()) {
            return Err(Error::input(
                OP,
                format!("theta {theta} with its scaling gives frequencies that are no numbers"),
            ));
        }
        let factor = scaling.map_or(1.0, |scaling| scaling.attention_factor());
        Ok(Self { cos_sin: cpu::table(head_dim, texts, &frequencies, factor)?.to_device(device)? })
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

/// Turns each pair `(x[i], x[i + D/2])` of every head of `q` and `k` by its position's angle `i`, and scales it as `table` has it.
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
