//! What a rank does with its runs of what is trained, between the passes of two steps.

use std::ops::Range;
use std::sync::Arc;

use super::shards::{assembled, lock, run_of};
use super::{Parts, Shard, Sharded, Strategy};
use crate::autograd::Tensor;
use crate::device::{Buffer, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::ops::grad_norm::{self, GradNorm};

/// A run of a weight of that name, if this rank has one.
pub type Named<'a> = (&'a str, Option<&'a mut Tensor>);

impl Sharded {
    /// The sums of the gradients of all rounds, of this rank's run of each weight, in the order of [`Sharded::trained`];
    /// none where it has no run.
    ///
    /// # Errors
    /// As [`Exchange::wait`](super::Exchange::wait).
    pub fn sums(&self) -> Result<Vec<Option<Tensor>>> {
        let mut fold = lock(&self.fold);
        fold.finish(&self.device)?;
        Ok(self.trained().iter().map(|shard| fold.take(&shard.name)).collect())
    }

    /// The norms of gradients of which each rank has `runs`: the bits of those of the whole.
    ///
    /// # Errors
    /// As [`Exchange::wait`](super::Exchange::wait).
    pub fn norm(&self, runs: &[Option<Tensor>]) -> Result<GradNorm> {
        let mine = grad_norm::pieces(&runs.iter().map(Option::as_ref).collect::<Vec<_>>(), &self.device)?;
        let numel = |shard: &Arc<Shard>| shard.cut.bytes() / DType::F32.size();
        let numels: Vec<usize> = self.trained().iter().map(numel).collect();
        grad_norm::of_pieces(&self.communicator().gather("norms of gradients", &mine)?, &numels, &self.device)
    }

    /// The name of the first trained weight with an element that is infinite or not a number.
    ///
    /// # Errors
    /// As [`Exchange::wait`](super::Exchange::wait).
    pub fn first_not_finite(&self) -> Result<Option<String>> {
        let found = self.norm(&self.runs()?)?.read()?.first_not_finite();
        Ok(found.and_then(|place| self.trained().get(place).map(|shard| shard.name.clone())))
    }

    /// Tensors of which each rank has `runs`, of all trained weights in their order, whole and on `device`.
    ///
    /// # Errors
    /// As [`Exchange::wait`](super::Exchange::wait).
    pub fn whole(&self, what: &str, runs: &[Option<Tensor>], device: &Device) -> Result<Vec<Tensor>> {
        let trained = self.trained();
        join(&trained, &self.gather_runs(what, &trained, runs)?, device)
    }

    fn gather_runs(&self, what: &str, shards: &[Arc<Shard>], runs: &[Option<Tensor>]) -> Result<Vec<Parts>> {
        self.communicator.all_gather(what, in_host_memory(runs)?, &self.lengths(shards))?.wait()
    }

    /// The elements that this rank has of the trained weight of number `place`.
    pub fn elements(&self, place: usize) -> Range<usize> {
        let run = self.trained().get(place).map(|shard| shard.cut.of(self.communicator.rank())).unwrap_or_default();
        run.start / DType::F32.size()..run.end / DType::F32.size()
    }

    /// This rank's runs of the trained weights, in their order; none where it has no run.
    ///
    /// # Errors
    /// Those of the device.
    pub fn runs(&self) -> Result<Vec<Option<Tensor>>> {
        self.trained().iter().map(|shard| self.run(shard)).collect()
    }

    fn run(&self, shard: &Shard) -> Result<Option<Tensor>> {
        let run = shard.cut.of(self.communicator.rank());
        match (&shard.run, &shard.trained) {
            _ if run.is_empty() => Ok(None),
            (Some(kept), _) => Ok(Some(kept.get())),
            (None, trained) => trained.as_ref().map(|whole| run_of(&whole.get(), run, DType::F32)).transpose(),
        }
    }

    /// Keeps `run`, the [elements](Sharded::elements) of this rank, of the trained weight of number `place`.
    pub fn set(&self, place: usize, run: Tensor) {
        let trained = self.trained();
        trained.get(place).and_then(|shard| shard.run.as_ref()).into_iter().for_each(|cell| cell.set(run.clone()));
    }

    /// Has `change` change this rank's runs of the trained weights from a number on, some at a time, and with
    /// [`Strategy::GradOp`] takes those of the others.
    ///
    /// # Errors
    /// What `change` returns; as [`Exchange::wait`](super::Exchange::wait).
    pub fn update(&self, mut change: impl FnMut(usize, &mut [Named<'_>]) -> Result<()>) -> Result<()> {
        let (trained, rank) = (self.trained(), self.communicator.rank());
        let is_here = |shard: &Shard| !shard.cut.of(rank).is_empty();
        if self.strategy == Strategy::Full {
            let mut locked: Vec<_> = trained.iter().map(|shard| shard.run.as_ref().map(Parameter::lock)).collect();
            let runs = trained.iter().zip(&mut locked);
            let runs = runs.map(|(shard, run)| (&shard.name[..], run.as_deref_mut().filter(|_| is_here(shard))));
            return change(0, &mut runs.collect::<Vec<_>>());
        }
        let mut first = 0;
        // Unit by unit: a second copy of all weights would be what this strategy spares a device.
        for shards in trained.chunk_by(|a, b| a.unit == b.unit) {
            let mut runs = shards.iter().map(|shard| self.run(shard)).collect::<Result<Vec<_>>>()?;
            let named = shards.iter().zip(&mut runs).map(|(shard, run)| (&shard.name[..], run.as_mut()));
            change(first, &mut named.collect::<Vec<_>>())?;
            first += shards.len();
            let found = self.gather_runs("weights", shards, &runs)?;
            drop(runs);
            for (place, shard) in shards.iter().enumerate() {
                let runs: Vec<&Arc<Buffer>> = found.iter().filter_map(|parts| parts.get(place)).collect();
                let whole = assembled(shard.cut.bytes(), shard.cut.runs(), &runs)?.to_device(&self.device)?;
                let Some(parameter) = &shard.trained else { continue };
                parameter.update(|weight| weight.buffer_mut()?.copy_from(0, &whole, 0..whole.bytes()))?;
            }
        }
        Ok(())
    }

    /// The trained weight of number `place` in host memory, which rank 0 gathers if it does not have it; none on another.
    ///
    /// # Errors
    /// As [`Exchange::wait`](super::Exchange::wait).
    pub fn value(&self, place: usize) -> Result<Option<Tensor>> {
        let trained = self.trained();
        let shard = trained.get(place).ok_or_else(|| Error::shape("shards", format!("no weight of number {place}")))?;
        match &shard.trained {
            Some(whole) if self.strategy != Strategy::Full => {
                Ok(Some(whole.get().detach()).filter(|_| self.place().0 == 0))
            }
            _ => Ok(self
                .first("weights", &trained[place..=place], &[self.run(shard)?])?
                .and_then(|mut found| found.pop())),
        }
    }

    /// Tensors of which each rank has `runs`, like the weights of `shards`, in the host memory of rank 0; none on another.
    ///
    /// # Errors
    /// As [`Exchange::wait`](super::Exchange::wait).
    pub fn first(&self, what: &str, shards: &[Arc<Shard>], runs: &[Option<Tensor>]) -> Result<Option<Vec<Tensor>>> {
        let (rank, size) = self.place();
        let mut parts = vec![Parts::new(); size];
        parts[0] = in_host_memory(runs)?;
        let lengths = if rank == 0 { self.lengths(shards) } else { vec![Vec::new(); size] };
        let found = self.communicator.all_to_all(what, parts, &lengths)?.wait()?;
        if rank > 0 {
            return Ok(None);
        }
        join(shards, &found, &Device::Cpu).map(Some)
    }
}

/// Weights, or what is like them, of what came from each rank.
fn join(shards: &[Arc<Shard>], found: &[Parts], device: &Device) -> Result<Vec<Tensor>> {
    let tensor = |(i, shard): (usize, &Arc<Shard>)| {
        let none = || Error::shape("shards", format!("{} is not trained", shard.name));
        let shape = shard.trained.as_ref().ok_or_else(none)?.get().shape();
        let runs: Vec<&Arc<Buffer>> = found.iter().filter_map(|parts| parts.get(i)).collect();
        let whole = assembled(shard.cut.bytes(), shard.cut.runs(), &runs)?;
        Tensor::from_bytes(device, DType::F32, shape, whole.host()?)
    };
    shards.iter().enumerate().map(tensor).collect()
}

/// Runs as they are sent, empty ones in the place of those that are not here.
fn in_host_memory(runs: &[Option<Tensor>]) -> Result<Parts> {
    let part = |run: &Option<Tensor>| match run {
        Some(run) => run.to_device(&Device::Cpu)?.share(),
        None => Ok(Arc::new(Buffer::uninit(&Device::Cpu, 0)?)),
    };
    runs.iter().map(part).collect()
}
