//! Recording and differentiation.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Tensor;
use super::accumulate::accumulate;
use crate::device::Device;
use crate::error::{Error, Result};

/// From the gradients of an op's outputs to those of its inputs; leaf gradients of a nested tape go to the last argument.
type Backward = Box<dyn FnOnce(Vec<Option<Tensor>>, &mut Gradients) -> Result<Vec<Option<Tensor>>> + Send>;

/// One recorded op, or a leaf. Later nodes have larger ids, so descending ids are a reverse topological order.
struct Node {
    id: u64,
    inputs: Vec<Option<Output>>,
    outputs: usize,
    backward: Mutex<Option<Backward>>,
}

/// One output of a node.
#[derive(Clone)]
pub(super) struct Output {
    node: Arc<Node>,
    index: usize,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}.{}", self.node.id, self.index)
    }
}

impl Node {
    fn new(inputs: Vec<Option<Output>>, outputs: usize, backward: Option<Backward>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, inputs, outputs, backward: Mutex::new(backward) })
    }

    /// An op's node, unless nothing is recorded or no input is tracked.
    fn recorded(inputs: &[&Tensor], outputs: usize, backward: Backward) -> Option<Arc<Self>> {
        let is_wanted = is_recording() && inputs.iter().any(|x| x.is_tracked());
        is_wanted.then(|| Self::new(inputs.iter().map(|x| x.output().cloned()).collect(), outputs, Some(backward)))
    }
}

impl Output {
    pub(super) fn leaf() -> Self {
        Self { node: Node::new(Vec::new(), 1, None), index: 0 }
    }
}

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

/// Whether ops on this thread are recorded.
pub fn is_recording() -> bool {
    RECORDING.get()
}

/// Runs `f` without recording.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    with_recording(false, f)
}

/// Runs `f` with recording, inside [`no_grad`] or a backward pass.
pub fn recording<R>(f: impl FnOnce() -> R) -> R {
    with_recording(true, f)
}

fn with_recording<R>(on: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(on));
    f()
}

/// Puts an op on the tape: `backward` turns the gradients of `outputs` into those of `inputs`.
///
/// Nothing is recorded, and `backward` is dropped with what it saved, where no input is tracked.
/// A gradient is `None` where none arrived (for an output) or none is wanted (for an input).
pub fn record<const N: usize, const M: usize>(
    inputs: [&Tensor; N],
    outputs: [Tensor; M],
    backward: impl FnOnce([Option<Tensor>; M]) -> Result<[Option<Tensor>; N]> + Send + 'static,
) -> [Tensor; M] {
    record_nested(inputs, outputs, move |dys, _| backward(dys))
}

/// [`record`] for an op that differentiates a tape of its own and adds its leaves' gradients to the outer ones.
pub fn record_nested<const N: usize, const M: usize>(
    inputs: [&Tensor; N],
    outputs: [Tensor; M],
    backward: impl FnOnce([Option<Tensor>; M], &mut Gradients) -> Result<[Option<Tensor>; N]> + Send + 'static,
) -> [Tensor; M] {
    let boxed: Backward = Box::new(move |dys, gradients| {
        let dys = <[_; M]>::try_from(dys).map_err(|_| Error::shape("backward", "wrong number of gradients"))?;
        Ok(backward(dys, gradients)?.into())
    });
    let Some(node) = Node::recorded(&inputs, M, boxed) else { return outputs };
    let mut index = 0;
    outputs.map(|y| {
        let y = y.with_output(Output { node: node.clone(), index });
        index += 1;
        y
    })
}

/// [`record`] for an op that learns only when it runs how many inputs and outputs it has.
pub fn record_all(
    inputs: &[&Tensor],
    outputs: Vec<Tensor>,
    backward: impl FnOnce(Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> + Send + 'static,
) -> Vec<Tensor> {
    let Some(node) = Node::recorded(inputs, outputs.len(), Box::new(move |dys, _| backward(dys))) else {
        return outputs;
    };
    let tracked = outputs.into_iter().enumerate();
    tracked.map(|(index, y)| y.with_output(Output { node: node.clone(), index })).collect()
}

/// Gradients of leaves, in one order, so that the same passes launch the same kernels in the same order.
#[derive(Default)]
pub struct Gradients(BTreeMap<u64, Tensor>);

impl Gradients {
    /// The gradient of the leaf `x`, if one arrived.
    pub fn get(&self, x: &Tensor) -> Option<&Tensor> {
        self.0.get(&x.output()?.node.id)
    }

    /// Takes the gradient of the leaf `x` out.
    pub fn take(&mut self, x: &Tensor) -> Option<Tensor> {
        self.0.remove(&x.output()?.node.id)
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        other.0.into_iter().try_for_each(|(id, gradient)| self.add(id, gradient))
    }

    fn add(&mut self, id: u64, gradient: Tensor) -> Result<()> {
        let sum = match self.0.remove(&id) {
            Some(sum) => accumulate(sum, &gradient)?,
            None => gradient,
        };
        self.0.insert(id, sum);
        Ok(())
    }
}

/// Differentiates the scalar `loss` and returns the gradients of all leaves. Frees the tape as it goes.
///
/// # Errors
/// [`Error::Shape`] if `loss` is not a scalar or was not recorded.
pub fn backward(loss: &Tensor) -> Result<Gradients> {
    if loss.shape().numel() != 1 {
        return Err(Error::shape("backward", format!("the loss must have one element, got {}", loss.shape())));
    }
    let one = Tensor::from_slice(&Device::Cpu, loss.shape(), &[1f32])?.to_device(&loss.device())?;
    backward_from([(loss, one)])
}

/// Differentiates from each `y` with the gradient `dy` given beside it.
///
/// # Errors
/// [`Error::Shape`] if some `y` was not recorded, or was differentiated before.
pub fn backward_from<const N: usize>(outputs: [(&Tensor, Tensor); N]) -> Result<Gradients> {
    let mut pending = Pending::default();
    for (y, dy) in outputs {
        let output = y.output().ok_or_else(|| Error::shape("backward", "the output depends on no tracked tensor"))?;
        pending.add(output, dy)?;
    }
    let mut gradients = Gradients::default();
    while let Some((node, dys)) = pending.pop() {
        pending.step(&node, dys, &mut gradients)?;
    }
    Ok(gradients)
}

/// Nodes whose output gradients are not complete yet.
#[derive(Default)]
struct Pending(BTreeMap<u64, (Arc<Node>, Vec<Option<Tensor>>)>);

impl Pending {
    fn add(&mut self, output: &Output, dy: Tensor) -> Result<()> {
        let node = &output.node;
        let (_, dys) = self.0.entry(node.id).or_insert_with(|| (node.clone(), vec![None; node.outputs]));
        dys[output.index] = Some(match dys[output.index].take() {
            Some(sum) => accumulate(sum, &dy)?,
            None => dy,
        });
        Ok(())
    }

    /// The latest node: all that used its outputs came after it and are done.
    fn pop(&mut self) -> Option<(Arc<Node>, Vec<Option<Tensor>>)> {
        self.0.pop_last().map(|(_, entry)| entry)
    }

    fn step(&mut self, node: &Node, dys: Vec<Option<Tensor>>, gradients: &mut Gradients) -> Result<()> {
        if node.inputs.is_empty() {
            return dys.into_iter().flatten().try_for_each(|dy| gradients.add(node.id, dy));
        }
        let backward = node.backward.lock().unwrap_or_else(PoisonError::into_inner).take();
        let backward = backward.ok_or_else(|| Error::shape("backward", "this part of the tape was used already"))?;
        let dxs = with_recording(false, || backward(dys, gradients))?;
        for (input, dx) in node.inputs.iter().zip(dxs) {
            if let (Some(input), Some(dx)) = (input, dx) {
                self.add(input, dx)?;
            }
        }
        Ok(())
    }
}
