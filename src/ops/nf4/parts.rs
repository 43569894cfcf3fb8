//! A 4-bit weight: what it is made of, and what must fit.

use std::borrow::Cow;

use super::{Kind, OP, View, check, cpu};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// How many scales share one where they are nested, the only number that bitsandbytes multiplies with.
pub const NESTED_BLOCKSIZE: usize = 256;

/// The scale of each block of a 4-bit weight.
#[derive(Clone, Debug)]
pub enum Absmax {
    /// f32 `[blocks]`.
    Plain(Tensor),
    /// Codes of 8 bits.
    Nested(Nested),
}

/// Scales in 8 bits: that of the block i is `map[codes[i]] * absmax[i / 256] + offset`.
#[derive(Clone, Debug)]
pub struct Nested {
    /// u8 `[blocks]`.
    pub codes: Tensor,
    /// What a code stands for, f32 `[256]`.
    pub map: Tensor,
    /// f32 `[ceil(blocks / 256)]`.
    pub absmax: Tensor,
    /// The mean that was taken off.
    pub offset: f32,
    /// [`NESTED_BLOCKSIZE`].
    pub blocksize: usize,
}

/// A weight `[N, K]` in 4 bits.
#[derive(Clone, Debug)]
pub struct FourBit {
    shape: [usize; 2],
    kind: Kind,
    blocksize: usize,
    codes: Tensor,
    absmax: Absmax,
}

impl FourBit {
    /// A weight of its parts, as a file has them: `codes` u8 `[ceil(N·K / 2)]`, row-major, the first element of a pair in
    /// the upper half of its byte.
    ///
    /// # Errors
    /// [`Error::Shape`] if the parts do not fit each other or a block size is not one of bitsandbytes';
    /// [`Error::DType`] if one has another dtype; [`Error::Device`] if they are on several devices.
    pub fn from_parts(shape: [usize; 2], kind: Kind, blocksize: usize, codes: Tensor, absmax: Absmax) -> Result<Self> {
        check_blocksize(blocksize)?;
        let [n, k] = shape;
        let too_large = || Error::shape(OP, format!("a weight of {shape:?} is too large"));
        let numel = n.checked_mul(k).ok_or_else(too_large)?;
        part("codes", &codes, DType::U8, numel.div_ceil(2), &codes)?;
        check_absmax(&absmax, numel.div_ceil(blocksize), &codes)?;
        Ok(Self { shape, kind, blocksize, codes, absmax })
    }

    /// The weight on `device`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        self.map(&mut |tensor| tensor.to_device(device))
    }

    /// The weight with `f` of its codes and of all that their scales consist of in their place.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn map(&self, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let absmax = match &self.absmax {
            Absmax::Plain(absmax) => Absmax::Plain(f(absmax)?),
            Absmax::Nested(Nested { codes, map, absmax, offset, blocksize }) => Absmax::Nested(Nested {
                codes: f(codes)?,
                map: f(map)?,
                absmax: f(absmax)?,
                offset: *offset,
                blocksize: *blocksize,
            }),
        };
        Ok(Self { codes: f(&self.codes)?, absmax, ..self.clone() })
    }

    /// `[N, K]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// What its codes stand for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many elements share a scale.
    pub fn blocksize(&self) -> usize {
        self.blocksize
    }

    /// Its codes, u8 `[ceil(N·K / 2)]`.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// Its scales as they are stored.
    pub fn absmax(&self) -> &Absmax {
        &self.absmax
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.bytes();
        let absmax = match &self.absmax {
            Absmax::Plain(absmax) => bytes(absmax),
            Absmax::Nested(nested) => {
                bytes(&nested.codes) + bytes(&nested.map) + bytes(&nested.absmax) + size_of::<f32>()
            }
        };
        bytes(&self.codes) + absmax
    }

    /// The scale of each block, if it is on the CPU: borrowed where they are plain.
    ///
    /// # Errors
    /// [`Error::Device`] if it is on a GPU.
    pub fn scales(&self) -> Result<Cow<'_, [f32]>> {
        match &self.absmax {
            Absmax::Plain(absmax) => Ok(absmax.slice()?.into()),
            Absmax::Nested(nested) => Ok(cpu::scales(nested)?.into()),
        }
    }

    /// Its elements to be read one by one or in runs, with the scales that [`FourBit::scales`] gives.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many scales as blocks; [`Error::Device`] if it is on a GPU.
    pub fn view<'a>(&'a self, scales: &'a [f32]) -> Result<View<'a>> {
        let numel: usize = self.shape.iter().product();
        let blocks = numel.div_ceil(self.blocksize);
        if scales.len() != blocks {
            return Err(Error::shape(OP, format!("a view needs {blocks} scales, got {}", scales.len())));
        }
        Ok(View::new(self.codes.slice()?, scales, self.kind.table(), self.blocksize, numel))
    }

    /// The weight `[N, K]` in `dtype`, f32 or bf16: each value times its block's scale in f32, rounded once.
    ///
    /// # Errors
    /// [`Error::DType`] if `dtype` is no float; [`Error::Device`] if it is on a GPU.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        check::float(OP, dtype)?;
        cpu::dequantize(&self.view(&self.scales()?)?, self.shape, dtype)
    }
}

/// Refuses a block size that bitsandbytes does not have.
pub(super) fn check_blocksize(blocksize: usize) -> Result<()> {
    if blocksize.is_power_of_two() && (32..=4096).contains(&blocksize) {
        return Ok(());
    }
    Err(Error::shape(OP, format!("blocksize must be a power of two from 32 to 4096, got {blocksize}")))
}

fn check_absmax(absmax: &Absmax, blocks: usize, codes: &Tensor) -> Result<()> {
    let nested = match absmax {
        Absmax::Plain(absmax) => return part("absmax", absmax, DType::F32, blocks, codes),
        Absmax::Nested(nested) => nested,
    };
    if nested.blocksize != NESTED_BLOCKSIZE {
        let detail = format!("the block size of nested scales must be {NESTED_BLOCKSIZE}, got {}", nested.blocksize);
        return Err(Error::shape(OP, detail));
    }
    part("absmax", &nested.codes, DType::U8, blocks, codes)?;
    part("nested map", &nested.map, DType::F32, 256, codes)?;
    part("nested absmax", &nested.absmax, DType::F32, blocks.div_ceil(NESTED_BLOCKSIZE), codes)
}

/// Refuses a part that has not `len` elements of `dtype` on the device of the codes.
fn part(name: &str, part: &Tensor, dtype: DType, len: usize, codes: &Tensor) -> Result<()> {
    check::dtype(OP, name, part, dtype)?;
    check::shape(OP, name, part, [len])?;
    check::same_device(OP, name, part, codes)
}
