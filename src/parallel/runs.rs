//! What a rank does with its runs of what is trained, between the passes of two steps.

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

    /// Tensors of which each rank has `runs`, of all trained weights in their order, whole and on `device`.
    ///
    /// # Errors
    /// As [`Exchange::wait`](super::Exchange::wait).
    pub fn whole(&self, what: &str, runs: &[Option<Tensor>], device: &Device) -> Result<Vec<Tensor>> {
        self.join(&self.gather_runs(what, &self.trained(), runs)?, device)
    }

    fn gather_runs(&self, what: &str, shards: &[Arc<Shard>], runs: &[Option<Tensor>]) -> Result<Vec<Parts>> {
        self.communicator.all_gather(what, in_host_memory(runs)?, &self.lengths(shards))?.wait()
    }

    /// The trained weights, or what is like them, of what came from each rank.
    fn join(&self, found: &[Parts], device: &Device) -> Result<Vec<Tensor>> {
        let tensor = |(i, shard): (usize, &Arc<Shard>)| {
            let none = || Error::shape("shards", format!("{} is not trained", shard.name));
            let shape = shard.trained.as_ref().ok_or_else(none)?.get().shape();
            let runs: Vec<&Arc<Buffer>> = found.iter().filter_map(|parts| parts.get(i)).collect();
            let whole = assembled(shard.cut.bytes(), shard.cut.runs(), &runs)?;
            Tensor::from_bytes(device, DType::F32, shape, whole.host()?)
        };
        self.trained().iter().enumerate().map(tensor).collect()
    }

    /// This rank's run of a tensor that is like the trained weight of number `place`, if it has one.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&self, place: usize, tensor: &Tensor) -> Result<Option<Tensor>> {
        let trained = self.trained();
        let run = trained.get(place).map(|shard| shard.cut.of(self.communicator.rank())).filter(|run| !run.is_empty());
        run.map(|run| run_of(tensor, run, DType::F32)).transpose()
    }

    /// Keeps this rank's run of `weight` as that of the trained weight of number `place`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set(&self, place: usize, weight: &Tensor) -> Result<()> {
        if let Some((run, shard)) = self.run(place, weight)?.zip(self.trained().get(place)) {
            shard.run.iter().for_each(|cell| cell.set(run.clone()));
        }
        Ok(())
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
            let mut runs = Vec::with_capacity(shards.len());
            for (place, shard) in shards.iter().enumerate() {
                let weight = shard.trained.as_ref().map(Parameter::get);
                runs.push(weight.map_or(Ok(None), |weight| self.run(first + place, &weight))?);
            }
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

    /// The trained weights in host memory, which rank 0 gathers; none on another.
    ///
    /// # Errors
    /// As [`Exchange::wait`](super::Exchange::wait).
    pub fn values(&self) -> Result<Option<Vec<Tensor>>> {
        if self.strategy != Strategy::Full {
            let trained = self.trained();
            let weights = trained.iter().filter_map(|shard| shard.trained.as_ref());
            return Ok(Some(weights.map(|parameter| parameter.get().detach()).collect()));
        }
        let rank = self.communicator.rank();
        let is_here = |shard: &Arc<Shard>| !shard.cut.of(rank).is_empty();
        let run = |shard: &Arc<Shard>| shard.run.as_ref().filter(|_| is_here(shard)).map(Parameter::get);
        self.first("weights", &self.trained().iter().map(run).collect::<Vec<_>>())
    }

    /// [`Sharded::whole`] in the host memory of rank 0; none on another.
    ///
    /// # Errors
    /// As [`Exchange::wait`](super::Exchange::wait).
    pub fn first(&self, what: &str, runs: &[Option<Tensor>]) -> Result<Option<Vec<Tensor>>> {
        let (rank, size) = self.place();
        let mut parts = vec![Parts::new(); size];
        parts[0] = in_host_memory(runs)?;
        let lengths = if rank == 0 { self.lengths(&self.trained()) } else { vec![Vec::new(); size] };
        let found = self.communicator.all_to_all(what, parts, &lengths)?.wait()?;
        if rank > 0 {
            return Ok(None);
        }
        self.join(&found, &Device::Cpu).map(Some)
    }
}

/// Runs as they are sent, empty ones in the place of those that are not here.
fn in_host_memory(runs: &[Option<Tensor>]) -> Result<Parts> {
    let part = |run: &Option<Tensor>| match run {
        Some(run) => run.to_device(&Device::Cpu)?.share(),
        None => Ok(Arc::new(Buffer::uninit(&Device::Cpu, 0)?)),
    };
    runs.iter().map(part).collect()
}
