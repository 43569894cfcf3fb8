//! Chunk by chunk: logits, the loss of each row and the gradient of its logits, the two products of that gradient.

use super::{CHUNK_LOGITS, OP, Term, gradient_scale};
use crate::autograd::Tensor;
use crate::device::{Arg, Device, Kernels, Launch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels;
use crate::ops::elementwise::cast;
use crate::ops::embedding::embedding;
use crate::ops::gemm::cuda::{Matrix, Product, product};
use crate::ops::pack;

pub const KERNELS: Kernels = kernels!("cross_entropy");

/// The loss, and those of the gradients of each term's operands that are wanted, for an upstream gradient of 1.
pub fn forward(
    terms: &[Term],
    counted: &[(usize, usize)],
    normalizer: f32,
) -> Result<(Tensor, Vec<[Option<Tensor>; 2]>)> {
    let Some(first_term) = terms.first() else { return Err(Error::shape(OP, "no operands")) };
    let (device, classes) = (first_term.x.device(), first_term.weight.shape().rows());
    let size = chunk_rows(classes);
    let mut gradients = terms.iter().map(|term| Sums::new(term, counted.len(), size)).collect::<Result<Vec<_>>>()?;
    let mut losses = Tensor::uninit(&device, DType::F32, [counted.len()])?;

    // Where the dtypes differ all is done in f32.
    let mut dtypes = terms.iter().flat_map(|term| [term.x.dtype(), term.weight.dtype()]);
    let dtype = Some(first_term.x.dtype()).filter(|first| dtypes.all(|dtype| dtype == *first)).unwrap_or(DType::F32);
    let operands = terms.iter().map(|term| Ok([cast(&term.x, dtype)?, cast(&term.weight, dtype)?]));
    let operands = operands.collect::<Result<Vec<_>>>()?;
    let scale = gradient_scale(terms, normalizer);
    for (first, chunk) in (0..).step_by(size).zip(counted.chunks(size)) {
        let numbers = upload(&device, chunk.iter().map(|(row, _)| *row))?;
        let rows = operands.iter().map(|[x, _]| embedding(&numbers, x)).collect::<Result<Vec<_>>>()?;
        let products = rows.iter().zip(&operands);
        let products = products.map(|(rows, [_, w])| Ok([Matrix::new(OP, rows)?, Matrix::new(OP, w)?.t()]));
        let products = products.collect::<Result<Vec<_>>>()?;
        let logits = product(OP, &device, [chunk.len(), classes], DType::F32, 1.0, &products)?;
        let Some(dlogits) = row_losses((&mut losses, first), logits, chunk, scale, dtype)? else { continue };
        for ((gradients, rows), [_, w]) in gradients.iter_mut().zip(&rows).zip(&operands) {
            gradients.add(&dlogits, [rows, w], counted, first)?;
        }
    }
    let gradients = gradients.into_iter().zip(terms).map(Sums::finish).collect::<Result<_>>()?;
    Ok((sum(&losses, normalizer)?, gradients))
}

/// The gradients of a term's operands that are wanted, added up chunk by chunk.
struct Sums {
    dx: Option<Tensor>,
    dweight: Option<Tensor>,
}

impl Sums {
    /// Zeros where no row counts; else the first chunk writes over what is there.
    fn new(term: &Term, counted: usize, chunk: usize) -> Result<Self> {
        let ([want_dx, want_dweight], tensor) = (term.want, if counted == 0 { Tensor::zeros } else { Tensor::uninit });
        let empty =
            |want: bool, like: &Tensor, dtype| want.then(|| tensor(&like.device(), dtype, like.shape())).transpose();
        let sum = if counted <= chunk { term.weight.dtype() } else { DType::F32 };
        Ok(Self { dx: empty(want_dx, &term.x, term.x.dtype())?, dweight: empty(want_dweight, &term.weight, sum)? })
    }

    /// Adds the part of the chunk of `rows` that begins at the counted row number `first`.
    fn add(
        &mut self,
        dlogits: &Tensor,
        [rows, w]: [&Tensor; 2],
        counted: &[(usize, usize)],
        first: usize,
    ) -> Result<()> {
        let (device, dlogits) = (dlogits.device(), Matrix::new(OP, dlogits)?);
        if let Some(dx) = &mut self.dx {
            let terms = [[dlogits, Matrix::new(OP, w)?]];
            let drows = product(OP, &device, rows.shape(), dx.dtype(), 1.0, &terms)?;
            scatter(dx, &drows, counted, first)?;
        }
        if let Some(dweight) = &mut self.dweight {
            let (sum, terms) = (Matrix::output(OP, dweight)?, [[dlogits.t(), Matrix::new(OP, rows)?]]);
            Product { addend: (first > 0).then_some(sum), ..Product::new(&terms) }.run(&device, sum)?;
        }
        Ok(())
    }

    fn finish((Self { dx, dweight }, term): (Self, &Term)) -> Result<[Option<Tensor>; 2]> {
        Ok([dx, dweight.map(|dweight| cast(&dweight, term.weight.dtype())).transpose()?])
    }
}

/// `gradient * dy`, in place; NaN if `loss` is not finite.
pub fn scale(mut gradient: Tensor, dy: &Tensor, loss: &Tensor) -> Result<Tensor> {
    let (dtype, n) = (gradient.dtype(), gradient.shape().numel());
    let args = [gradient.as_output()?, dy.as_input()?, loss.as_input()?, Arg::I64(n as i64)];
    let kernel = format!("cross_entropy_bwd_{dtype}");
    KERNELS.launch_flat(&dy.device(), &kernel, n, 16 / dtype.size(), &args)?;
    Ok(gradient)
}

/// Rows of a chunk: whole tiles of the multiplication, and so many that the head's weight is not read for every few of
/// them, however large the vocabulary is. By shape alone: no bit of a gradient depends on the memory that is free.
fn chunk_rows(classes: usize) -> usize {
    const TILE: usize = 128;
    const LEAST: usize = 1024;
    (CHUNK_LOGITS / classes.max(1)).max(LEAST) / TILE * TILE
}

fn upload(device: &Device, numbers: impl Iterator<Item = usize>) -> Result<Tensor> {
    let numbers: Vec<u32> = numbers.map(|number| number as u32).collect();
    Tensor::from_slice(device, [numbers.len()], &numbers)
}

/// Writes the losses of a chunk's rows into `losses`, from a place on. Where `scale` is given, returns `scale` times the
/// gradient of their logits in `dtype`, if that is f32 in the place of the logits.
fn row_losses(
    (losses, first): (&mut Tensor, usize),
    mut logits: Tensor,
    chunk: &[(usize, usize)],
    scale: Option<f32>,
    dtype: DType,
) -> Result<Option<Tensor>> {
    let (device, v) = (logits.device(), logits.shape().last());
    let targets = upload(&device, chunk.iter().map(|(_, target)| *target))?;
    let (losses, rest) = (losses.as_output()?, [targets.as_input()?, Arg::size(first)?, Arg::size(v)?]);
    // As many threads as hold a row in registers, up to 512.
    let held = if v.is_multiple_of(4) { 16 } else { 4 };
    let block = v.div_ceil(held).next_multiple_of(32).clamp(32, 512);
    let launch = |kernel: &str, args: &[Arg]| {
        KERNELS.launch(&device, &Launch { kernel, grid: [chunk.len(), 1, 1], block, shared: 0, args })
    };
    let Some(scale) = scale else {
        launch("cross_entropy_fwd", &[&[losses, logits.as_input()?][..], &rest].concat())?;
        return Ok(None);
    };
    let mut other = (dtype != DType::F32).then(|| Tensor::uninit(&device, dtype, logits.shape())).transpose()?;
    let [from, to] = match &mut other {
        Some(dlogits) => [logits.as_input()?, dlogits.as_output()?],
        None => [logits.as_output()?; 2],
    };
    let args = [&[losses, to, from][..], &rest, &[Arg::F32(scale)]].concat();
    launch(&format!("cross_entropy_fwd_bwd_{dtype}"), &args)?;
    Ok(Some(other.unwrap_or(logits)))
}

/// Writes the rows of `dhidden` from the counted row number `first`, or the first of all, to the one after those of
/// `drows`: these, and zeros between them.
fn scatter(dhidden: &mut Tensor, drows: &Tensor, counted: &[(usize, usize)], first: usize) -> Result<()> {
    const NONE: usize = u32::MAX as usize;
    let (n, h) = (drows.shape().rows(), drows.shape().last());
    let row = |i: usize| counted.get(i).map_or(dhidden.shape().rows(), |(row, _)| *row);
    let (begin, end) = (if first == 0 { 0 } else { row(first) }, row(first + n));
    let mut places = vec![NONE; end - begin];
    (0..n).for_each(|place| places[row(first + place) - begin] = place);
    let (device, dtype) = (drows.device(), drows.dtype());
    let places = upload(&device, places.into_iter())?;
    let args = [dhidden.as_output()?, drows.as_input()?, places.as_input()?, Arg::size(begin)?, Arg::size(h)?];
    let (kernel, block) = (format!("cross_entropy_scatter_{dtype}"), pack::block(h, dtype));
    KERNELS.launch(&device, &Launch { kernel: &kernel, grid: [end - begin, 1, 1], block, shared: 0, args: &args })
}

/// The loss of all rows.
fn sum(losses: &Tensor, normalizer: f32) -> Result<Tensor> {
    let mut loss = Tensor::uninit(&losses.device(), DType::F32, [])?;
    let n = Arg::size(losses.shape().numel())?;
    let args = [loss.as_output()?, losses.as_input()?, n, Arg::F32(normalizer)];
    let launch = Launch { kernel: "cross_entropy_sum", grid: [1, 1, 1], block: 1024, shared: 0, args: &args };
    KERNELS.launch(&losses.device(), &launch)?;
    Ok(loss)
}
