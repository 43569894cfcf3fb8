//! Launches over lists of work: a block a head of some query rows.

use super::cuda_tiles::{Backward, Decode, Forward, Plain, width};
use super::cuda_work::{Tiling, Work};
use super::{Heads, Inputs, Segment};
use crate::autograd::Tensor;
use crate::device::{Arg, Kernels, Launch};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernels;

pub const KERNELS: Kernels = kernels!("attention");

/// `out` like `q`, `lse` `[NH, query rows]`.
pub fn forward(inputs: &Inputs) -> Result<(Tensor, Tensor)> {
    let width = width(inputs.heads)?;
    let few = |segment: &Segment| segment.queries.len() * inputs.heads.group() <= Decode::ROWS;
    if inputs.q.dtype() == DType::Bf16 && inputs.segments.sequences.iter().all(few) {
        return decode(inputs, width);
    }
    let Inputs { q, k, v, segments, heads, scale } = inputs;
    let (device, dtype, rows) = (q.device(), q.dtype(), q.shape().rows());
    let nh = heads.num_attention_heads;
    let mut out = Tensor::uninit(&device, dtype, q.shape())?;
    let mut lse = Tensor::uninit(&device, DType::F32, [nh, rows])?;
    let tiles = Forward::new(width);
    let (kernel, block_rows, block, shared) = match dtype {
        DType::F32 => {
            let Plain { rows, block, .. } = Plain::FORWARD;
            ("attention_fwd_f32".into(), rows, block, Plain::FORWARD.shared(heads.head_dim))
        }
        _ => (tiles.kernel(), tiles.query_rows, Forward::BLOCK, tiles.shared()),
    };
    let work = segments.work(Tiling::Queries(block_rows), &device)?;
    let [outputs, inputs] = [
        &[out.as_output()?, lse.as_output()?][..],
        &[q.as_input()?, k.as_input()?, v.as_input()?, work.list.as_input()?],
    ];
    let args = [outputs, inputs, &[Arg::I64(rows as i64)], &sizes(*heads)?, &[Arg::F32(*scale)]].concat();
    let grid = [work.len() * nh, 1, 1];
    KERNELS.launch(&device, &Launch { kernel: &kernel, grid, block, shared, args: &args })?;
    Ok((out, lse))
}

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
    let work = segments.work(Tiling::Queries(usize::MAX), &device)?;
    let list = &work.list;
    let parts = decode_parts(work.most_keys);
    let mut part_out = Tensor::uninit(&device, DType::F32, [parts, rows, columns])?;
    let mut part_lse = Tensor::uninit(&device, DType::F32, [parts, rows, nh])?;
    let outputs = [part_out.as_output()?, part_lse.as_output()?];
    let tensors = [q.as_input()?, k.as_input()?, v.as_input()?, list.as_input()?];
    let numbers = [Arg::I64(rows as i64), heads, kv_heads, d, Arg::size(parts)?, Arg::F32(*scale)];
    let tiles = Decode::new(width);
    let (kernel, grid) = (tiles.kernel(), [work.len() * nkv, parts.div_ceil(tiles.warps), 1]);
    let (block, shared) = (32 * tiles.warps, tiles.shared());
    let args = [&outputs[..], &tensors, &numbers].concat();
    KERNELS.launch(&device, &Launch { kernel: &kernel, grid, block, shared, args: &args })?;

    let mut out = Tensor::uninit(&device, q.dtype(), q.shape())?;
    let mut lse = Tensor::uninit(&device, DType::F32, [nh, rows])?;
    let tensors = [out.as_output()?, lse.as_output()?, part_out.as_input()?, part_lse.as_input()?, list.as_input()?];
    let args = [&tensors[..], &[Arg::I64(rows as i64), heads, d, Arg::size(parts)?]].concat();
    let (kernel, grid) = ("attention_decode_sum_bf16", [work.len(), columns.div_ceil(4 * 256), 1]);
    KERNELS.launch(&device, &Launch { kernel, grid, block: 256, shared: 0, args: &args })?;
    Ok((out, lse))
}

fn sizes(heads: Heads) -> Result<[Arg; 3]> {
    let Heads { num_attention_heads: nh, num_key_value_heads: nkv, head_dim: d } = heads;
    Ok([Arg::size(nh)?, Arg::size(nkv)?, Arg::size(d)?])
}

/// `dq`, `dk` and `dv`, each where `wanted`.
pub fn backward(
    dout: &Tensor,
    inputs: &Inputs,
    out: &Tensor,
    lse: &Tensor,
    wanted: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let saved = Saved { dout, inputs, lse, delta: &delta(dout, out, inputs.heads)? };
    let gradients = if dout.dtype() == DType::F32 { saved.backward_f32(wanted) } else { saved.backward_bf16() }?;
    let mut wanted = wanted.into_iter();
    Ok(gradients.map(|gradient| gradient.filter(|_| wanted.next() == Some(true))))
}

/// The sums of `dout * out` of each row of each head, `[NH, query rows]`.
fn delta(dout: &Tensor, out: &Tensor, heads: Heads) -> Result<Tensor> {
    let (device, rows, nh) = (out.device(), out.shape().rows(), heads.num_attention_heads);
    let mut delta = Tensor::uninit(&device, DType::F32, [nh, rows])?;
    let [heads, _, d] = sizes(heads)?;
    let args = [delta.as_output()?, dout.as_input()?, out.as_input()?, Arg::I64(rows as i64), heads, d];
    let kernel = format!("attention_bwd_delta_{}", out.dtype());
    let grid = [rows.div_ceil(32) * nh, 1, 1];
    KERNELS.launch(&device, &Launch { kernel: &kernel, grid, block: 256, shared: 0, args: &args })?;
    Ok(delta)
}

/// Slices of `dq`, at most: each is a sum of its own in f32.
const MOST_SLICES: usize = 8;

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
        let seen: usize =
            self.inputs.segments.sequences.iter().filter(|s| !s.queries.is_empty()).map(|s| s.keys.len()).sum();
        let new = if seen == x.shape().rows() { Tensor::uninit } else { Tensor::zeros };
        new(&x.device(), x.dtype(), x.shape())
    }

    fn backward_bf16(&self) -> Result<[Option<Tensor>; 3]> {
        let Inputs { q, k, v, segments, heads, scale } = self.inputs;
        let (device, rows, columns) = (q.device(), q.shape().rows(), q.shape().last());
        let tiles = Backward::new(width(*heads)?);
        let sequences = segments.work(Tiling::Queries(usize::MAX), &device)?;
        let most_slices = sequences.most_keys.div_ceil(tiles.keys).min(MOST_SLICES);
        let mut slices = Tensor::uninit(&device, DType::F32, [most_slices, rows, columns])?;
        let (mut dk, mut dv) = (self.key_gradient(k)?, self.key_gradient(v)?);
        let outputs = [slices.as_output()?, dk.as_output()?, dv.as_output()?];
        let args = [&outputs[..], &self.args(&sequences.list)?].concat();
        let (kernel, grid) = (tiles.kernel(), [sequences.len() * heads.num_key_value_heads, most_slices, 1]);
        let (block, shared) = (tiles.block(), tiles.shared());
        KERNELS.launch(&device, &Launch { kernel: &kernel, grid, block, shared, args: &args })?;

        let mut dq = Tensor::uninit(&device, q.dtype(), q.shape())?;
        let blocks = segments.work(Tiling::Queries(32), &device)?;
        let [outputs, inputs] = [dq.as_output()?, slices.as_input()?];
        let [width, most, keys] = [Arg::size(columns)?, Arg::size(most_slices)?, Arg::size(tiles.keys)?];
        let sizes = [Arg::I64(rows as i64), width, most, keys, Arg::F32(*scale)];
        let args = [&[outputs, inputs, blocks.list.as_input()?][..], &sizes].concat();
        let (kernel, grid) = ("attention_bwd_q_bf16", [blocks.len(), columns.div_ceil(4 * 256), 1]);
        KERNELS.launch(&device, &Launch { kernel, grid, block: 256, shared: 0, args: &args })?;
        Ok([Some(dq), Some(dk), Some(dv)])
    }

    fn backward_f32(&self, [want_dq, want_dk, want_dv]: [bool; 3]) -> Result<[Option<Tensor>; 3]> {
        let Inputs { q, k, v, segments, heads, .. } = self.inputs;
        let device = q.device();
        width(*heads)?;
        let Plain { rows, block, .. } = Plain::BACKWARD;
        let shared = Plain::BACKWARD.shared(heads.head_dim);
        let launch = |kernel, outputs: &[Arg], work: &Work, heads: usize| {
            let args = [outputs, &self.args(&work.list)?].concat();
            let grid = [work.len() * heads, 1, 1];
            KERNELS.launch(&device, &Launch { kernel, grid, block, shared, args: &args })
        };
        let mut dq = None;
        if want_dq {
            let mut gradient = Tensor::uninit(&device, DType::F32, q.shape())?;
            let outputs = [gradient.as_output()?];
            let work = segments.work(Tiling::Queries(rows), &device)?;
            launch("attention_bwd_q_f32", &outputs, &work, heads.num_attention_heads)?;
            dq = Some(gradient);
        }
        if !want_dk && !want_dv {
            return Ok([dq, None, None]);
        }
        let (mut dk, mut dv) = (self.key_gradient(k)?, self.key_gradient(v)?);
        let outputs = [dk.as_output()?, dv.as_output()?];
        let work = segments.work(Tiling::Keys(rows), &device)?;
        launch("attention_bwd_kv_f32", &outputs, &work, heads.num_key_value_heads)?;
        Ok([dq, Some(dk), Some(dv)])
    }
}
