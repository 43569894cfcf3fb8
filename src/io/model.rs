//! A model's files, whatever their format: a Hugging Face folder, with weights in safetensors or PyTorch's files, or a GGUF.

mod names;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use names::{Names, Renamed};

use super::WeightSource;
use super::adapter::{Adapter, AdapterConfig};
use super::companions::Own;
use super::config::{self, read_config, read_quantization, write_config};
use super::gguf::Gguf;
use super::mmap::MappedFile;
use super::quantized::{Choice, Quantization, Scheme, Widened, located};
use super::safetensors::Checkpoint;
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::models::llama::{Llama, LlamaConfig, Load};
use crate::nn::{Lora, LoraInit, Parameter, Weight};
use crate::ops::Packed;
use crate::ops::int8_matmul::Method;
use crate::ops::weight::Quantized;
use crate::shape::Shape;

/// An opened model: its shape is known, its weights are still in the file.
pub struct ModelFiles {
    path: PathBuf,
    /// With the adapter on it, where there is one.
    config: LlamaConfig,
    pub(super) weights: Weights,
    names: Names,
    adapter: Option<Adapted>,
    /// How the files hold linear layers, if not as floats.
    stored: Option<Quantization>,
    /// How they are held in memory.
    quantization: Quantization,
    pub(super) own: Own,
}

struct Adapted {
    adapter: Adapter,
    /// The model without it.
    base: LlamaConfig,
}

pub(super) enum Weights {
    Folder(Checkpoint),
    Gguf(Gguf),
}

impl Weights {
    fn source(&self) -> &dyn WeightSource {
        match self {
            Self::Folder(checkpoint) => checkpoint,
            Self::Gguf(gguf) => gguf,
        }
    }
}

impl ModelFiles {
    /// Opens a folder with a config.json, or a GGUF file, whatever its name.
    ///
    /// # Errors
    /// [`Error::File`] if it is neither, or holds what is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let (checkpoint, config) = (Checkpoint::open(path)?, read_config(path)?);
            let files = Self::new(path, config, Weights::Folder(checkpoint))?;
            return Ok(files.stored_as(read_quantization(path)?));
        }
        let has_name = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if has_name || MappedFile::open(path)?.bytes().starts_with(b"GGUF") {
            let gguf = Gguf::open(path)?;
            if gguf.is_adapter() {
                let error = Error::file(path, "is an adapter, not a model");
                return Err(error.with_hint("name its base model with --model, and its PEFT folder with --adapter"));
            }
            return Self::new(path, gguf.config()?, Weights::Gguf(gguf));
        }
        Err(Error::file(path, "neither a model folder nor a GGUF file")
            .with_hint("give the folder, which has the model's config.json and tokenizer.json too"))
    }

    fn new(path: &Path, config: LlamaConfig, weights: Weights) -> Result<Self> {
        let names = Names::of(weights.source(), config.tie_word_embeddings)?;
        let (path, quantization) = (path.into(), Quantization::default());
        Ok(Self { path, config, weights, names, adapter: None, stored: None, quantization, own: Own::default() })
    }

    /// The model with the adapter in `folder` on it, and with the tokenizer and the chat template that are there.
    ///
    /// # Errors
    /// Those of [`Adapter::read`].
    pub fn with_adapter(self, folder: &Path) -> Result<Self> {
        let base = self.base().clone();
        let adapter = Adapter::read(folder, &base)?;
        let (config, own) = (adapter.model(&base), Own::of(folder));
        Ok(Self { config, adapter: Some(Adapted { adapter, base }), own, ..self })
    }

    fn stored_as(self, stored: Option<Quantization>) -> Self {
        Self { stored, quantization: stored.unwrap_or_default(), ..self }
    }

    /// These files with their frozen linear layers held in memory as `choice` says, and where that is silent as the files do.
    ///
    /// # Errors
    /// [`Error::File`] if the files hold them quantized in another way.
    pub fn quantized(self, choice: &Choice) -> Result<Self> {
        let quantization = match (choice.scheme, &self.stored) {
            (None, None) | (Some(Scheme::None), _) => Quantization::default(),
            (None, Some(stored)) => *stored,
            (Some(scheme), None) => Quantization { scheme, double: choice.double, ..Quantization::default() },
            (Some(scheme), Some(stored)) if scheme == stored.scheme && (stored.double || !choice.double) => *stored,
            (Some(scheme), Some(stored)) => {
                let wanted = Quantization { scheme, double: choice.double, ..Quantization::default() }.in_words();
                let detail = format!("holds its weights in {}, not {wanted}", stored.in_words());
                return Err(Error::file(&self.path, detail).with_hint(
                    "quantize the model that it was made from; without --quantize it is taken as it is, with none as floats",
                ));
            }
        };
        let method = Method {
            threshold: choice.threshold.unwrap_or(quantization.method.threshold),
            backward: choice.backward.unwrap_or_default(),
        };
        Ok(Self { quantization: Quantization { method, ..quantization }, ..self })
    }

    /// How its frozen linear layers are held in memory.
    pub fn quantization(&self) -> &Quantization {
        &self.quantization
    }

    /// How the files hold linear layers, if not as floats.
    pub fn stored(&self) -> Option<&Quantization> {
        self.stored.as_ref()
    }

    /// The adapter that is on it.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref().map(|adapted| &adapted.adapter)
    }

    /// The model's shape without the adapter.
    pub fn base(&self) -> &LlamaConfig {
        self.adapter.as_ref().map_or(&self.config, |adapted| &adapted.base)
    }

    /// Where the model lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// What a person should know of how the config is read.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read any more.
    pub fn notes(&self) -> Result<Vec<String>> {
        let of_names = self.names.note();
        let of_config = match &self.weights {
            Weights::Folder(_) => config::notes(&self.path, &self.config)?,
            Weights::Gguf(_) => config::window_note(&self.config).into_iter().collect(),
        };
        Ok(of_names.into_iter().chain(of_config).collect())
    }

    /// The weights, tensor by tensor, under Llama's own names, as floats.
    pub fn weights(&self) -> impl WeightSource + '_ {
        self.widened()
    }

    fn widened(&self) -> Widened<Renamed<'_>> {
        Widened::new(Renamed { weights: self.weights.source(), names: &self.names })
    }

    /// The tokens at which generation stops: those that the config names and those that the tokenizer knows. One that
    /// cannot be read knows none.
    pub fn ends(&self) -> Vec<u32> {
        let of_model = &self.config.eos_token_ids;
        let mut ends = self.tokenizer().map_or_else(|_| of_model.clone(), |tokenizer| tokenizer.ends(of_model));
        ends.retain(|&id| (id as usize) < self.config.vocab_size);
        ends
    }

    /// Writes `config` for weights in `dtype`, those of linear layers as `quantization` says, with all tokens at which
    /// generation stops, and what else goes with the weights, the tokenizer above all, into `folder`. `config.json` comes
    /// last: where it is, all is.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be read or written.
    pub fn write_beside_weights(
        &self,
        folder: &Path,
        config: &LlamaConfig,
        dtype: DType,
        quantization: Option<&Quantization>,
    ) -> Result<()> {
        self.write_companions(folder)?;
        let config = LlamaConfig { eos_token_ids: self.ends(), ..config.clone() };
        write_config(folder, &config, dtype, quantization)
    }

    /// Loads the model, its adapter as trained parameters.
    ///
    /// # Errors
    /// [`Error::File`] if the weights are not those that the config asks for.
    pub fn load(&self, dtype: DType, device: &Device) -> Result<Llama> {
        self.load_as(dtype, device, false, None)
    }

    /// [`load`](Self::load) of a model whose linear layers are never trained: on the CPU they are packed for its products once.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_frozen(&self, dtype: DType, device: &Device) -> Result<Llama> {
        self.load_as(dtype, device, packs(dtype, device), None)
    }

    /// [`load_frozen`](Self::load_frozen), or where it `trains` all weights [`load`](Self::load), with what `keep` makes of
    /// each weight, by its name, as soon as it is there.
    ///
    /// # Errors
    /// As [`load`](Self::load); what `keep` returns.
    pub fn load_kept(&self, dtype: DType, device: &Device, trains: bool, keep: &mut Keep<'_>) -> Result<Llama> {
        self.load_as(dtype, device, !trains && packs(dtype, device), Some(keep))
    }

    fn load_as(&self, dtype: DType, device: &Device, packs: bool, keep: Option<&mut Keep<'_>>) -> Result<Llama> {
        let mut load = Loading { files: self, weights: self.widened(), dtype, device, packs, asked: HashSet::new() };
        let model = match keep {
            None => Llama::new(self.config.clone(), dtype, &mut load)?,
            Some(keep) => Llama::new(self.config.clone(), dtype, &mut Kept { load: &mut load, keep })?,
        };
        let mut asked = load.asked;
        if self.base().tie_word_embeddings {
            asked.remove(super::LM_HEAD);
        }
        super::refuse_leftovers(&self.weights(), &asked)?;
        self.adapter().map_or(Ok(()), |adapter| attach(&model, adapter))?;
        Ok(model)
    }
}

/// Whether the weights of frozen linear layers are packed.
fn packs(dtype: DType, device: &Device) -> bool {
    dtype == DType::F32 && matches!(device, Device::Cpu)
}

/// What becomes of a weight once it is loaded.
pub type Keep<'a> = dyn FnMut(&str, Weight) -> Result<Weight> + 'a;

/// A model of whose weights something else is kept.
struct Kept<'a, 'k> {
    load: &'a mut dyn Load,
    keep: &'a mut Keep<'k>,
}

impl Load for Kept<'_, '_> {
    fn tensor(&mut self, name: &str, shape: Shape) -> Result<Tensor> {
        let kept = (self.keep)(name, self.load.tensor(name, shape)?.into())?;
        let none = || Error::shape("model", format!("{name} stays in floats"));
        kept.parameter().map(Parameter::get).ok_or_else(none)
    }

    fn linear(&mut self, name: &str, shape: Shape) -> Result<Weight> {
        let weight = self.load.linear(name, shape)?;
        (self.keep)(name, weight)
    }
}

/// A model on its way from its files to a device.
struct Loading<'a> {
    files: &'a ModelFiles,
    weights: Widened<Renamed<'a>>,
    dtype: DType,
    device: &'a Device,
    /// Whether linear layers of floats are packed.
    packs: bool,
    /// The weights that it was made of so far.
    asked: HashSet<String>,
}

impl Loading<'_> {
    fn read(&mut self, name: &str, shape: Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        self.asked.insert(name.to_string());
        match &self.files.adapter {
            Some(Adapted { adapter, base }) => adapter.weight(&self.weights, base, name, shape, dtype, device),
            None => self.weights.load(name, shape, dtype, device),
        }
    }

    /// Refuses a weight whose codes are not what the config, or --quantize, says of all.
    fn refuse_other_scheme(&self, name: &str, stored: &Quantized) -> Result<()> {
        let (found, wanted) = (Scheme::of(stored), self.files.quantization.scheme);
        if found == wanted {
            return Ok(());
        }
        Err(Error::file(self.weights.file(name), format!("tensor {name} is in {found}, not {wanted}"))
            .with_hint("the quantization_config in config.json, and --quantize, must say what it is"))
    }
}

impl Load for Loading<'_> {
    /// Beside quantized layers the tables of tokens are bf16 whatever the activations are: they are most of what is left.
    fn tensor(&mut self, name: &str, shape: Shape) -> Result<Tensor> {
        let is_table = [super::EMBEDDING, super::LM_HEAD].contains(&name);
        let dtype = if is_table && self.files.quantization.is_some() { DType::Bf16 } else { self.dtype };
        self.read(name, shape, dtype, self.device)
    }

    fn linear(&mut self, name: &str, shape: Shape) -> Result<Weight> {
        let quantization = &self.files.quantization;
        let is_whole = self.files.adapter().is_some_and(|adapter| adapter.whole.contains_key(name));
        if is_whole || !quantization.is_some() {
            let weight = self.tensor(name, shape)?;
            return if self.packs && !is_whole { Packed::of(&weight).map(Weight::from) } else { Ok(weight.into()) };
        }
        if let Some(stored) = self.weights.quantized(name, shape, quantization.method)? {
            self.asked.insert(name.to_string());
            self.refuse_other_scheme(name, &stored)?;
            return stored.to_device(self.device).map(Weight::from);
        }
        if self.files.stored.is_some() {
            return self.tensor(name, shape).map(Weight::from); // one that was left out
        }
        let weight = self.read(name, shape, DType::F32, &Device::Cpu)?;
        let quantized = quantization.quantize(&weight).map_err(|error| located(&self.weights, name, &error))?;
        match quantized {
            Some(quantized) => quantized.to_device(self.device).map(Weight::from),
            None => weight.to_device(self.device).map(Weight::from),
        }
    }
}

/// Puts `adapter` on the layers that it names, as trained parameters: its LoRAs, and the weights that it has whole and trains.
fn attach(model: &Llama, adapter: &Adapter) -> Result<()> {
    let device = model.device();
    let trained = |tensor: &Tensor| Ok::<_, Error>(tensor.to_device(&device)?.with_grad());
    for (site, (name, linear)) in model.linears().into_iter().enumerate() {
        let Some((a, b)) = adapter.tensors.get(&name) else { continue };
        let [a, b] = [Parameter::new(trained(a)?), Parameter::new(trained(b)?)];
        let (scaling, dropout) = (adapter.config.scaling(&name)? as f32, adapter.config.lora_dropout as f32);
        linear.attach(Lora { a, b, scaling, dropout, site: site as u32 })?;
    }
    let mut weights = Vec::new();
    model.visit_weights(&mut |name, parameter| weights.push((name, parameter)));
    for (name, parameter) in weights {
        if let Some(whole) = adapter.whole.get(&name)
            && adapter.config.trains(&name)?
        {
            parameter.set(trained(whole)?);
        }
    }
    Ok(())
}

/// Puts a fresh adapter, as `config` describes it, on the model's linear layers.
///
/// # Errors
/// [`Error::Input`] if `config` fits none of them.
pub fn attach_new_adapter(model: &Llama, config: &AdapterConfig, seed: u64) -> Result<()> {
    let targets: HashSet<String> = config.modules(model.config())?.into_iter().map(|(name, _)| name).collect();
    for (site, (name, linear)) in model.linears().into_iter().enumerate() {
        if targets.contains(&name) {
            let (r, scaling) = (config.rank(&name)?, config.scaling(&name)? as f32);
            let init = LoraInit { r, scaling, dropout: config.lora_dropout as f32, seed };
            linear.attach(Lora::new(init, site as u32, linear.weight.shape(), &model.device())?)?;
        }
    }
    Ok(())
}
