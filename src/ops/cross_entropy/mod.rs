//! Cross entropy, fused with the language-model head.

mod cpu;
mod cuda;

pub(crate) use cuda::KERNELS;

use super::check;
use crate::autograd::{Tensor, is_recording, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "cross_entropy";

/// A row with this target counts for nothing.
pub const IGNORE_INDEX: i32 = -100;

/// The most logits that exist at once, 128 MiB of them, but for a GPU's least rows. Fewer rows would read the head's
/// weight too often.
const CHUNK_LOGITS: usize = 32 << 20;

/// The sum over rows of `-log softmax(hidden · lm_headᵀ)[target]`, divided by `normalizer`.
///
/// The logits exist for one chunk of rows at a time, and only for rows whose target is not [`IGNORE_INDEX`]. Gradients are
/// computed with them, scaled in the backward pass.
///
/// - Shapes: `hidden` `[rows, H]`, `lm_head` `[V, H]`, `targets` `[rows]` → a scalar
/// - `targets` are on the CPU whatever the device: they decide what is computed, and a bad one is refused before
///   anything is
/// - Dtypes: `hidden`, `lm_head` f32 or bf16 each, `targets` i32, the loss f32; logits in f32, sums over rows in f64, on a
///   GPU in f32; there the gradients of bf16 operands are products of logits' gradients that are rounded to bf16
/// - Gradients: `hidden`, `lm_head`, each like its tensor, all NaN if the loss is not finite, so that whoever looks at
///   the gradients knows; saves the gradients and nothing else
/// - Source: chunks with gradients in the forward pass as in Hsu et al. 2024, <https://arxiv.org/abs/2410.10989>
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit; [`Error::DType`] if one has a dtype it cannot have;
/// [`Error::Device`] if `lm_head` is not where `hidden` is, or `targets` are not on the CPU;
/// [`Error::Input`] for a target that is neither a class nor [`IGNORE_INDEX`], or a `normalizer` that is not positive.
pub fn cross_entropy(hidden: &Tensor, lm_head: &Tensor, targets: &Tensor, normalizer: f32) -> Result<Tensor> {
    cross_entropy_low_rank(hidden, lm_head, None, targets, normalizer)
}

/// [`cross_entropy`] of a head with an adapter: `xa · bᵀ` is added to the logits, of `low_rank` `[xa, b]`.
///
/// - Shapes: `xa` `[rows, R]`, `b` `[V, R]`
/// - Dtypes: f32 or bf16 each; on a GPU all is done in f32 where one differs
/// - Gradients: `xa`, `b` too, each like its tensor
///
/// # Errors
/// As [`cross_entropy`], of `xa` and `b` too.
pub fn cross_entropy_low_rank(
    hidden: &Tensor,
    lm_head: &Tensor,
    low_rank: Option<[&Tensor; 2]>,
    targets: &Tensor,
    normalizer: f32,
) -> Result<Tensor> {
    refuse_misfits(hidden, lm_head, targets, normalizer)?;
    low_rank.map_or(Ok(()), |[xa, b]| refuse_misfits_of_rank(xa, b, hidden, lm_head))?;
    let counted = counted(lm_head, targets)?;
    let terms: Vec<Term> = [Some([hidden, lm_head]), low_rank].into_iter().flatten().map(Term::new).collect();
    let (loss, gradients) = on_device!(hidden, forward(&terms, &counted, normalizer))?;
    let saved = loss.clone();
    let [xa, b] = low_rank.unwrap_or([&saved; 2]);
    let [loss] = record([hidden, lm_head, xa, b], [loss], {
        let saved = saved.clone();
        move |[dy]| {
            let Some(dy) = dy else { return Ok([None, None, None, None]) };
            let scale = |gradient: Option<Tensor>| gradient.map(|g| on_device!(dy, scale(g, &dy, &saved))).transpose();
            let mut scaled = gradients.into_iter().flatten().map(scale).collect::<Result<Vec<_>>>()?.into_iter();
            Ok(std::array::from_fn(|_| scaled.next().flatten()))
        }
    });
    Ok(loss)
}

/// A product of which logits are a sum: `x · weightᵀ`.
struct Term {
    x: Tensor,
    weight: Tensor,
    /// Which of the two gradients are wanted.
    want: [bool; 2],
}

impl Term {
    fn new(operands: [&Tensor; 2]) -> Self {
        let [x, weight] = operands.map(Tensor::detach);
        Self { x, weight, want: operands.map(|tensor| tensor.is_tracked() && is_recording()) }
    }
}

/// What the gradients of logits are multiplied by, if any gradient of `terms` is wanted.
fn gradient_scale(terms: &[Term], normalizer: f32) -> Option<f32> {
    terms.iter().any(|term| term.want.contains(&true)).then_some(1.0 / normalizer)
}

/// The rows that count, each with its target.
fn counted(lm_head: &Tensor, targets: &Tensor) -> Result<Vec<(usize, usize)>> {
    let classes = lm_head.shape().rows();
    let rows = targets.slice::<i32>()?.iter().enumerate().filter(|(_, target)| **target != IGNORE_INDEX);
    rows.map(|(row, &target)| match usize::try_from(target) {
        Ok(class) if class < classes => Ok((row, class)),
        _ => Err(Error::input(
            OP,
            format!("the target of row {row} must be in 0..{classes} or {IGNORE_INDEX}, got {target}"),
        )),
    })
    .collect()
}

fn refuse_misfits(hidden: &Tensor, lm_head: &Tensor, targets: &Tensor, normalizer: f32) -> Result<()> {
    let &[rows, h] = hidden.dims() else {
        return Err(Error::shape(OP, format!("hidden must be [rows, H], got {}", hidden.shape())));
    };
    if !matches!(lm_head.dims(), [_, columns] if *columns == h) {
        return Err(Error::shape(OP, format!("lm_head must be [V, {h}], got {}", lm_head.shape())));
    }
    check::shape(OP, "targets", targets, [rows])?;
    if targets.dtype() != DType::I32 {
        return Err(Error::dtype(OP, format!("targets must be i32, got {}", targets.dtype())));
    }
    if !(normalizer > 0.0 && normalizer.is_finite()) {
        return Err(Error::input(OP, format!("the normalizer must be positive, got {normalizer}")));
    }
    check::same_device(OP, "lm_head", lm_head, hidden)?;
    check::on_device(OP, "targets", targets, &Device::Cpu)
}

fn refuse_misfits_of_rank(xa: &Tensor, b: &Tensor, hidden: &Tensor, lm_head: &Tensor) -> Result<()> {
    let r = xa.shape().last();
    check::shape(OP, "xa", xa, [hidden.shape().rows(), r])?;
    check::shape(OP, "b", b, [lm_head.shape().rows(), r])?;
    for (name, tensor) in [("xa", xa), ("b", b)] {
        check::float(OP, tensor.dtype())?;
        check::same_device(OP, name, tensor, hidden)?;
    }
    Ok(())
}
