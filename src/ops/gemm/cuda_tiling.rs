//! How a product of matrices is cut into blocks: by its shape alone, whatever the GPU, so that no bit depends on that.

use crate::dtype::DType;

/// The tile of the result that a block makes: a kernel of its own each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 64 x 64 of operands whose rows begin anywhere.
    Any,
    /// 64 x 64.
    Small,
    /// 128 x 128.
    Large,
    /// 128 x 256.
    Wide,
}

impl Tile {
    /// Its name at the end of a kernel's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Small => "64",
            Self::Large => "128",
            Self::Wide => "256",
        }
    }

    /// Its rows and columns.
    pub fn size(self) -> [usize; 2] {
        match self {
            Self::Any | Self::Small => [64, 64],
            Self::Large => [128, 128],
            Self::Wide => [128, 256],
        }
    }

    /// Threads of a block, and its bytes of dynamic shared memory: the launch contract of `cuda/matmul.cu`.
    pub(in crate::ops) fn block(self) -> (usize, usize) {
        match self {
            Self::Any | Self::Small => (128, 32_768),
            Self::Large => (128, 49_152),
            Self::Wide => (256, 98_304),
        }
    }
}

/// The cut of a product into tiles of the result and slices of K.
#[derive(Clone, Copy, Debug)]
pub struct SplitK {
    /// What a block makes.
    pub tile: Tile,
    /// How many tiles the result has.
    pub tiles: usize,
    /// Into how many slices K is cut, whose sums are added in order.
    pub slices: usize,
    /// How much of K a slice takes.
    pub depth: usize,
}

/// Fewer blocks leave most GPUs idle: an H100 holds 132 of the widest tiles at once, 264 of the large ones.
const BLOCKS: usize = 256;

impl SplitK {
    /// How the product `[m, k] · [k, n]` is cut; rows of its operands begin on 16 bytes where they are `aligned`.
    ///
    /// The widest tile asks least of the cache and is taken where it still makes enough blocks and little of it, an
    /// eighth, lies beyond the result. K is cut where a tile's shape leaves too few blocks.
    pub fn new(dtype: DType, is_aligned: bool, m: usize, n: usize, k: usize) -> Self {
        const MOST_SLICES: usize = 16;
        const LEAST_DEPTH: usize = 512;
        let count = |tile: Tile| m.div_ceil(tile.size()[0]) * n.div_ceil(tile.size()[1]);
        let is_wide = count(Tile::Wide) >= BLOCKS && n.next_multiple_of(256) - n <= n / 8;
        let tile = match dtype {
            _ if !is_aligned => Tile::Any,
            DType::Bf16 if m > 64 && n > 64 => {
                if is_wide {
                    Tile::Wide
                } else {
                    Tile::Large
                }
            }
            _ => Tile::Small,
        };
        let tiles = count(tile);
        let slices = (BLOCKS / tiles.max(1)).min(MOST_SLICES).min(k / LEAST_DEPTH).max(1);
        let depth = k.div_ceil(slices).next_multiple_of(32).max(32);
        Self { tile, tiles, slices: k.div_ceil(depth).max(1), depth }
    }

    /// This tiling, each of its tiles made by one block.
    pub(in crate::ops) fn whole(self, k: usize) -> Self {
        Self { slices: 1, depth: k.next_multiple_of(32).max(32), ..self }
    }

    /// How the product `[m, k] · [k, n]` with a matrix of codes that become floats of `dtype` is cut; in f32 its operands may
    /// begin anywhere.
    pub fn of_codes(dtype: DType, is_aligned: bool, [m, n, k]: [usize; 3]) -> Self {
        Self::new(dtype, is_aligned && dtype == DType::Bf16, m, n, k)
    }

    /// How the product of int8 matrices `[m, k] · [k, n]` is cut: as one of bf16, into slices of whole steps.
    ///
    /// What is multiplied beside them is of `dtype`.
    pub fn of_int8(dtype: DType, m: usize, n: usize, k: usize) -> Self {
        let split = Self::new(dtype, true, m, n, k);
        let depth = split.depth.next_multiple_of(64);
        Self { slices: k.div_ceil(depth).max(1), depth, ..split }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_launched_as_the_kernels_contract_says() {
        let contract = [
            include_str!("../../../cuda/matmul.cu"),
            include_str!("../../../cuda/lora.cu"),
            include_str!("../../../cuda/int8_matmul.cu"),
            include_str!("../../../cuda/nf4_matmul.cu"),
        ]
        .concat();
        let shared = contract.lines().filter_map(|line| line.strip_prefix("//   shared "));
        let mut seen = Vec::new();
        for (kernel, bytes) in shared.filter_map(|line| line.split_once(' ')) {
            let tiles = [Tile::Any, Tile::Small, Tile::Large, Tile::Wide];
            let tile = tiles.into_iter().find(|tile| kernel.ends_with(&format!("_{}", tile.name()))).unwrap();
            assert_eq!(tile.block().1.to_string(), bytes, "{kernel}");
            seen.push(tile);
        }
        assert_eq!(seen.len(), 18 + 14 + 12 + 10, "kernels with dynamic shared memory");
    }

    #[test]
    fn a_llama_is_cut_into_wide_tiles_and_small_products_into_slices() {
        let cut = |m, n, k| {
            let SplitK { tile, tiles, slices, .. } = SplitK::new(DType::Bf16, true, m, n, k);
            (tile, tiles, slices)
        };
        assert_eq!(cut(8192, 4096, 4096), (Tile::Wide, 1024, 1));
        assert_eq!(cut(8192, 1024, 4096), (Tile::Wide, 256, 1));
        assert_eq!(cut(2048, 4096, 4096), (Tile::Wide, 256, 1));
        assert_eq!(cut(8192, 896, 896), (Tile::Large, 448, 1));
        assert_eq!(cut(512, 4096, 4096), (Tile::Large, 128, 2));
        assert_eq!(cut(64, 1024, 4096), (Tile::Small, 16, 8));
        assert_eq!(SplitK::new(DType::Bf16, false, 8192, 4096, 4095).tile, Tile::Any);
        assert_eq!(SplitK::new(DType::F32, true, 8192, 4096, 4096).tile, Tile::Small);
    }
}
