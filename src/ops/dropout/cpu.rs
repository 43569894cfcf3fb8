//! Random words for a run of elements at a time, then the mask.

use super::{Dropout, OP, scale, threshold};
use crate::autograd::Tensor;
use crate::device::{Device, host};
use crate::dispatch_float;
use crate::dtype::Float;
use crate::error::Result;
use crate::ops::philox::philox;

/// `x` masked and scaled; the gradient of that is the same function of `dy`.
pub fn apply(x: &Tensor, key: Dropout) -> Result<Tensor> {
    let mut y = Tensor::uninit(&Device::Cpu, x.dtype(), x.shape())?;
    dispatch_float!(OP, x.dtype(), T => {
        let x = x.slice::<T>()?;
        host::par_rows(y.slice_mut::<T>()?, 1, #[inline(always)] |first, y| {
            let first_element = key.first_element.wrapping_add(first as u64);
            mask(y, &x[first..], Dropout { first_element, ..key });
        });
        Ok(())
    })?;
    Ok(y)
}

/// How many words are drawn at a time.
const WORDS: usize = 256;

/// `y = x` masked and scaled.
#[inline(always)]
fn mask<T: Float>(mut y: &mut [T], mut x: &[T], key: Dropout) {
    let mut element = key.first_element;
    let (scale, threshold) = (scale(key.p), threshold(key.p));
    while !y.is_empty() {
        let words = words(key, element / 4);
        let skip = (element % 4) as usize;
        let n = y.len().min(WORDS - skip);
        for ((y, x), word) in y.iter_mut().zip(x).zip(&words[skip..]) {
            *y = T::from_f32(if *word >= threshold { x.to_f32() * scale } else { 0.0 });
        }
        (y, x) = (&mut y[n..], &x[n..]);
        element = element.wrapping_add(n as u64);
    }
}

/// The words of the blocks from `first`.
#[inline(always)]
fn words(key: Dropout, first: u64) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for (block, words) in (first..).zip(words.chunks_exact_mut(4)) {
        let counter = [block as u32, (block >> 32) as u32, key.step as u32, key.site];
        words.copy_from_slice(&philox(counter, [key.seed as u32, (key.seed >> 32) as u32]));
    }
    words
}
