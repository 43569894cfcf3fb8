//! Products with weights of codes, on kernels of their own that take the same arguments in the same order.

use super::cuda::{Matrix, NULL, in_slices, input};
use super::cuda_tiling::SplitK;
use crate::device::{Arg, Device, Kernels, Launch};
use crate::error::Result;

/// `out = a · b + xa · b2ᵀ + addend`, where `b` is made of codes.
#[derive(Debug)]
pub struct CodesProduct<'a> {
    /// The kernels.
    pub kernels: Kernels,
    /// The kernel's name without its tile.
    pub kernel: String,
    /// How the product is cut, for results whose slices can be added.
    pub split: SplitK,
    /// How many columns `a` has.
    pub k: usize,
    /// Elements from one row of `a` to the next, and of `b`.
    pub lds: [usize; 2],
    /// `a`, and what `b` is made of.
    pub tensors: Vec<Arg>,
    /// `[xa, b2ᵀ]` or none, for a kernel that takes them.
    pub adapter: Option<Option<[Matrix<'a>; 2]>>,
    /// What the kernel takes of `b` beside.
    pub scalars: Vec<Arg>,
    /// What is added, like the result; it may be that itself.
    pub addend: Option<Matrix<'a>>,
}

impl CodesProduct<'_> {
    /// Computes it into `out`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&self, device: &Device, out: Matrix<'_>) -> Result<()> {
        let split = if out.takes_slices() { self.split } else { self.split.whole(self.k) };
        in_slices(device, out, (1.0, self.addend), &split, |to, like| {
            let addend = if split.slices == 1 { input(self.addend) } else { NULL };
            let mut args = [&[to, addend][..], &self.tensors].concat();
            let (mut sizes, mut lds) = (vec![out.rows, out.columns, self.k], [&[like.ld][..], &self.lds].concat());
            if let Some(adapter) = self.adapter {
                args.extend(adapter.map_or([NULL; 2], |matrices| matrices.map(|matrix| input(Some(matrix)))));
                let (k2, ld2) = adapter.map_or((0, [0; 2]), |[xa, b]| (xa.columns, [xa.ld, b.ld]));
                sizes.push(k2);
                lds.extend(ld2);
            }
            for size in sizes.into_iter().chain(lds) {
                args.push(Arg::size(size)?);
            }
            args.extend(&self.scalars);
            args.extend([like.is_f32(), Arg::size(split.depth)?]);
            let kernel = format!("{}_{}", self.kernel, split.tile.name());
            let (block, shared) = split.tile.block();
            let grid = [split.tiles, split.slices, 1];
            self.kernels.launch(device, &Launch { kernel: &kernel, grid, block, shared, args: &args })
        })
    }
}
