//! The norm of gradients: what clips them and what tells that one is not finite. Not on the tape.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use crate::autograd::Tensor;
use crate::device::Device;
use crate::error::{Error, Result};

const OP: &str = "grad_norm";

/// The Euclidean norms of some gradients, where the gradients are: a GPU is not waited for before they are read.
#[derive(Clone, Debug)]
pub struct GradNorm(Squares);

/// The sum of the squares of each gradient: in f64 on the CPU, as `cuda/grad_norm.cu` has it on a GPU.
#[derive(Clone, Debug)]
enum Squares {
    Cpu(Vec<f64>),
    Cuda(Tensor),
}

/// The sums of the squares of the pieces of gradients, in their order, as bits: what ranks that hold a part of each tell each
/// other. On the CPU each is an f64, on a GPU two f32, as `cuda/grad_norm.cu` has them. A multiple of a piece, whatever the
/// device, has 16,384 elements.
pub type Pieces = Vec<Vec<u64>>;

/// The norms of some gradients, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Norms {
    /// Over all elements of all gradients.
    pub total: f64,
    /// The norm of each gradient.
    pub each: Vec<f64>,
}

impl GradNorm {
    /// What the gradients are to be multiplied by so that their norm is at most `max_norm`, as PyTorch's
    /// `clip_grad_norm_` does: `max_norm / (total + 1e-6)`, at most 1; NaN if the norm is not finite. An f32 scalar on
    /// the device of the gradients.
    ///
    /// # Errors
    /// [`Error::Device`] if the device refuses.
    pub fn clip_scale(&self, max_norm: f64) -> Result<Tensor> {
        match &self.0 {
            Squares::Cpu(squares) => cpu::clip_scale(squares, max_norm),
            Squares::Cuda(squares) => cuda::clip_scale(squares, max_norm),
        }
    }

    /// The norms, once they are known.
    ///
    /// # Errors
    /// [`Error::Device`] if the device refuses.
    pub fn read(&self) -> Result<Norms> {
        let squares = match &self.0 {
            Squares::Cpu(squares) => squares.clone(),
            Squares::Cuda(squares) => cuda::read(squares)?,
        };
        Ok(Norms { total: squares.iter().sum::<f64>().sqrt(), each: squares.into_iter().map(f64::sqrt).collect() })
    }
}

impl Norms {
    /// The first gradient with an element that is infinite or not a number.
    pub fn first_not_finite(&self) -> Option<usize> {
        self.each.iter().position(|norm| !norm.is_finite())
    }
}

/// The norms of `gradients`.
///
/// - Dtypes: f32, bf16; a norm is finite just where all elements are. Squares and sums are in f64 on the CPU, in f32 on
///   a GPU, where elements below 2⁻⁷⁵ in size count as 0
/// - Source: Pascanu et al. 2013, <https://arxiv.org/abs/1211.5063>
///
/// # Errors
/// [`Error::DType`] if a gradient is not a float tensor; [`Error::Device`] if
/// they are not all on one device.
pub fn grad_norm(gradients: &[&Tensor]) -> Result<GradNorm> {
    let device = gradients.first().map_or(Device::Cpu, |gradient| gradient.device());
    for gradient in gradients {
        check::float(OP, gradient.dtype())?;
        check::on_device(OP, "every gradient", gradient, &device)?;
    }
    Ok(GradNorm(match device {
        Device::Cpu => Squares::Cpu(cpu::squares(gradients)?),
        Device::Cuda(_) => Squares::Cuda(cuda::squares(gradients, &device)?),
    }))
}

/// The sums of squares of the pieces of `gradients`, none of one that is not here. Waits for a GPU.
///
/// # Errors
/// As [`grad_norm`].
pub fn pieces(gradients: &[Option<&Tensor>], device: &Device) -> Result<Pieces> {
    let here: Vec<&Tensor> = gradients.iter().copied().flatten().collect();
    for gradient in &here {
        check::float(OP, gradient.dtype())?;
        check::on_device(OP, "every gradient", gradient, device)?;
    }
    let mut found = match device {
        Device::Cpu => {
            cpu::pieces(&here)?.into_iter().map(|sums| sums.into_iter().map(f64::to_bits).collect()).collect()
        }
        Device::Cuda(_) => cuda::pieces(&here, device)?,
    }
    .into_iter();
    Ok(gradients.iter().map(|gradient| gradient.and_then(|_| found.next()).unwrap_or_default()).collect())
}

/// The norms of gradients that are cut, of the pieces of `parts`: each has a run of every gradient, which have `numels`
/// elements in all. The same bits as [`grad_norm`] of the whole.
///
/// # Errors
/// [`Error::Shape`] if the pieces are not those of such gradients.
pub fn of_pieces(parts: &[Pieces], numels: &[usize], device: &Device) -> Result<GradNorm> {
    let mut runs = vec![Vec::new(); numels.len()];
    for part in parts {
        if part.len() != numels.len() {
            return Err(Error::shape(OP, format!("{} gradients, not {}", part.len(), numels.len())));
        }
        runs.iter_mut().zip(part).for_each(|(run, more)| run.extend(more));
    }
    Ok(GradNorm(match device {
        Device::Cpu => {
            Squares::Cpu(runs.iter().map(|sums| sums.iter().map(|&bits| f64::from_bits(bits)).sum()).collect())
        }
        Device::Cuda(_) => Squares::Cuda(cuda::sum_pieces(&runs.concat(), numels, device)?),
    }))
}
