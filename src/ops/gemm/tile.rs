//! The innermost loops: a tile of the result held in registers.

use pulp::{Arch, Simd, WithSimd};

/// Rows of the largest tile: with two vectors of columns its sums fill three quarters of the registers.
pub const fn rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 12 } else { 6 }
}

/// Columns of a tile of `vectors` vectors, one or two.
pub const fn columns<S: Simd>(vectors: usize) -> usize {
    vectors * S::F32_LANES
}

/// Rows and columns of the largest tile.
pub fn largest(arch: Arch) -> [usize; 2] {
    struct Largest;
    impl WithSimd for Largest {
        type Output = [usize; 2];
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> [usize; 2] {
            [rows::<S>(), columns::<S>(2)]
        }
    }
    arch.dispatch(Largest)
}

/// Rows and columns of the tiles of a result `[m, n]`. Its sums have the same bits in tiles of any shape.
pub fn shape(arch: Arch, [m, n]: [usize; 2]) -> [usize; 2] {
    let [height, width] = largest(arch);
    let height = [1, 2, 4].into_iter().find(|rows| *rows >= m).unwrap_or(height);
    [height, if n <= width / 2 { width / 2 } else { width }]
}

/// Adds the product of a panel of `a` `[k, height]` and one of `b` `[k, width]` to the columns from `column` of the
/// rows `c`, or stores it there. What of the tile lies outside of `c` is padding and is dropped.
#[inline(always)]
pub fn multiply<S: Simd>(
    simd: S,
    panels: [&[f32]; 2],
    [height, width]: [usize; 2],
    c: &mut [&mut [f32]],
    column: usize,
    add: bool,
) {
    match (height, width / S::F32_LANES) {
        (1, 2) => tile::<S, 1, 2>(simd, panels, c, column, add),
        (1, _) => tile::<S, 1, 1>(simd, panels, c, column, add),
        (2, 2) => tile::<S, 2, 2>(simd, panels, c, column, add),
        (2, _) => tile::<S, 2, 1>(simd, panels, c, column, add),
        (4, 2) => tile::<S, 4, 2>(simd, panels, c, column, add),
        (4, _) => tile::<S, 4, 1>(simd, panels, c, column, add),
        (12, 2) => tile::<S, 12, 2>(simd, panels, c, column, add),
        (12, _) => tile::<S, 12, 1>(simd, panels, c, column, add),
        (_, 2) => tile::<S, 6, 2>(simd, panels, c, column, add),
        _ => tile::<S, 6, 1>(simd, panels, c, column, add),
    }
}

#[inline(always)]
fn tile<S: Simd, const M: usize, const N: usize>(
    simd: S,
    [a, b]: [&[f32]; 2],
    c: &mut [&mut [f32]],
    column: usize,
    add: bool,
) {
    let sums = products::<S, M, N>(simd, a.as_chunks().0, S::as_simd_f32s(b).0.as_chunks().0);
    for (c, sums) in c.iter_mut().zip(&sums) {
        store(bytemuck::cast_slice::<S::f32s, f32>(sums), &mut c[column..], add);
    }
}

/// Adds `sums` to the start of `c`, or stores them there; `c` may be shorter.
#[inline(always)]
pub fn store(sums: &[f32], c: &mut [f32], add: bool) {
    let n = sums.len().min(c.len());
    let (sums, c) = (&sums[..n], &mut c[..n]);
    if add {
        c.iter_mut().zip(sums).for_each(
            #[inline(always)]
            |(c, sum)| *c += sum,
        );
    } else {
        c.copy_from_slice(sums);
    }
}

#[inline(always)]
fn products<S: Simd, const M: usize, const N: usize>(simd: S, a: &[[f32; M]], b: &[[S::f32s; N]]) -> [[S::f32s; N]; M] {
    let mut sums = [[simd.splat_f32s(0.0); N]; M];
    add_products(simd, a, b, &mut sums);
    sums
}

/// Adds the product of a panel of `a` `[k, M]` and one of `b` `[k, N vectors]` to `sums`.
#[inline(always)]
pub fn add_products<S: Simd, const M: usize, const N: usize>(
    simd: S,
    a: &[[f32; M]],
    b: &[[S::f32s; N]],
    sums: &mut [[S::f32s; N]; M],
) {
    for (a, b) in a.iter().zip(b) {
        for (sums, &a) in sums.iter_mut().zip(a) {
            let a = simd.splat_f32s(a);
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = simd.mul_add_e_f32s(a, b, *sum);
            }
        }
    }
}
