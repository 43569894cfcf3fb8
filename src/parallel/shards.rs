//! What a rank holds of a model, and what it does around the units of a pass.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::{Communicator, Cut, Exchange, Fold, Parts};
use crate::autograd::{Gradients, Storage, Tensor, accumulate};
use crate::device::{Buffer, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::models::llama::unit_of;
use crate::nn::{Parameter, Unit, Weight};
use crate::ops::elementwise::cast;

/// How weights, gradients and the optimizer's state lie among ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Each rank holds all.
    #[default]
    None,
    /// Each rank holds a part of all; a unit's weights are gathered before its use and freed behind it.
    Full,
    /// Each rank holds all weights, and a part of the gradients and of the optimizer's state.
    GradOp,
}

/// One tensor of a model that is cut among ranks.
#[derive(Debug)]
pub struct Shard {
    /// The name of the weight that it is of.
    pub name: String,
    pub(super) unit: Unit,
    /// The dtype in which it is gathered, if its run is one of floats, which change: that of the activations where layers cast
    /// it to that.
    floats: Option<DType>,
    pub(super) cut: Cut,
    /// The whole, while it is gathered; none where every rank holds it all the time.
    pub(super) storage: Option<Arc<Storage>>,
    /// This rank's run, if it is gathered: f32 of what is trained, else bytes.
    pub run: Option<Parameter>,
    /// The whole as the model holds it, if it is trained.
    pub trained: Option<Parameter>,
}

impl Shard {
    /// The bytes of a rank's run as they are gathered.
    fn gathered(&self, rank: usize) -> Range<usize> {
        let (run, size) = (self.cut.of(rank), DType::F32.size());
        self.floats.map_or(run.clone(), |dtype| run.start / size * dtype.size()..run.end / size * dtype.size())
    }
}

/// Which way a pass goes through a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Forward,
    Backward,
}

/// A model among ranks, as one of them sees it.
pub struct Sharded {
    pub(super) communicator: Arc<dyn Communicator>,
    pub(super) strategy: Strategy,
    pub(super) device: Device,
    /// Whether the output layer's weight is the embedding's.
    is_tied: bool,
    blocks: usize,
    /// Whether blocks keep only their input until their gradient is needed.
    pub(super) checkpoints: bool,
    shards: Mutex<Vec<Arc<Shard>>>,
    /// How many bytes each rank holds of what is frozen, and of what is trained.
    loads: Mutex<[Vec<usize>; 2]>,
    checksums: Mutex<BTreeMap<String, Vec<crc32fast::Hasher>>>,
    /// The gather that was begun ahead of its use.
    ahead: Mutex<Option<Ahead>>,
    /// How many ranks have a pass in this round.
    active: AtomicUsize,
    pub(super) fold: Mutex<Fold>,
    /// The output layer's gradient of a tied embedding, which waits for the other half.
    half: Mutex<Option<Tensor>>,
}

struct Ahead {
    unit: Unit,
    way: Way,
    exchange: Box<dyn Exchange>,
}

impl std::fmt::Debug for Sharded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rank, size) = (self.communicator.rank(), self.communicator.world_size());
        write!(f, "rank {rank} of {size}, {:?}", self.strategy)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sharded {
    /// A model of `blocks` blocks of which nothing is there yet.
    pub fn new(
        communicator: Arc<dyn Communicator>,
        strategy: Strategy,
        device: &Device,
        (blocks, is_tied): (usize, bool),
        checkpoints: bool,
    ) -> Self {
        let loads = vec![0; communicator.world_size()];
        Self {
            communicator,
            strategy,
            device: device.clone(),
            is_tied,
            blocks,
            checkpoints,
            shards: Mutex::default(),
            loads: Mutex::new([loads.clone(), loads]),
            checksums: Mutex::default(),
            ahead: Mutex::default(),
            active: AtomicUsize::new(0),
            fold: Mutex::default(),
            half: Mutex::default(),
        }
    }

    /// How it is cut.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Whether all weights are here at any time.
    pub fn keeps_weights(&self) -> bool {
        self.strategy != Strategy::Full
    }

    /// The way to the other ranks.
    pub fn communicator(&self) -> &dyn Communicator {
        &*self.communicator
    }

    /// Keeps this rank's run of a weight, in f32 if it is to be trained, and gives the weight of which the rest is gathered.
    ///
    /// # Errors
    /// Those of the device.
    pub fn keep(&self, name: &str, weight: Weight, trains: bool) -> Result<Weight> {
        if self.strategy != Strategy::Full {
            return Ok(weight);
        }
        let parts = match &weight {
            Weight::Dense(parameter) if trains => vec![cast(&parameter.get(), DType::F32)?],
            Weight::Dense(parameter) => vec![parameter.get()],
            Weight::Packed(weight) => vec![weight.unpack()?],
            Weight::Quantized(weight) => weight.parts().into_iter().cloned().collect(),
        };
        self.note(name, &parts)?;
        weight.map(&mut |tensor| {
            let is_cast = !is_table(name) && !name.ends_with(".bias");
            let floats = trains.then_some(if is_cast { tensor.dtype() } else { DType::F32 });
            let tensor = if trains { cast(tensor, DType::F32)? } else { tensor.clone() };
            let (shard, whole) = self.cut(name, &tensor, floats)?;
            lock(&self.shards).push(Arc::new(shard));
            Ok(if trains { whole.with_grad() } else { whole })
        })
    }

    /// Keeps the checksums of the parts of a weight.
    fn note(&self, name: &str, parts: &[Tensor]) -> Result<()> {
        let mut checksums = Vec::with_capacity(parts.len());
        for part in parts {
            let mut checksum = crc32fast::Hasher::new();
            checksum.update(part.to_device(&Device::Cpu)?.buffer()?.host()?);
            checksums.push(checksum);
        }
        lock(&self.checksums).insert(layer(name).into(), checksums);
        Ok(())
    }

    /// The checksums of the parts of a weight, each of all of its bytes when it was loaded, if it is gathered.
    pub fn checksums(&self, name: &str) -> Option<Vec<crc32fast::Hasher>> {
        lock(&self.checksums).get(layer(name)).cloned()
    }

    /// Takes what is trained, in its order: with [`Strategy::Full`] its runs are kept in place of the whole.
    ///
    /// # Errors
    /// Those of the device.
    pub fn train(&self, parameters: &[(String, &Parameter)]) -> Result<()> {
        for (name, parameter) in parameters {
            let kept = self.forget(name);
            let mut shard = match (self.strategy, kept) {
                (Strategy::Full, Some(kept)) if kept.floats.is_some() => kept,
                (Strategy::Full, _) => {
                    self.note(name, &[parameter.get()])?;
                    let (shard, whole) = self.cut(name, &parameter.get(), Some(DType::F32))?;
                    parameter.set(whole.with_grad());
                    shard
                }
                (Strategy::None | Strategy::GradOp, _) => {
                    let cut = Cut::new(parameter.get().bytes(), &mut lock(&self.loads)[1]);
                    Shard {
                        name: name.clone(),
                        unit: unit_of(name),
                        floats: Some(DType::F32),
                        cut,
                        storage: None,
                        run: None,
                        trained: None,
                    }
                }
            };
            shard.trained = Some((*parameter).clone());
            lock(&self.shards).push(Arc::new(shard));
        }
        Ok(())
    }

    /// Takes what was kept of the model's weight of that name out, be it now an adapter's.
    fn forget(&self, name: &str) -> Option<Shard> {
        let mut shards = lock(&self.shards);
        let place = shards.iter().position(|shard| layer(&shard.name) == layer(name) && shard.trained.is_none())?;
        Arc::into_inner(shards.remove(place))
    }

    fn cut(&self, name: &str, tensor: &Tensor, floats: Option<DType>) -> Result<(Shard, Tensor)> {
        let cut = Cut::new(tensor.bytes(), &mut lock(&self.loads)[usize::from(floats.is_some())]);
        let dtype = if floats.is_some() { DType::F32 } else { DType::U8 };
        let run = Parameter::new(run_of(tensor, cut.of(self.communicator.rank()), dtype)?);
        let (held, shape) = (floats.unwrap_or(tensor.dtype()), tensor.shape());
        let storage = Arc::new(Storage::new(&tensor.device(), shape.numel() * held.size()));
        let whole = Tensor::of_storage(storage.clone(), held, shape)?;
        let (name, unit) = (name.to_string(), unit_of(name));
        Ok((Shard { name, unit, floats, cut, storage: Some(storage), run: Some(run), trained: None }, whole))
    }

    /// What is trained, in the order that it was taken in.
    pub fn trained(&self) -> Vec<Arc<Shard>> {
        lock(&self.shards).iter().filter(|shard| shard.trained.is_some()).cloned().collect()
    }

    /// Whether something of a unit is trained.
    pub(super) fn is_trained(&self, unit: Unit) -> bool {
        lock(&self.shards).iter().any(|shard| shard.unit == unit && shard.trained.is_some())
    }

    /// Whether a gradient comes to `unit`: where it, or one before it, is trained.
    fn is_in_backward(&self, unit: Unit) -> bool {
        lock(&self.shards).iter().any(|shard| shard.unit <= unit && shard.trained.is_some())
    }

    /// What is gathered for a unit. The tables of tokens are read going forward alone: the loss makes their gradient there.
    fn gathered(&self, unit: Unit, way: Way) -> Vec<Arc<Shard>> {
        let is_tied_head = |shard: &Shard| self.is_tied && unit == Unit::Head && shard.unit == Unit::Embedding;
        let is_read = |shard: &Shard| way == Way::Forward || !is_table(&shard.name);
        let shards = lock(&self.shards);
        let of_unit =
            shards.iter().filter(|shard| shard.storage.is_some() && (shard.unit == unit || is_tied_head(shard)));
        of_unit.filter(|shard| is_read(shard)).cloned().collect()
    }

    fn start(&self, unit: Unit, way: Way) -> Result<Option<Ahead>> {
        let shards = self.gathered(unit, way);
        if shards.is_empty() {
            return Ok(None);
        }
        let mut mine = Vec::new();
        for (shard, run) in shards.iter().filter_map(|shard| Some((shard, shard.run.as_ref()?.get()))) {
            let run = shard.floats.map_or_else(|| Ok(run.clone()), |dtype| cast(&run, dtype))?;
            mine.push(run.to_device(&Device::Cpu)?.share()?);
        }
        let of = |rank| shards.iter().map(|shard| shard.gathered(rank).len()).collect();
        let lengths: Vec<Vec<usize>> = (0..self.communicator.world_size()).map(of).collect();
        let exchange = self.communicator.all_gather(&format!("gather of {unit:?}"), mine, &lengths)?;
        Ok(Some(Ahead { unit, way, exchange }))
    }

    /// The bytes of the run of each shard, f32 if it is trained, of each rank.
    pub(super) fn lengths(&self, shards: &[Arc<Shard>]) -> Vec<Vec<usize>> {
        let of = |rank| shards.iter().map(|shard: &Arc<Shard>| shard.cut.of(rank).len()).collect();
        (0..self.communicator.world_size()).map(of).collect()
    }

    /// The unit that a pass comes to next, if it goes on.
    fn next(&self, unit: Unit, way: Way, learns: bool) -> Option<(Unit, Way)> {
        let last = self.blocks.checked_sub(1);
        let next = match (unit, way) {
            (Unit::Embedding, Way::Forward) => (if self.blocks > 0 { Unit::Block(0) } else { Unit::Head }, way),
            (Unit::Block(i), Way::Forward) if Some(i) == last => (Unit::Head, way),
            (Unit::Block(i), Way::Forward) => (Unit::Block(i + 1), way),
            (Unit::Head, Way::Forward) if learns => (Unit::Head, Way::Backward),
            (Unit::Head, Way::Backward) => (last.map_or(Unit::Embedding, Unit::Block), way),
            (Unit::Block(i), Way::Backward) => (i.checked_sub(1).map_or(Unit::Embedding, Unit::Block), way),
            (Unit::Head, Way::Forward) | (Unit::Embedding, Way::Backward) => return None,
        };
        (next.1 == Way::Forward || self.is_in_backward(next.0)).then_some(next)
    }

    /// Gathers what `unit` needs, and begins to gather what comes after it in a pass that `learns` or does not.
    pub(super) fn enter(&self, unit: Unit, way: Way, learns: bool) -> Result<()> {
        if self.strategy != Strategy::Full {
            return Ok(());
        }
        let mut ahead = lock(&self.ahead);
        let this = match ahead.take() {
            Some(begun) if (begun.unit, begun.way) == (unit, way) => Some(begun),
            Some(begun) => {
                let detail = format!("{unit:?} {way:?} comes where {:?} {:?} was to", begun.unit, begun.way);
                return Err(Error::lost(detail));
            }
            None => self.start(unit, way)?,
        };
        if let Some((unit, way)) = self.next(unit, way, learns) {
            *ahead = self.start(unit, way)?;
        }
        drop(ahead);
        let Some(Ahead { exchange, .. }) = this else { return Ok(()) };
        self.fill(&self.gathered(unit, way), &exchange.wait()?)
    }

    /// Puts what came of each rank's runs of `shards` into their places.
    fn fill(&self, shards: &[Arc<Shard>], found: &[Parts]) -> Result<()> {
        shards.par_iter().enumerate().try_for_each(|(i, shard)| {
            let runs: Vec<&Arc<Buffer>> = found.iter().filter_map(|parts| parts.get(i)).collect();
            let Some(storage) = &shard.storage else { return Ok(()) };
            let places: Vec<Range<usize>> = (0..runs.len()).map(|rank| shard.gathered(rank)).collect();
            let whole = assembled(storage.bytes(), &places, &runs)?;
            let is_here = matches!(self.device, Device::Cpu);
            storage.fill(if is_here { whole } else { Arc::new(whole.to_device(&self.device)?) })
        })
    }

    /// Frees what was gathered for `unit`.
    pub(super) fn leave(&self, unit: Unit, way: Way) {
        for shard in self.gathered(unit, way) {
            shard.storage.iter().for_each(|storage| storage.free());
        }
    }

    /// The number of this rank, and how many there are.
    pub fn place(&self) -> (usize, usize) {
        (self.communicator.rank(), self.communicator.world_size())
    }

    /// Begins a round of passes, one each of the first `active` ranks.
    pub fn begin_round(&self, active: usize) {
        self.active.store(active, Ordering::Relaxed);
    }

    /// Takes part in a round of passes without a pass of its own.
    ///
    /// # Errors
    /// As [`Exchange::wait`].
    pub fn idle(&self, learns: bool) -> Result<()> {
        let (mut at, mut way) = (Unit::Embedding, Way::Forward);
        loop {
            self.enter(at, way, learns)?;
            self.leave(at, way);
            if way == Way::Backward {
                self.reduce(at, None)?;
            }
            match self.next(at, way, learns) {
                Some(next) => (at, way) = next,
                None => return Ok(()),
            }
        }
    }

    /// Sends the gradients of a unit's weights to their owners; `None` where this rank has no pass.
    pub(super) fn reduce(&self, unit: Unit, gradients: Option<&mut Gradients>) -> Result<()> {
        let shards: Vec<_> = self.trained().into_iter().filter(|shard| shard.unit == unit).collect();
        let mut gradients = match gradients {
            Some(gradients) => Some(self.take(unit, &shards, gradients)?),
            None => None,
        };
        if shards.is_empty() {
            return Ok(());
        }
        let (size, rank) = (self.communicator.world_size(), self.communicator.rank());
        let mut parts: Vec<Parts> = vec![Parts::new(); size];
        for (shard, gradient) in shards.iter().zip(gradients.iter_mut().flatten()) {
            for (to, run) in shard.cut.runs().iter().enumerate() {
                parts[to].push(run_of(gradient, run.clone(), DType::F32)?.to_device(&Device::Cpu)?.share()?);
            }
        }
        drop(gradients);
        let active = self.active.load(Ordering::Relaxed);
        let mine: Vec<usize> = shards.iter().map(|shard| shard.cut.of(rank).len()).collect();
        let lengths: Vec<Vec<usize>> =
            (0..size).map(|from| if from < active { mine.clone() } else { Vec::new() }).collect();
        let exchange = self.communicator.all_to_all(&format!("gradients of {unit:?}"), parts, &lengths)?;
        lock(&self.fold).push(shards, exchange, &self.device)
    }

    /// The gradients of a unit's trained weights, zeros where none arrived.
    fn take(&self, unit: Unit, shards: &[Arc<Shard>], gradients: &mut Gradients) -> Result<Vec<Tensor>> {
        if self.is_tied && unit == Unit::Head {
            let embedding = self.trained().into_iter().find(|shard| shard.unit == Unit::Embedding);
            let weight = embedding.and_then(|shard| shard.trained.as_ref().map(Parameter::get));
            *lock(&self.half) = weight.and_then(|weight| gradients.take(&weight));
        }
        let of = |shard: &Arc<Shard>| {
            let weight = shard.trained.as_ref().map(Parameter::get);
            let found = weight.as_ref().and_then(|weight| gradients.take(weight));
            let found = found.map(|found| cast(&found, DType::F32)).transpose()?;
            let half = if unit == Unit::Embedding { lock(&self.half).take() } else { None };
            match (half, found, weight) {
                (Some(half), Some(found), _) => accumulate(half, &found),
                (Some(one), None, _) | (None, Some(one), _) => Ok(one),
                (None, None, Some(weight)) => Tensor::zeros(&self.device, DType::F32, weight.shape()),
                (None, None, None) => Err(Error::shape("gradients", format!("{} is not trained", shard.name))),
            }
        };
        shards.iter().map(of).collect()
    }
}

/// Whether a weight has a row for each token.
fn is_table(name: &str) -> bool {
    ["model.embed_tokens.weight", "lm_head.weight"].iter().any(|table| name.ends_with(table))
}

/// What a weight is of: its name in the model, be it now an adapter's.
fn layer(name: &str) -> &str {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    name.strip_suffix(".weight").unwrap_or(name)
}

/// A copy of bytes of `tensor`, on its device, as a row of `dtype`.
pub(super) fn run_of(tensor: &Tensor, run: Range<usize>, dtype: DType) -> Result<Tensor> {
    let mut copy = Tensor::uninit(&tensor.device(), dtype, [run.len() / dtype.size()])?;
    if !run.is_empty() {
        copy.buffer_mut()?.copy_from(0, tensor.buffer()?, run)?;
    }
    Ok(copy)
}

/// All of a tensor of `bytes` whose `runs` came from several ranks.
pub(super) fn assembled(bytes: usize, runs: &[Range<usize>], found: &[&Arc<Buffer>]) -> Result<Arc<Buffer>> {
    if let Some(all) = found.iter().find(|part| part.bytes() == bytes) {
        return Ok(Arc::clone(all));
    }
    let mut whole = Buffer::uninit(&Device::Cpu, bytes)?;
    for (run, part) in runs.iter().zip(found) {
        whole.copy_from(run.start, part, 0..part.bytes())?;
    }
    Ok(Arc::new(whole))
}
