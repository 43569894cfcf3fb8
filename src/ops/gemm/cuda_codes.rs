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
    /// The kernel for up to 16 rows, if there is one.
    pub rows_kernel: Option<String>,
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
        if let Some(kernel) = self.rows_kernel.as_ref().filter(|_| out.rows <= 16) {
            let args = self.arguments(Arg::Output(out.slice), input(self.addend), out)?;
            let grid = [out.columns.div_ceil(16), 1, 1];
            return self.kernels.launch(device, &Launch { kernel, grid, block: 256, shared: 0, args: &args });
        }
        let split = if out.takes_slices() { self.split } else { self.split.whole(self.k) };
        in_slices(device, out, (1.0, self.addend), &split, |to, like| {
            let addend = if split.slices == 1 { input(self.addend) } else { NULL };
            let mut args = self.arguments(to, addend, like)?;
            args.push(Arg::size(split.depth)?);
            let kernel = format!("{}_{}", self.kernel, split.tile.name());
            let (block, shared) = split.tile.block();
            let grid = [split.tiles, split.slices, 1];
            self.kernels.launch(device, &Launch { kernel: &kernel, grid, block, shared, args: &args })
        })
    }

    /// In the order of the kernels; the result goes `to` memory that is laid out as `out`.
    fn arguments(&self, to: Arg, addend: Arg, out: Matrix<'_>) -> Result<Vec<Arg>> {
        let mut args = [&[to, addend][..], &self.tensors].concat();
        let (mut sizes, mut lds) = (vec![out.rows, out.columns, self.k], [&[out.ld][..], &self.lds].concat());
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
        args.push(out.is_f32());
        Ok(args)
    }
}
