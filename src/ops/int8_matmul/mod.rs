//! Linear layers with int8 weights: LLM.int8(), a row at a time.

mod cpu;
mod cuda;

use std::sync::Arc;

pub(crate) use cuda::{KERNELS, QUANTIZE_KERNELS};
pub(in crate::ops) use cuda::{Rows as GpuRows, backward_x as gpu_backward_x};

use super::check;
use super::gemm::int8::{self, Addend, Rows, Term};
use super::gemm::{self, Matrix, product, with_last};
use super::weight::{Floats, Quantized, Weight};
use crate::autograd::{Tensor, record};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Shape;

const OP: &str = "int8_matmul";

/// The most inputs of a layer: sums of as many products of codes fit an i32.
const MOST_INPUTS: usize = i32::MAX as usize / (127 * 128);

/// How the gradient of a layer's input is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Backward {
    /// From the gradient in int8: its rows are quantized as activations are.
    #[default]
    Int8,
    /// From the weight as floats.
    Dequant,
}

/// How a layer with an int8 weight is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Method {
    /// Elements of the input of this magnitude or more are multiplied as floats; 0: none are.
    pub threshold: f32,
    /// How the gradient of the input is made.
    pub backward: Backward,
}

impl Method {
    /// Refuses a threshold that no element could be held against.
    pub(in crate::ops) fn refuse_bad_threshold(&self) -> Result<()> {
        if self.threshold >= 0.0 {
            return Ok(());
        }
        Err(Error::input(OP, format!("the threshold must be 0 or more, got {}", self.threshold)))
    }
}

impl Default for Method {
    fn default() -> Self {
        Self { threshold: 6.0, backward: Backward::Int8 }
    }
}

/// A frozen weight `[N, K]` in int8, each row with its absmax.
#[derive(Clone, Debug)]
pub struct Int8 {
    /// On a GPU with rows of whole 16 bytes, zeros behind the last column.
    codes: Tensor,
    columns: usize,
    /// On the CPU.
    absmax: Tensor,
    /// `absmax / 127`, where the codes are.
    scales: Tensor,
    method: Method,
}

impl Int8 {
    /// The weight `codes * absmax / 127`, of `codes` i8 `[N, K]` and `absmax` f32 `[N]` on the CPU.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit each other, or K is so large that sums would not fit an i32;
    /// [`Error::DType`] if they are of other types; [`Error::Input`] if an absmax is negative or not finite.
    pub fn new(codes: Tensor, absmax: Tensor, method: Method) -> Result<Self> {
        let &[n, k] = codes.dims() else {
            return Err(Error::shape(OP, format!("codes must be [N, K], got {}", codes.shape())));
        };
        check::dtype(OP, "codes", &codes, DType::I8)?;
        check::dtype(OP, "absmax", &absmax, DType::F32)?;
        check::shape(OP, "absmax", &absmax, [n])?;
        if k > MOST_INPUTS {
            return Err(Error::shape(
                OP,
                format!("sums of {k} products may not fit an i32; K is {MOST_INPUTS} at most"),
            ));
        }
        let host = absmax.to_vec::<f32>()?;
        if let Some((row, bad)) = host.iter().enumerate().find(|(_, absmax)| !(absmax.is_finite() && **absmax >= 0.0)) {
            return Err(Error::input(OP, format!("the scale of row {row} is {bad}, which no weight has")));
        }
        let scales: Vec<f32> = host.iter().map(|absmax| absmax / 127.0).collect();
        let scales = Tensor::from_slice(&Device::Cpu, [n], &scales)?;
        Ok(Self { codes, columns: k, absmax, scales, method })
    }

    /// The nearest int8 weight to `weight`, f32 or bf16 `[N, K]` on the CPU.
    ///
    /// # Errors
    /// [`Error::Shape`] as [`Int8::new`]; [`Error::Input`] if an element is not finite.
    pub fn quantize(weight: &Tensor, method: Method) -> Result<Self> {
        if weight.dims().len() != 2 {
            return Err(Error::shape(OP, format!("weight must be [N, K], got {}", weight.shape())));
        }
        check::on_device(OP, "weight", weight, &Device::Cpu)?;
        let (codes, absmax) = cpu::quantize_weight(weight)?;
        Self::new(codes, absmax, method)
    }

    /// The weight on a GPU, from the CPU, or on the CPU where it is.
    ///
    /// # Errors
    /// Those of the device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let codes = match device {
            Device::Cpu => self.codes.to_device(device)?,
            Device::Cuda(_) => cuda::with_whole_rows(&self.codes)?.to_device(device)?,
        };
        Ok(Self { codes, scales: self.scales.to_device(device)?, ..self.clone() })
    }

    /// The weight with `f` of its codes and of their scales in their place.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { codes: f(&self.codes)?, scales: f(&self.scales)?, ..self.clone() })
    }

    /// `[N, K]`.
    pub fn shape(&self) -> Shape {
        [self.codes.shape().rows(), self.columns].into()
    }

    /// The integers, i8 `[N, K]`; on a GPU with zeros behind each row up to whole 16 bytes.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// The largest magnitude of each row, f32 `[N]`: what bitsandbytes calls SCB.
    pub fn absmax(&self) -> &Tensor {
        &self.absmax
    }

    /// How it is multiplied.
    pub fn method(&self) -> Method {
        self.method
    }

    /// What each row's codes are multiplied by, if it is on the CPU.
    pub(in crate::ops) fn scales(&self) -> Result<&[f32]> {
        self.scales.slice()
    }

    /// The weight in floats of `dtype`, on the CPU.
    ///
    /// # Errors
    /// [`Error::DType`] if `dtype` is none of floats.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        cpu::dequantize(self, dtype)
    }
}

/// The rows of an activation as integers on a GPU, made by the op that made the activation. Cloning shares the memory.
#[derive(Clone, Debug)]
pub struct MadeRows(pub(in crate::ops) Arc<GpuRows>);

/// The rows of `x` `[.., K]` as integers and outliers, for products with weights of that `threshold`.
///
/// Each row has the scale `max |x| / 127` over its elements below the threshold in magnitude; those are rounded, half to
/// even, to multiples of it. Elements that reach the threshold, and those that are not a number, stay floats. Without a
/// threshold (0) all are rounded, and a row that is not finite has a scale that is not a number.
///
/// # Errors
/// [`Error::DType`] if `x` is not of floats.
pub(in crate::ops) fn quantize_rows(x: &Tensor, threshold: f32) -> Result<Rows> {
    cpu::quantize_rows(x, None, threshold)
}

/// The rows of `dy` `[.., N]`, each element times the scale of its column's row in `weight`, as integers.
///
/// # Errors
/// [`Error::DType`] if `dy` is not of floats.
pub(in crate::ops) fn quantize_gradient(dy: &Tensor, weight: &Int8) -> Result<Rows> {
    cpu::quantize_rows(dy, Some(weight.scales()?), 0.0)
}

/// `x · weightᵀ`: a linear layer whose weight is int8, LLM.int8() a row at a time.
///
/// A row of `x` is multiplied as integers `q = round(x · 127 / absmax)` with `absmax` over its elements below the threshold;
/// the others, outliers, as floats: `y = s_x · s_w · Σ q · w + Σ x · s_w · w`. What a row gives depends on no other row.
///
/// - Shapes: `x` `[.., K]`, `weight` `[N, K]` → `[.., N]`
/// - Dtypes: `x` f32 or bf16, the result alike; sums of integers in i32, exact, the rest in f32, rounded once
/// - Gradients: `x`: `dy · s_w` as integers times the weight's, or with [`Backward::Dequant`] `dy` times the weight as
///   floats; saves `weight`
/// - Source: Dettmers et al. 2022, <https://arxiv.org/abs/2208.07339>, with bitsandbytes' treatment of one row for each row
///
/// # Errors
/// [`Error::Shape`] if `x` is not `[.., K]`; [`Error::DType`] if it is not of floats; [`Error::Input`] if the threshold is
/// not a number or negative; [`Error::Device`] if they are on several devices.
pub fn int8_matmul(x: &Tensor, weight: &Int8) -> Result<Tensor> {
    let (n, k) = (weight.shape().rows(), weight.shape().last());
    if x.shape().last() != k {
        return Err(Error::shape(OP, format!("x must be [.., {k}], got {}", x.shape())));
    }
    check::float(OP, x.dtype())?;
    check::same_device(OP, "weight", weight.codes(), x)?;
    weight.method().refuse_bad_threshold()?;
    let shape = with_last(OP, x.shape(), n)?;
    let y = match x.device() {
        Device::Cpu => {
            let rows = quantize_rows(x, weight.method().threshold)?;
            let terms = [Term::forward(&rows, weight.codes(), weight.scales()?)?];
            int8::product(OP, shape, x.dtype(), &terms, Addend::default())?
        }
        Device::Cuda(_) => cuda::forward(x, weight, shape)?,
    };
    let (weight, shape) = (weight.clone(), x.shape());
    let [y] = record([x], [y], move |[dy]| Ok([dy.map(|dy| backward_x(&dy, weight, shape)).transpose()?]));
    Ok(y)
}

fn backward_x(dy: &Tensor, weight: Int8, shape: Shape) -> Result<Tensor> {
    if let Device::Cuda(_) = dy.device() {
        let mut dx = Tensor::uninit(&dy.device(), dy.dtype(), shape)?;
        cuda::backward_x(dy, &weight, None, gemm::cuda::Matrix::output(OP, &mut dx)?)?;
        return Ok(dx);
    }
    match weight.method().backward {
        Backward::Int8 => {
            let rows = quantize_gradient(dy, &weight)?;
            int8::product(OP, shape, dy.dtype(), &[Term::backward(&rows, weight.codes())?], Addend::default())
        }
        Backward::Dequant => {
            let weight = Arc::new(Quantized::Int8(weight));
            let floats = Floats::of(Weight::Quantized(&weight))?;
            product(OP, shape, dy.dtype(), &[[Matrix::new(OP, dy)?, floats.matrix(OP)?]])
        }
    }
}
