//! Launches over lists of work, which are made of the segments alone: a block a head of some query rows.

use super::{Heads, Inputs, OP, Segment, Segments};
use crate::autograd::Tensor;
use crate::device::{Arg, Device, Kernels, Launch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels;

pub const KERNELS: Kernels = kernels!("attention");

/// Columns of a head that the kernels on bf16 are compiled for; others are padded to the next.
const WIDTHS: [usize; 3] = [64, 128, 256];

fn width(heads: Heads) -> Result<usize> {
    let d = heads.head_dim;
    let refused = || Error::shape(OP, format!("on a GPU head_dim must be a multiple of 8 up to 256, got {d}"));
    WIDTHS.into_iter().find(|&width| d <= width && d.is_multiple_of(8)).ok_or_else(refused)
}

/// `out` like `q`, `lse` `[NH, query rows]`.
pub fn forward(inputs: &Inputs) -> Result<(Tensor, Tensor)> {
    let width = width(inputs.heads)?;
    let few = |segment: &Segment| segment.queries.len() * inputs.heads.group() <= DECODE_ROWS;
    if inputs.q.dtype() == DType::Bf16 && inputs.segments.0.iter().all(few) {
        return decode(inputs, width);
    }
    let Inputs { q, k, v, segments, heads, scale } = inputs;
    let (device, dtype, rows) = (q.device(), q.dtype(), q.shape().rows());
    let nh = heads.num_attention_heads;
    let mut out = Tensor::uninit(&device, dtype, q.shape())?;
    let mut lse = Tensor::uninit(&device, DType::F32, [nh, rows])?;
    let Forward { kernel, block_rows, block, shared } = Forward::new(dtype, *heads)?;
    let work = work(segments, block_rows);
    let list = upload(&device, &work)?;
    let [outputs, inputs] =
        [&[out.as_output()?, lse.as_output()?][..], &[q.as_input()?, k.as_input()?, v.as_input()?, list.as_input()?]];
    let args = [outputs, inputs, &[Arg::I64(rows as i64)], &sizes(*heads)?, &[Arg::F32(*scale)]].concat();
    let grid = [work.len() * nh, 1, 1];
    KERNELS.launch(&device, &Launch { kernel: &kernel, grid, block, shared, args: &args })?;
    Ok((out, lse))
}

/// Rows of a tile of the decode kernel: queries, each with all heads of a group.
const DECODE_ROWS: usize = 16;
/// Keys of a part of a sequence, at least, and parts, at most.
const PART_KEYS: usize = 128;
const MOST_PARTS: usize = 64;

/// In how many parts [`decode`] takes the keys of the longest sequence.
pub fn decode_parts(keys: usize) -> usize {
    keys.div_ceil(PART_KEYS).min(MOST_PARTS)
}

/// [`forward`] of a few queries a sequence, which reads keys and values once for a group of heads.
fn decode(inputs: &Inputs, width: usize) -> Result<(Tensor, Tensor)> {
    let Inputs { q, k, v, segments, heads, scale } = inputs;
    let (device, rows, columns) = (q.device(), q.shape().rows(), q.shape().last());
    let Heads { num_attention_heads: nh, num_key_value_heads: nkv, .. } = *heads;
    let [heads, kv_heads, d] = sizes(*heads)?;
    let work = work(segments, usize::MAX);
    let list = upload(&device, &work)?;
    let parts = decode_parts(most_keys(&work));
    let mut part_out = Tensor::uninit(&device, DType::F32, [parts, rows, columns])?;
    let mut part_lse = Tensor::uninit(&device, DType::F32, [parts, rows, nh])?;
    let outputs = [part_out.as_output()?, part_lse.as_output()?];
    let tensors = [q.as_input()?, k.as_input()?, v.as_input()?, list.as_input()?];
    let numbers = [Arg::I64(rows as i64), heads, kv_heads, d, Arg::size(parts)?, Arg::F32(*scale)];
    let warps = if width == 256 { 2 } else { 4 };
    let shared = 2 * width * DECODE_ROWS * (1 + 4 * warps);
    let (kernel, grid) = (format!("attention_decode_d{width}_bf16"), [work.len() * nkv, parts.div_ceil(warps), 1]);
    let args = [&outputs[..], &tensors, &numbers].concat();
    KERNELS.launch(&device, &Launch { kernel: &kernel, grid, block: 32 * warps, shared, args: &args })?;

    let mut out = Tensor::uninit(&device, q.dtype(), q.shape())?;
    let mut lse = Tensor::uninit(&device, DType::F32, [nh, rows])?;
    let tensors = [out.as_output()?, lse.as_output()?, part_out.as_input()?, part_lse.as_input()?, list.as_input()?];
    let args = [&tensors[..], &[Arg::I64(rows as i64), heads, d, Arg::size(parts)?]].concat();
    let (kernel, grid) = ("attention_decode_sum_bf16", [work.len(), columns.div_ceil(4 * 256), 1]);
    KERNELS.launch(&device, &Launch { kernel, grid, block: 256, shared: 0, args: &args })?;
    Ok((out, lse))
}

/// The launch contract of a forward kernel.
struct Forward {
    kernel: String,
    block_rows: usize,
    block: usize,
    shared: usize,
}

impl Forward {
    fn new(dtype: DType, heads: Heads) -> Result<Self> {
        let width = width(heads)?;
        if dtype == DType::F32 {
            let shared = 3 * 32 * (heads.head_dim + 4) * 4;
            return Ok(Self { kernel: "attention_fwd_f32".into(), block_rows: 32, block: 256, shared });
        }
        let (block_rows, keys) = match width {
            64 => (128, 64),
            128 => (128, 32),
            _ => (64, 32),
        };
        let shared = (block_rows + 4 * keys) * width * 2;
        Ok(Self { kernel: format!("attention_fwd_d{width}_bf16"), block_rows, block: 128, shared })
    }
}

fn sizes(heads: Heads) -> Result<[Arg; 3]> {
    let Heads { num_attention_heads: nh, num_key_value_heads: nkv, head_dim: d } = heads;
    Ok([Arg::size(nh)?, Arg::size(nkv)?, Arg::size(d)?])
}

/// Blocks of at most `block_rows` query rows of one segment, those that see the most keys first: the first query row,
/// how many there are, the first key row, how many keys the first query sees.
fn work(segments: &Segments, block_rows: usize) -> Vec<[usize; 4]> {
    let blocks = |segment: &Segment| {
        let (segment, queries) = (segment.clone(), segment.queries.clone());
        queries.step_by(block_rows).map(move |first| {
            let rows = block_rows.min(segment.queries.end - first);
            [first, rows, segment.keys.start, segment.visible(first)]
        })
    };
    let mut work: Vec<_> = segments.0.iter().flat_map(blocks).collect();
    work.sort_by_key(|&[_, rows, _, visible]| std::cmp::Reverse(rows + visible));
    work
}

/// The keys of the item that has the most.
fn most_keys(work: &[[usize; 4]]) -> usize {
    work.iter().map(|[_, rows, _, visible]| rows + visible - 1).max().unwrap_or(0)
}

fn upload<const N: usize>(device: &Device, list: &[[usize; N]]) -> Result<Tensor> {
    let too_large = |_| Error::shape(OP, "a GPU takes fewer than 2^31 rows");
    let words =
        list.as_flattened().iter().map(|&n| i32::try_from(n)).collect::<Result<Vec<_>, _>>().map_err(too_large)?;
    Tensor::from_slice(device, [list.len(), N], &words)
}

/// `dq`, `dk` and `dv`, each where `wanted`.
pub fn backward(
    dout: &Tensor,
    inputs: &Inputs,
    out: &Tensor,
    lse: &Tensor,
    wanted: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let saved = Saved { dout, inputs, lse, delta: &row_products(dout, out, inputs.heads)? };
    let gradients = if dout.dtype() == DType::F32 { saved.backward_f32(wanted) } else { saved.backward_bf16() }?;
    let mut wanted = wanted.into_iter();
    Ok(gradients.map(|gradient| gradient.filter(|_| wanted.next() == Some(true))))
}

/// The sums of `dout * out` of each row of each head, `[NH, query rows]`.
fn row_products(dout: &Tensor, out: &Tensor, heads: Heads) -> Result<Tensor> {
    let (device, rows, nh) = (out.device(), out.shape().rows(), heads.num_attention_heads);
    let mut delta = Tensor::uninit(&device, DType::F32, [nh, rows])?;
    let [heads, _, d] = sizes(heads)?;
    let args = [delta.as_output()?, dout.as_input()?, out.as_input()?, Arg::I64(rows as i64), heads, d];
    let kernel = format!("attention_bwd_delta_{}", out.dtype());
    let grid = [rows.div_ceil(32) * nh, 1, 1];
    KERNELS.launch(&device, &Launch { kernel: &kernel, grid, block: 256, shared: 0, args: &args })?;
    Ok(delta)
}

/// Keys that a block of the backward on bf16 takes at once, and of the backward on f32.
const SLICE_KEYS: usize = 64;
/// Slices of `dq`, at most: each is a sum of its own in f32.
const MOST_SLICES: usize = 8;
/// Rows of a block of the backward on f32.
const F32_ROWS: usize = 16;

struct Saved<'a> {
    dout: &'a Tensor,
    inputs: &'a Inputs,
    lse: &'a Tensor,
    delta: &'a Tensor,
}

impl Saved<'_> {
    /// The arguments behind the outputs.
    fn args(&self, list: &Tensor) -> Result<Vec<Arg>> {
        let Self { dout, inputs: Inputs { q, k, v, heads, scale, .. }, lse, delta } = self;
        let mut args = vec![];
        for input in [dout, q, k, v, lse, delta, list] {
            args.push(input.as_input()?);
        }
        args.push(Arg::I64(q.shape().rows() as i64));
        args.extend(sizes(*heads)?);
        args.push(Arg::F32(*scale));
        Ok(args)
    }

    /// For a gradient like `x` that kernels fill where some query sees the key.
    fn key_gradient(&self, x: &Tensor) -> Result<Tensor> {
        let seen: usize = self.inputs.segments.0.iter().filter(|s| !s.queries.is_empty()).map(|s| s.keys.len()).sum();
        let new = if seen == x.shape().rows() { Tensor::uninit } else { Tensor::zeros };
        new(&x.device(), x.dtype(), x.shape())
    }

    fn backward_bf16(&self) -> Result<[Option<Tensor>; 3]> {
        let Inputs { q, k, v, segments, heads, scale } = self.inputs;
        let (device, rows, columns) = (q.device(), q.shape().rows(), q.shape().last());
        let sequences = work(segments, usize::MAX);
        let most_slices = most_keys(&sequences).div_ceil(SLICE_KEYS).min(MOST_SLICES);
        let mut slices = Tensor::uninit(&device, DType::F32, [most_slices, rows, columns])?;
        let (mut dk, mut dv) = (self.key_gradient(k)?, self.key_gradient(v)?);
        let outputs = [slices.as_output()?, dk.as_output()?, dv.as_output()?];
        let list = upload(&device, &sequences)?;
        let args = [&outputs[..], &self.args(&list)?].concat();
        let (width, query_rows, warps) = match width(*heads)? {
            width @ 64 => (width, 64, 4),
            width @ 128 => (width, 32, 4),
            width => (width, 16, 8),
        };
        let shared = 4 * width * (SLICE_KEYS + query_rows) + 2 * SLICE_KEYS * query_rows + 8 * query_rows;
        let (kernel, grid) =
            (format!("attention_bwd_d{width}_bf16"), [sequences.len() * heads.num_key_value_heads, most_slices, 1]);
        KERNELS.launch(&device, &Launch { kernel: &kernel, grid, block: 32 * warps, shared, args: &args })?;

        let mut dq = Tensor::uninit(&device, q.dtype(), q.shape())?;
        let blocks = work(segments, 32);
        let list = upload(&device, &blocks)?;
        let [outputs, inputs] = [dq.as_output()?, slices.as_input()?];
        let sizes = [Arg::I64(rows as i64), Arg::size(columns)?, Arg::size(most_slices)?, Arg::F32(*scale)];
        let args = [&[outputs, inputs, list.as_input()?][..], &sizes].concat();
        let (kernel, grid) = ("attention_bwd_q_bf16", [blocks.len(), columns.div_ceil(4 * 256), 1]);
        KERNELS.launch(&device, &Launch { kernel, grid, block: 256, shared: 0, args: &args })?;
        Ok([Some(dq), Some(dk), Some(dv)])
    }

    fn backward_f32(&self, [want_dq, want_dk, want_dv]: [bool; 3]) -> Result<[Option<Tensor>; 3]> {
        let Inputs { q, k, v, segments, heads, .. } = self.inputs;
        let device = q.device();
        width(*heads)?;
        let shared = 2 * (F32_ROWS + 32) * (heads.head_dim + 4) * 4;
        let launch = |kernel, outputs: &[Arg], work: &[[usize; 4]], heads: usize| {
            let list = upload(&device, work)?;
            let args = [outputs, &self.args(&list)?].concat();
            let grid = [work.len() * heads, 1, 1];
            KERNELS.launch(&device, &Launch { kernel, grid, block: 128, shared, args: &args })
        };
        let mut dq = None;
        if want_dq {
            let mut gradient = Tensor::uninit(&device, DType::F32, q.shape())?;
            let outputs = [gradient.as_output()?];
            launch("attention_bwd_q_f32", &outputs, &work(segments, F32_ROWS), heads.num_attention_heads)?;
            dq = Some(gradient);
        }
        if !want_dk && !want_dv {
            return Ok([dq, None, None]);
        }
        let (mut dk, mut dv) = (self.key_gradient(k)?, self.key_gradient(v)?);
        let outputs = [dk.as_output()?, dv.as_output()?];
        launch("attention_bwd_kv_f32", &outputs, &key_work(segments, F32_ROWS), heads.num_key_value_heads)?;
        Ok([dq, Some(dk), Some(dv)])
    }
}

/// Blocks of at most `block_rows` keys of one segment, with the queries that see any of them, in the words of [`work`]:
/// the block's keys are the first.
fn key_work(segments: &Segments, block_rows: usize) -> Vec<[usize; 4]> {
    let blocks = |segment: &Segment| {
        let Segment { queries, keys } = segment.clone();
        let earlier = keys.len() - queries.len(); // than the first query's own
        let starts = (0..if queries.is_empty() { 0 } else { keys.len() }).step_by(block_rows);
        starts.map(move |start| {
            let skipped = start.saturating_sub(earlier);
            [queries.start + skipped, queries.len() - skipped, keys.start + start, earlier + 1 + skipped - start]
        })
    };
    segments.0.iter().flat_map(blocks).collect()
}
