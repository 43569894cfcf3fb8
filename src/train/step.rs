//! Loss and gradients of one step.

use super::plan::StepBatches;
use crate::autograd::{Gradients, Tensor, backward};
use crate::data::packing::{Capacity, pack};
use crate::device::Device;
use crate::error::Result;
use crate::models::llama::Llama;
use crate::nn::{Batch, DropoutSeed, Sequence, UnitHook};
use crate::ops::cross_entropy::IGNORE_INDEX;
use crate::parallel::Sharded;

/// What a step found.
pub(super) struct Differentiated {
    /// What each pass of this rank ran on, its number, and its part of the loss.
    passes: Vec<(usize, Batch, Tensor)>,
    pub gradients: Gradients,
    /// All tokens.
    pub tokens: usize,
    /// Tokens with a target.
    pub supervised: usize,
}

impl Differentiated {
    /// The bits of the loss of each pass of this rank, with its number. Waits for a GPU.
    pub(super) fn losses(&self) -> Result<Vec<(usize, u32)>> {
        self.passes.iter().map(|(number, _, loss)| Ok((*number, (scalar(loss)? as f32).to_bits()))).collect()
    }

    /// What the pass of that number ran on, if it is this rank's.
    pub(super) fn batch(&self, pass: usize) -> Option<&Batch> {
        self.passes.iter().find(|(number, ..)| *number == pass).map(|(_, batch, _)| batch)
    }
}

/// The sum of the losses of passes, which is the mean over all supervised tokens of a step, in the order of those, and the pass at which it ceased to be finite.
pub(super) fn fold(losses: &[(usize, u32)]) -> (f64, Option<usize>) {
    let mut sum = 0.0;
    for &(pass, bits) in losses {
        sum += f64::from(f32::from_bits(bits));
        if !sum.is_finite() {
            return (sum, Some(pass));
        }
    }
    (sum, None)
}

/// A forward and backward pass of a step.
struct Pass<'a> {
    sequences: Vec<&'a Sequence>,
    /// The rows of the step before it.
    first_row: usize,
}

/// Runs the batches of a step pass by pass and adds their gradients: what one large batch gives, within rounding.
/// Each supervised token weighs the same, whatever its batch, and dropout masks are those of the large batch. Among ranks
/// each runs its own passes, and what `hook` sent of their gradients is not in the result.
pub(super) fn differentiate(
    model: &Llama,
    batches: &StepBatches<'_>,
    seed: u64,
    step: u64,
    hook: &dyn UnitHook,
    sharded: Option<&Sharded>,
) -> Result<Differentiated> {
    let device = model.device();
    let (mut tokens, mut supervised) = (0, 0);
    let mut passes = Vec::new();
    for sequences in batches.iter().flat_map(|sequences| self::passes(sequences, &device)) {
        let first_row = tokens;
        tokens += sequences.iter().map(|sequence| sequence.input_ids.len()).sum::<usize>();
        supervised += sequences.iter().map(|sequence| sequence.supervised()).sum::<usize>();
        passes.push(Pass { sequences, first_row });
    }
    let (rank, ranks) = sharded.map_or((0, 1), |sharded| sharded.place());
    let mut found = Differentiated { passes: Vec::new(), gradients: Gradients::default(), tokens, supervised };
    for (round, passes) in passes.chunks(ranks).enumerate() {
        sharded.into_iter().for_each(|sharded| sharded.begin_round(passes.len()));
        let Some(Pass { sequences, first_row }) = passes.get(rank) else {
            sharded.map_or(Ok(()), |sharded| sharded.idle(true))?;
            continue;
        };
        let batch = Batch::new(sequences.iter().copied(), &device)?;
        let dropout = DropoutSeed { seed, step, first_row: *first_row as u64 };
        let loss = model.loss(&batch, supervised as f32, Some(dropout), hook)?;
        found.gradients.merge(backward(&loss)?)?;
        found.passes.push((round * ranks + rank, batch, loss.detach()));
    }
    Ok(found)
}

/// All that a step's launches and their sizes depend on, in a run: the lengths of the sequences of each batch, and which
/// of their tokens have targets.
pub(super) fn shape(batches: &StepBatches<'_>) -> Vec<Vec<Vec<bool>>> {
    let of = |sequence: &&Sequence| sequence.labels.iter().map(|&label| label != IGNORE_INDEX).collect();
    batches.iter().map(|sequences| sequences.iter().map(of).collect()).collect()
}

/// The checksum of a step's tokens and labels.
pub(super) fn checksum(batches: &StepBatches<'_>) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    for sequence in batches.iter().flatten() {
        checksum.update(bytemuck::cast_slice(&sequence.input_ids));
        checksum.update(bytemuck::cast_slice(&sequence.labels));
    }
    checksum.finalize()
}

/// Tokens of one forward and backward pass on the CPU: enough rows for its multiplications to reach their speed. More of
/// them would cost memory, which grows with the tokens of a pass, and win nothing.
const CPU_PASS: Capacity = Capacity::Tokens(512);

/// A batch in the passes that the device runs it in.
fn passes<'a>(sequences: &[&'a Sequence], device: &Device) -> Vec<Vec<&'a Sequence>> {
    match device {
        Device::Cpu => pack(sequences.iter().copied(), CPU_PASS),
        Device::Cuda(_) => vec![sequences.to_vec()],
    }
}

/// The value of a tensor of one element.
pub(super) fn scalar(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_vec::<f32>()?.first().copied().map_or(f64::NAN, f64::from))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::dtype::DType;
    use crate::io::adapter::{AdapterConfig, Modules};
    use crate::io::model::{ModelFiles, attach_new_adapter};
    use crate::nn::{Checkpoint, Plain};

    fn model() -> Llama {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gqa");
        ModelFiles::open(&path).unwrap().load(DType::F32, &Device::Cpu).unwrap()
    }

    /// A model with an adapter on all layers that drops much and adds something.
    fn adapted() -> Llama {
        let model = model();
        let target_modules = Modules::Pattern("all-linear".into());
        let config = AdapterConfig { r: 4, lora_dropout: 0.3, target_modules, ..AdapterConfig::default() };
        attach_new_adapter(&model, &config, 5).unwrap();
        for (_, parameter) in model.trained().into_iter().filter(|(name, _)| name.contains("lora_B")) {
            let shape = parameter.get().shape();
            let values: Vec<f32> = (0..shape.numel()).map(|i| (i * 37 % 101) as f32 / 500.0 - 0.1).collect();
            parameter.set(Tensor::from_slice(&Device::Cpu, shape, &values).unwrap().with_grad());
        }
        model
    }

    /// Sequences of 20 to 119 tokens, of which the first are masked in some, and all but two in others.
    fn sequences(count: usize) -> Vec<Sequence> {
        let sequence = |i: usize| {
            let length = 20 + i * 41 % 100;
            let masked = [0, length / 2, length - 2][i % 3];
            let input_ids: Vec<u32> = (0..length).map(|t| (3 + (i * 53 + t * 29) % 97) as u32).collect();
            let label = |(t, &id): (usize, &u32)| if t < masked { IGNORE_INDEX } else { id as i32 };
            Sequence { labels: input_ids.iter().enumerate().map(label).collect(), input_ids }
        };
        (0..count).map(sequence).collect()
    }

    /// Fails unless a step of these batches, pass by pass, finds what one forward and backward pass over all of it does.
    fn is_one_pass(model: &Llama, batches: &StepBatches<'_>, hook: &dyn UnitHook) {
        let mut found = differentiate(model, batches, 7, 3, hook, None).unwrap();
        let whole = Batch::new(batches.iter().flatten().copied(), &Device::Cpu).unwrap();
        let dropout = DropoutSeed { seed: 7, step: 3, first_row: 0 };
        let loss = model.loss(&whole, whole.supervised as f32, Some(dropout), hook).unwrap();
        let wanted = scalar(&loss).unwrap();
        let (mean, _) = fold(&found.losses().unwrap());
        assert!((mean / wanted - 1.0).abs() < 1e-6, "the loss is {mean}, not {wanted}");
        assert_eq!((found.supervised, found.tokens), (whole.supervised, whole.input_ids.shape().numel()));
        let mut gradients = backward(&loss).unwrap();
        for (name, parameter) in model.trained() {
            let [found, wanted] = [&mut found.gradients, &mut gradients]
                .map(|gradients| gradients.take(&parameter.get()).unwrap().to_vec::<f32>().unwrap());
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let apart = norm(&mut found.iter().zip(&wanted).map(|(f, w)| f - w)) / norm(&mut wanted.iter().copied());
            assert!(apart < 1e-5, "the gradient of {name} is {apart:e} away");
        }
    }

    #[test]
    fn passes_give_the_gradients_of_one() {
        let sequences = sequences(24);
        let all: Vec<&Sequence> = sequences.iter().collect();
        assert!(passes(&all, &Device::Cpu).len() >= 3);
        let full = model();
        full.train_weights().unwrap();
        for model in [adapted(), full] {
            is_one_pass(&model, &vec![all.clone()], &Plain);
            is_one_pass(&model, &vec![all[..9].to_vec(), all[9..11].to_vec(), all[11..].to_vec()], &Checkpoint);
        }
    }

    proptest! {
        #[test]
        fn passes_keep_sequences_whole_and_in_order(lengths in prop::collection::vec(1..1100usize, 0..20)) {
            let sequence = |&n: &usize| Sequence { input_ids: vec![1; n], labels: vec![1; n] };
            let sequences: Vec<Sequence> = lengths.iter().map(sequence).collect();
            let passes = passes(&sequences.iter().collect::<Vec<_>>(), &Device::Cpu);
            for pass in &passes {
                let tokens: usize = pass.iter().map(|sequence| sequence.input_ids.len()).sum();
                prop_assert!(tokens <= 512 || pass.len() == 1);
            }
            let whole = passes.concat();
            prop_assert!(whole.len() == sequences.len() && whole.iter().zip(&sequences).all(|(&a, b)| std::ptr::eq(a, b)));
        }
    }
}
