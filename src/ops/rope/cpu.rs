//! Rows in parallel; the cosines and sines of a row's position serve all of its heads.

use std::ops::Range;

use super::{OP, RopeTable};
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::{DType, Float};
use crate::error::Result;

/// `[positions, d]`: for each position of each text the cosines of its angles, then their sines, both times `factor`.
/// `frequencies` gives those of a text of some length.
pub fn table(d: usize, texts: &[Range<usize>], frequencies: &dyn Fn(usize) -> Vec<f64>, factor: f64) -> Result<Tensor> {
    let rows: usize = texts.iter().map(ExactSizeIterator::len).sum();
    let mut table = Tensor::uninit(&Device::Cpu, DType::F32, [rows, d])?;
    let mut left = table.slice_mut::<f32>()?;
    for text in texts {
        let (rows, behind) = std::mem::take(&mut left).split_at_mut(text.len() * d);
        fill(rows, text.start, &frequencies(text.end), factor);
        left = behind;
    }
    Ok(table)
}

fn fill(table: &mut [f32], start: usize, frequencies: &[f64], factor: f64) {
    let d = 2 * frequencies.len();
    host::par_rows(table, d, |first, rows| {
        for (row, position) in rows.chunks_mut(d).zip(start + first..) {
            let (cos, sin) = row.split_at_mut(d / 2);
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(frequencies) {
                let angle = (position as f64 * frequency).sin_cos();
                (*sin, *cos) = ((factor * angle.0) as f32, (factor * angle.1) as f32);
            }
        }
    });
}

/// Turns the pairs of each of `xs` in place, by their angles times `direction` (1 or -1).
pub fn rotate(xs: &mut [&mut Tensor], table: &RopeTable, positions: &Tensor, direction: f32) -> Result<()> {
    xs.iter_mut().try_for_each(|x| rotate_one(x, table, positions, direction))
}

fn rotate_one(x: &mut Tensor, table: &RopeTable, positions: &Tensor, direction: f32) -> Result<()> {
    let (width, d) = (x.shape().last(), table.head_dim());
    let (table, positions) = (table.cos_sin.slice::<f32>()?, positions.slice::<u32>()?);
    dispatch_float!(OP, x.dtype(), T => {
        host::par_rows(x.slice_mut::<T>()?, width, #[inline(always)] |first, x| {
            for (row, position) in x.chunks_mut(width).zip(&positions[first..]) {
                let cos_sin = &table[*position as usize * d..][..d];
                row.chunks_mut(d).for_each(#[inline(always)] |head| rotate_head(head, cos_sin, direction));
            }
        });
        Ok(())
    })
}

#[inline(always)]
fn rotate_head<T: Float>(head: &mut [T], cos_sin: &[f32], direction: f32) {
    let (first, second) = head.split_at_mut(cos_sin.len() / 2);
    let (cos, sin) = cos_sin.split_at(cos_sin.len() / 2);
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (x, y, sin) = (a.to_f32(), b.to_f32(), direction * sin);
        (*a, *b) = (T::from_f32(x * cos - y * sin), T::from_f32(y * cos + x * sin));
    }
}
