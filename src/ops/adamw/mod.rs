//! The optimizer's update of many parameters in one call. Not on the tape.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use crate::autograd::Tensor;
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "adamw";

/// The constants of [`adamw`]; by default PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// The step size, at least 0.
    pub learning_rate: f64,
    /// The decay of `m`, in `[0, 1)`.
    pub beta1: f64,
    /// The decay of `v`, in `[0, 1)`.
    pub beta2: f64,
    /// Added to the denominator; at least 0.
    pub eps: f64,
    /// The decay of the parameter, times the learning rate; at least 0.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 }
    }
}

/// One parameter of an [`adamw`] call, with its state. All of one shape and on one device.
#[derive(Debug)]
pub struct AdamWUpdate<'a> {
    /// What errors call the parameter.
    pub name: &'a str,
    /// Updated in place; f32.
    pub parameter: &'a mut Tensor,
    /// The running mean of the gradient, updated in place; f32, zeros at first.
    pub m: &'a mut Tensor,
    /// The running mean of the squared gradient, updated in place; f32, zeros at first.
    pub v: &'a mut Tensor,
    /// f32 or bf16.
    pub gradient: &'a Tensor,
}

/// Adam with decoupled weight decay, in the operations of PyTorch's `AdamW`.
///
/// `m = m + (1 - beta1) * (g - m)`, `v = beta2 * v + (1 - beta2) * g²`,
/// `p = (1 - learning_rate * weight_decay) * p - learning_rate / c1 * m / (sqrt(v) / sqrt(c2) + eps)`,
/// where `g = gradient_scale * gradient`, `c1 = 1 - beta1^step`, `c2 = 1 - beta2^step`.
///
/// - `step` counts from 1; `gradient_scale` is an f32 scalar: 1, or what clips the gradients ([`GradNorm::clip_scale`])
/// - Nothing is changed where anything is refused, nor where `gradient_scale` is not finite: a GPU's step need not wait
///   to learn of a gradient that is not
/// - Source: Loshchilov & Hutter 2019, <https://arxiv.org/abs/1711.05101>
///
/// [`GradNorm::clip_scale`]: super::grad_norm::GradNorm::clip_scale
///
/// # Errors
/// [`Error::Input`] if an option is out of its range or `step` is 0; [`Error::Shape`] if a tensor is not like its
/// parameter; [`Error::DType`] if one has a dtype it cannot have; [`Error::Device`] if not all are on one device.
pub fn adamw(
    updates: &mut [AdamWUpdate<'_>],
    options: &AdamWOptions,
    step: u64,
    gradient_scale: &Tensor,
) -> Result<()> {
    refuse_options(options, step)?;
    check::shape(OP, "gradient_scale", gradient_scale, [])?;
    check::dtype(OP, "gradient_scale", gradient_scale, DType::F32)?;
    updates.iter().try_for_each(refuse_misfits)?;
    updates.iter().try_for_each(|update| check::same_device(OP, update.name, update.parameter, gradient_scale))?;
    let factors = Factors::new(options, step);
    on_device!(gradient_scale, step(updates, gradient_scale, &factors))
}

fn refuse_options(options: &AdamWOptions, step: u64) -> Result<()> {
    let AdamWOptions { learning_rate, beta1, beta2, eps, weight_decay } = *options;
    for (name, value, end) in [
        ("learning_rate", learning_rate, f64::INFINITY),
        ("beta1", beta1, 1.0),
        ("beta2", beta2, 1.0),
        ("eps", eps, f64::INFINITY),
        ("weight_decay", weight_decay, f64::INFINITY),
    ] {
        if !(0.0..end).contains(&value) {
            return Err(Error::input(OP, format!("{name} must be in [0, {end}), got {value}")));
        }
    }
    if step == 0 { Err(Error::input(OP, "step counts from 1, got 0")) } else { Ok(()) }
}

fn refuse_misfits(update: &AdamWUpdate<'_>) -> Result<()> {
    let AdamWUpdate { name, parameter, m, v, gradient } = update;
    check::dtype(OP, name, parameter, DType::F32)?;
    let [m, v]: [&Tensor; 2] = [m, v];
    for (role, tensor) in [("m", m), ("v", v), ("gradient", gradient)] {
        let role = format!("{role} of {name}");
        check::shape(OP, &role, tensor, parameter.shape())?;
        check::same_device(OP, &role, tensor, parameter)?;
    }
    check::dtype(OP, &format!("m of {name}"), m, DType::F32)?;
    check::dtype(OP, &format!("v of {name}"), v, DType::F32)?;
    if gradient.dtype().is_float() {
        return Ok(());
    }
    Err(Error::dtype(OP, format!("gradient of {name} must be f32 or bf16, got {}", gradient.dtype())))
}

/// What the elements are multiplied by, computed in f64 once per step.
struct Factors {
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    sqrt_c2: f32,
    eps: f32,
    step_size: f32,
}

impl Factors {
    /// Those of step number `step`.
    fn new(options: &AdamWOptions, step: u64) -> Self {
        let AdamWOptions { learning_rate, beta1, beta2, eps, weight_decay } = *options;
        let (c1, c2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
        Self {
            decay: (1.0 - learning_rate * weight_decay) as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            sqrt_c2: c2.sqrt() as f32,
            eps: eps as f32,
            step_size: (learning_rate / c1) as f32,
        }
    }
}
