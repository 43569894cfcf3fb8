//! How what is trained is stored: an adapter in PEFT's format, or with `--full` the model's weights; in a checkpoint beside the
//! optimizer's state.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::weights::{Frozen, Trained};
use crate::autograd::Tensor;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::adapter::{self, Adapter};
use crate::io::checkpoint::{Stamps, stamp};
use crate::io::model::ModelFiles;
use crate::io::safetensors::{self, write_tensors};
use crate::io::slices::{self, Slice, Slices};
use crate::nn::Parameter;
use crate::ops::elementwise::cast;
use crate::optim::{AdamW, AdamWOptions};
use crate::parallel::Sharded;

/// The optimizer's file in a checkpoint.
const OPTIMIZER: &str = "optimizer.safetensors";

/// What a rank writes of a checkpoint.
pub(super) enum Part {
    /// Nothing, for rank 0 has all of it.
    None,
    /// All: the weights, and the optimizer's state.
    All(Vec<Tensor>, BTreeMap<String, Tensor>),
    /// Slices of both.
    Slices(Vec<Slice>),
}

impl Trained<'_> {
    /// What this rank is to write of a checkpoint. An adapter comes together at rank 0, so that its file is one that PEFT
    /// loads; of a model each rank writes what it holds.
    pub fn part(&self, optimizer: &AdamW) -> Result<Part> {
        let state: BTreeMap<String, Tensor> = optimizer.state().collect();
        let state = match self.parts() {
            Some(sharded) if self.adapter.is_none() => return self.slices(sharded, &state).map(Part::Slices),
            Some(sharded) => self.gathered_state(sharded, &state)?,
            None => state,
        };
        Ok(self.values()?.map_or(Part::None, |values| Part::All(values, state)))
    }

    fn slices(&self, sharded: &Sharded, state: &BTreeMap<String, Tensor>) -> Result<Vec<Slice>> {
        let mut slices = Vec::new();
        for (place, (run, (name, parameter))) in sharded.runs()?.into_iter().zip(&self.parameters).enumerate() {
            let (offset, shape) = (sharded.elements(place).start, parameter.get().shape());
            let moments = moments(name).map(|key| state.get(&key).cloned().map(|values| (key, values)));
            let held = run.map(|run| (name.clone(), run)).into_iter().chain(moments.into_iter().flatten());
            slices.extend(held.map(|(name, values)| Slice { name, offset, shape, values }));
        }
        Ok(slices)
    }

    /// The optimizer's state, whole at rank 0.
    fn gathered_state(&self, sharded: &Sharded, state: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
        let (mut whole, trained) = (BTreeMap::new(), sharded.trained());
        for half in 0..2 {
            let keys: Vec<String> = self.parameters.iter().map(|(name, _)| moments(name)[half].clone()).collect();
            let runs: Vec<Option<Tensor>> = keys.iter().map(|key| state.get(key).cloned()).collect();
            whole.extend(keys.into_iter().zip(sharded.first("optimizer", &trained, &runs)?.unwrap_or_default()));
        }
        Ok(whole)
    }

    /// The values of all that is trained, in its order, in one exchange where ranks have parts of them; none but at rank 0.
    fn values(&self) -> Result<Option<Vec<Tensor>>> {
        match self.sharded.as_ref().filter(|sharded| !sharded.keeps_weights()) {
            Some(sharded) => sharded.first("weights", &sharded.trained(), &sharded.runs()?),
            None if !self.is_first() => Ok(None),
            None => Ok(Some(self.parameters.iter().map(|(_, parameter)| parameter.get().detach()).collect())),
        }
    }

    /// Whether this is the rank that writes, or the only one.
    fn is_first(&self) -> bool {
        self.sharded.as_ref().is_none_or(|sharded| sharded.place().0 == 0)
    }

    /// The value of the weight of number `place`; none but at rank 0.
    fn value(&self, place: usize) -> Result<Option<Tensor>> {
        match &self.sharded {
            Some(sharded) => sharded.value(place),
            None => Ok(self.parameters.get(place).map(|(_, parameter)| parameter.get().detach())),
        }
    }

    /// Writes this rank's part of a checkpoint among `checkpoints`, into the `folder` that rank 0 has made. What the files of
    /// other ranks must be.
    pub fn write(&self, checkpoints: &Path, folder: Option<&Path>, part: Part) -> Result<Stamps> {
        match (part, folder) {
            (Part::Slices(slices), _) => {
                self.sharded.as_ref().map_or(Ok(Stamps::new()), |all| write_slices(all, checkpoints, folder, &slices))
            }
            (Part::All(values, state), Some(folder)) => {
                self.write_weights(folder, values)?;
                write_tensors(&folder.join(OPTIMIZER), &state)?;
                Ok(Stamps::new())
            }
            (Part::None, _) | (_, None) => Ok(Stamps::new()),
        }
    }

    /// Writes these values of the weights, f32, with the adapter's configuration.
    fn write_weights(&self, folder: &Path, values: Vec<Tensor>) -> Result<()> {
        let named = self.names().into_iter().zip(values);
        match &self.adapter {
            Some(frozen) => self.adapter(frozen, &named.collect()).write(folder),
            None => write_tensors(
                &folder.join(safetensors::MODEL),
                &named.map(|(name, value)| (name.to_string(), value)).collect(),
            ),
        }
    }

    fn adapter(&self, Frozen { config, whole }: &Frozen, named: &BTreeMap<&str, Tensor>) -> Adapter {
        let mut adapter = Adapter { config: config.clone(), whole: whole.clone(), ..Adapter::default() };
        let value = |name: String| named.get(&name[..]).cloned();
        for (name, _) in self.model.linears() {
            let [a, b] = ["lora_A", "lora_B"].map(|half| value(format!("base_model.model.{name}.{half}.weight")));
            adapter.tensors.extend(a.zip(b).map(|pair| (name, pair)));
        }
        self.model.visit_weights(&mut |name, _| {
            adapter.whole.extend(value(format!("base_model.model.{name}")).map(|value| (name, value)));
        });
        adapter
    }

    /// Writes what the run was for, a tensor of the model at a time. The configuration comes last: where it is, all is.
    pub fn write_result(&self, folder: &Path, files: &ModelFiles, dtype: DType) -> Result<()> {
        if self.adapter.is_some() {
            return self.values()?.map_or(Ok(()), |values| self.write_weights(folder, values));
        }
        let places: BTreeMap<&str, usize> = self.names().into_iter().zip(0..).collect();
        if !self.is_first() {
            return places.into_values().try_for_each(|place| self.value(place).map(drop));
        }
        let shape = |(name, parameter): &(String, &Parameter)| (name.clone(), (dtype, parameter.get().shape()));
        let layout = self.parameters.iter().map(shape).collect();
        safetensors::write(&folder.join(safetensors::MODEL), &layout, |name| {
            let value = places.get(name).map_or(Ok(None), |&place| self.value(place))?;
            cast(&value.ok_or_else(|| Error::input(name, "is not trained"))?, dtype)
        })?;
        files.write_beside_weights(folder, files.config(), dtype, None)
    }

    /// Whether [`Trained::write_result`] came to its end in this folder.
    pub fn is_result(&self, folder: &Path) -> bool {
        folder.join(if self.adapter.is_some() { adapter::CONFIG } else { "config.json" }).exists()
    }

    /// Takes the weights, or this rank's part of them, from a checkpoint that any number of ranks has written.
    pub fn read(&self, folder: &Path) -> Result<()> {
        let (stored, device) = (Slices::open(folder)?, self.model.device());
        for (place, (name, parameter)) in self.parameters.iter().enumerate() {
            let shape = parameter.get().shape();
            match self.sharded.as_ref().filter(|sharded| !sharded.keeps_weights()) {
                Some(sharded) => {
                    let run = stored.read(name, shape, sharded.elements(place))?;
                    sharded.set(place, run.to_device(&device)?);
                }
                None => {
                    let whole = stored.read(name, shape, 0..shape.numel())?;
                    parameter.set(whole.to_device(&device)?.reshape(shape)?.with_grad());
                }
            }
        }
        Ok(())
    }

    /// The optimizer, or this rank's part of it, after `step` steps, from a checkpoint that any number of ranks has written.
    pub fn read_optimizer(&self, folder: &Path, step: u64, options: AdamWOptions) -> Result<AdamW> {
        let (stored, device) = (Slices::open(folder)?, self.model.device());
        let mut state = Vec::new();
        for (place, (name, parameter)) in self.parameters.iter().enumerate() {
            let shape = parameter.get().shape();
            let part = self.parts().map(|sharded| sharded.elements(place));
            if part.as_ref().is_some_and(std::ops::Range::is_empty) {
                continue;
            }
            for key in moments(name) {
                let held = stored.read(&key, shape, part.clone().unwrap_or(0..shape.numel()))?.to_device(&device)?;
                let held = if part.is_some() { held } else { held.reshape(shape)? };
                state.push((key, held));
            }
        }
        AdamW::resume(options, step, state)
    }
}

/// The names of a weight's two moments.
fn moments(name: &str) -> [String; 2] {
    ["m", "v"].map(|half| format!("{name}.{half}"))
}

/// Writes this rank's slices into a file of its own, in the `folder` that rank 0 has made among `checkpoints`, and learns what
/// each rank's file must be. Where one of them could not be written none is left, and all ranks fail.
fn write_slices(ranks: &Sharded, checkpoints: &Path, folder: Option<&Path>, slices: &[Slice]) -> Result<Stamps> {
    let ((rank, size), communicator) = (ranks.place(), ranks.communicator());
    let name = folder.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let folder = checkpoints.join(communicator.broadcast("the place of the checkpoint", name.as_ref())?);
    let file = |rank: usize| format!("slices-{:05}-of-{size:05}.safetensors", rank + 1);
    let path = folder.join(file(rank));
    let written = slices::write(&path, slices).and_then(|()| stamp(&path));
    let said = written.as_ref().map(Clone::clone).map_err(Error::to_string);
    let said: Vec<std::result::Result<_, String>> = communicator.gather("the files of the checkpoint", &said)?;
    let mut stamps = Stamps::new();
    let mut failed = None;
    for (rank, said) in said.into_iter().enumerate() {
        match said {
            Ok(stamp) => drop(stamps.insert(file(rank), stamp)),
            Err(detail) => drop(failed.get_or_insert(format!("rank {rank}: {detail}"))),
        }
    }
    let Some(detail) = failed else { return Ok(stamps) };
    if rank == 0 {
        let _ = fs::remove_dir_all(&folder);
    }
    communicator.gather("the end of the checkpoint", &())?;
    Err(written.err().unwrap_or_else(|| Error::file(checkpoints, detail)))
}
