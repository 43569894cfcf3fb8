//! AdamW over named parameters.

use std::collections::BTreeMap;

use crate::autograd::Tensor;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::adamw::{AdamWOptions, AdamWUpdate, adamw};

/// A parameter that a step updates, and what it updates it by.
#[derive(Debug)]
pub struct Trained<'a> {
    /// The parameter's name in the model.
    pub name: &'a str,
    /// Updated in place; f32. It stays the same leaf of the tape.
    pub parameter: &'a mut Tensor,
    /// The gradient, f32 or bf16.
    pub gradient: &'a Tensor,
}

/// [`adamw`](crate::ops::adamw::adamw) with its state.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// A schedule changes the learning rate between steps.
    pub options: AdamWOptions,
    step: u64,
    moments: BTreeMap<String, Moments>,
}

/// The running means of one parameter's gradient and of its square, f32.
#[derive(Clone, Debug)]
struct Moments {
    m: Tensor,
    v: Tensor,
}

impl AdamW {
    /// An optimizer that has made no step.
    pub fn new(options: AdamWOptions) -> Self {
        Self { options, step: 0, moments: BTreeMap::new() }
    }

    /// An optimizer that goes on from the [`state`](Self::state) after `step` steps.
    ///
    /// # Errors
    /// [`Error::Input`] if a tensor has another name than `state` gives or lacks its partner.
    pub fn resume(options: AdamWOptions, step: u64, state: impl IntoIterator<Item = (String, Tensor)>) -> Result<Self> {
        let mut halves: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
        for (key, tensor) in state {
            let (name, half) = match key.rsplit_once('.') {
                Some((name, "m")) => (name, 0),
                Some((name, "v")) => (name, 1),
                _ => return Err(Error::input(key, "is no optimizer state: its name ends neither in .m nor in .v")),
            };
            halves.entry(name.into()).or_default()[half] = Some(tensor);
        }
        let whole = |(name, halves): (String, [Option<Tensor>; 2])| match halves {
            [Some(m), Some(v)] => Ok((name, Moments { m, v })),
            _ => Err(Error::input(name, "has one half of its optimizer state, .m or .v, without the other")),
        };
        Ok(Self { options, step, moments: halves.into_iter().map(whole).collect::<Result<_>>()? })
    }

    /// How many steps it has made.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Its tensors, each parameter's as `NAME.m` and `NAME.v`, sorted by name. Drop them before the next step, or that
    /// copies what is still shared.
    pub fn state(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.moments.iter().flat_map(|(name, moments)| {
            [(format!("{name}.m"), moments.m.clone()), (format!("{name}.v"), moments.v.clone())]
        })
    }

    /// Makes one step: [`AdamW::update`] of all parameters, and [`AdamW::end_step`].
    ///
    /// # Errors
    /// As [`AdamW::update`].
    pub fn step(&mut self, trained: Vec<Trained<'_>>, gradient_scale: &Tensor) -> Result<()> {
        self.update(trained, gradient_scale)?;
        self.end_step();
        Ok(())
    }

    /// Counts the step whose parameters are all updated.
    pub fn end_step(&mut self) {
        self.step += 1;
    }

    /// Makes a part of a step: updates every parameter by `gradient_scale`, an f32 scalar on their device, times its gradient.
    ///
    /// Nothing is changed where anything is refused. Where `gradient_scale` is not finite the step counts, but parameters
    /// and state stay as they are. A parameter seen for the first time starts with a state of zeros.
    ///
    /// # Errors
    /// As [`adamw`](crate::ops::adamw::adamw); [`Error::Input`] if a name occurs twice.
    pub fn update(&mut self, mut trained: Vec<Trained<'_>>, gradient_scale: &Tensor) -> Result<()> {
        trained.sort_by_key(|trained| trained.name);
        if let Some(pair) = trained.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::input(pair[0].name, "is trained twice in one step"));
        }
        for Trained { name, parameter, .. } in &trained {
            if !self.moments.contains_key(*name) {
                let zeros = || Tensor::zeros(&parameter.device(), DType::F32, parameter.shape());
                self.moments.insert((*name).into(), Moments { m: zeros()?, v: zeros()? });
            }
        }
        // Both are sorted by name, so one walk over the moments meets every parameter.
        let mut moments = self.moments.iter_mut();
        let mut updates = Vec::with_capacity(trained.len());
        for Trained { name, parameter, gradient } in trained {
            if let Some((_, Moments { m, v })) = moments.find(|(key, _)| *key == name) {
                updates.push(AdamWUpdate { name, parameter, m, v, gradient });
            }
        }
        adamw(&mut updates, &self.options, self.step + 1, gradient_scale)
    }
}
