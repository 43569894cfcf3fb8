//! The tiles that `cuda/attention.cu` is compiled for, and what follows from them for a launch.

use super::{Heads, OP};
use crate::error::{Error, Result};

/// Columns of a head that the kernels on bf16 are compiled for; others are padded to the next.
const WIDTHS: [usize; 3] = [64, 128, 256];

/// The width that a head is padded to.
pub fn width(heads: Heads) -> Result<usize> {
    let d = heads.head_dim;
    let refused = || Error::shape(OP, format!("on a GPU head_dim must be a multiple of 8 up to 256, got {d}"));
    WIDTHS.into_iter().find(|&width| d <= width && d.is_multiple_of(8)).ok_or_else(refused)
}

/// A block of the forward kernel on bf16: some query rows, and two stages of keys and values.
#[derive(Clone, Copy)]
pub struct Forward {
    pub width: usize,
    pub query_rows: usize,
    keys: usize,
}

impl Forward {
    pub const BLOCK: usize = 128;

    pub fn new(width: usize) -> Self {
        let (query_rows, keys) = match width {
            64 => (128, 64),
            128 => (128, 32),
            _ => (64, 32),
        };
        Self { width, query_rows, keys }
    }

    pub fn kernel(self) -> String {
        format!("attention_fwd_d{}_bf16", self.width)
    }

    pub fn shared(self) -> usize {
        2 * self.width * (self.query_rows + 4 * self.keys)
    }
}

/// A block of the decode kernel on bf16: a part of the keys a warp, in two stages.
#[derive(Clone, Copy)]
pub struct Decode {
    pub width: usize,
    pub warps: usize,
}

impl Decode {
    /// Rows of a tile: queries, each with all heads of a group.
    pub const ROWS: usize = 16;

    pub fn new(width: usize) -> Self {
        Self { width, warps: if width == 256 { 2 } else { 4 } }
    }

    pub fn kernel(self) -> String {
        format!("attention_decode_d{}_bf16", self.width)
    }

    pub fn shared(self) -> usize {
        2 * self.width * Self::ROWS * (1 + 4 * self.warps)
    }
}

/// A block of the backward kernel on bf16: some keys and values, and a step's query rows.
#[derive(Clone, Copy)]
pub struct Backward {
    pub width: usize,
    query_rows: usize,
    /// Keys of a block, and so of a slice of dq a round.
    pub keys: usize,
    /// Warps that share the columns of 16 keys.
    split: usize,
}

impl Backward {
    pub fn new(width: usize) -> Self {
        let (query_rows, keys, split) = match width {
            64 => (64, 128, 1),
            128 => (32, 128, 1),
            _ => (16, 64, 2),
        };
        Self { width, query_rows, keys, split }
    }

    pub fn kernel(self) -> String {
        format!("attention_bwd_d{}_bf16", self.width)
    }

    pub fn block(self) -> usize {
        2 * self.keys * self.split
    }

    /// k and v, q and dout, ds, lse and delta, an item of the list.
    pub fn shared(self) -> usize {
        let Self { width, query_rows, keys, .. } = self;
        4 * width * (keys + query_rows) + 2 * keys * query_rows + 8 * query_rows + 16
    }
}

/// Rows of a tile of the other side in the kernels on f32.
const F32_TILE: usize = 32;

/// A block of the forward kernel on f32, and of the backward kernels.
pub struct Plain {
    pub rows: usize,
    pub block: usize,
    /// Tensors of which the block has rows of its own, and a tile.
    own: usize,
}

impl Plain {
    pub const FORWARD: Self = Self { rows: 32, block: 256, own: 1 };
    pub const BACKWARD: Self = Self { rows: 16, block: 128, own: 2 };

    /// Rows are 4 longer than a head.
    pub fn shared(&self, head_dim: usize) -> usize {
        4 * (self.own * self.rows + 2 * F32_TILE) * (head_dim + 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = include_str!("../../../cuda/attention.cu");

    /// The launch contract's bytes of dynamic shared memory, by kernel.
    fn contract() -> Vec<(String, usize)> {
        let lines = SOURCE.lines().filter_map(|line| line.strip_prefix("//   shared "));
        let words = lines.map(|line| line.split_once(' ').unwrap());
        words.map(|(kernel, bytes)| (kernel.to_string(), bytes.parse().unwrap())).collect()
    }

    #[test]
    fn launches_keep_the_contract() {
        let mut launched = vec![("attention_fwd_f32".to_string(), Plain::FORWARD.shared(256))];
        launched.extend(WIDTHS.map(Forward::new).map(|tiles| (tiles.kernel(), tiles.shared())));
        launched.extend(WIDTHS.map(Decode::new).map(|tiles| (tiles.kernel(), tiles.shared())));
        launched.extend(WIDTHS.map(Backward::new).map(|tiles| (tiles.kernel(), tiles.shared())));
        launched.extend(["q", "kv"].map(|x| (format!("attention_bwd_{x}_f32"), Plain::BACKWARD.shared(256))));
        assert_eq!(launched, contract());
    }

    #[test]
    fn tiles_are_those_that_the_kernels_are_compiled_for() {
        let mut compiled = vec![format!("FORWARD(float, f32, {}, plain::forward)", Plain::FORWARD.block)];
        for Forward { width, query_rows, keys } in WIDTHS.map(Forward::new) {
            let block = Forward::BLOCK;
            compiled.push(format!(
                "FORWARD(bf16, d{width}_bf16, {block}, (Forward<{width}, {query_rows}, {keys}>{{}}.run))"
            ));
        }
        compiled.extend(WIDTHS.map(Decode::new).map(|Decode { width, warps }| format!("DECODE({width}, {warps})")));
        for Backward { width, query_rows, keys, split } in WIDTHS.map(Backward::new) {
            compiled.push(format!("BACKWARD({width}, {query_rows}, {keys}, {split})"));
        }
        let macros = ["FORWARD(", "DECODE(", "BACKWARD("];
        let found: Vec<_> = SOURCE.lines().filter(|line| macros.iter().any(|name| line.starts_with(name))).collect();
        assert_eq!(found, compiled);

        let plain = include_str!("../../../cuda/attention_f32.cuh");
        let rows = format!("FWD_ROWS = {}, BWD_ROWS = {};", Plain::FORWARD.rows, Plain::BACKWARD.rows);
        assert!(plain.contains(&rows) && plain.contains(&format!("TILE = {F32_TILE},")), "{rows}");
    }
}
