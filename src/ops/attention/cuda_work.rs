//! Lists of work, made of the segments alone: those that use the same segments, as all layers of a model do, share them.

use std::sync::{Arc, Mutex, PoisonError};

use super::{OP, Segment, Segments};
use crate::autograd::Tensor;
use crate::device::Device;
use crate::error::{Error, Result};

/// How segments are cut into blocks, each of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiling {
    /// Into blocks of at most so many query rows.
    Queries(usize),
    /// Into blocks of at most so many keys.
    Keys(usize),
}

/// The lists that were asked for so far.
#[derive(Debug, Default)]
pub struct Lists(Mutex<Vec<Arc<Work>>>);

/// The blocks of segments, on a device.
#[derive(Debug)]
pub struct Work {
    tiling: Tiling,
    /// i32 `[blocks, 4]`.
    pub list: Tensor,
    /// The keys of the block that has the most.
    pub most_keys: usize,
}

impl Work {
    fn new(segments: &Segments, tiling: Tiling, device: &Device) -> Result<Self> {
        let blocks = match tiling {
            Tiling::Queries(rows) => by_queries(segments, rows),
            Tiling::Keys(rows) => by_keys(segments, rows),
        };
        let too_large = |_| Error::shape(OP, "a GPU takes fewer than 2^31 rows");
        let words = blocks.as_flattened().iter().map(|&n| i32::try_from(n)).collect::<Result<Vec<_>, _>>();
        let list = Tensor::from_slice(device, [blocks.len(), 4], &words.map_err(too_large)?)?;
        let most_keys = blocks.iter().map(|[_, rows, _, visible]| rows + visible - 1).max().unwrap_or(0);
        Ok(Self { tiling, list, most_keys })
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.list.shape().rows()
    }
}

impl Segments {
    /// Their blocks on `device`; copied there the first time.
    pub(super) fn work(&self, tiling: Tiling, device: &Device) -> Result<Arc<Work>> {
        let mut lists = self.lists.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lists.iter().find(|work| work.tiling == tiling && work.list.device().is_same(device)) {
            return Ok(known.clone());
        }
        let work = Arc::new(Work::new(self, tiling, device)?);
        lists.push(work.clone());
        Ok(work)
    }
}

/// Those that see the most keys first: the first query row, how many there are, the first key row, how many keys the first
/// query sees.
fn by_queries(segments: &Segments, block_rows: usize) -> Vec<[usize; 4]> {
    let blocks = |segment: &Segment| {
        let (segment, queries) = (segment.clone(), segment.queries.clone());
        queries.step_by(block_rows).map(move |first| {
            let rows = block_rows.min(segment.queries.end - first);
            [first, rows, segment.keys.start, segment.visible(first)]
        })
    };
    let mut work: Vec<_> = segments.sequences.iter().flat_map(blocks).collect();
    work.sort_by_key(|&[_, rows, _, visible]| std::cmp::Reverse(rows + visible));
    work
}

/// With the queries that see any of the keys, in the words of [`by_queries`]: the block's keys are the first.
fn by_keys(segments: &Segments, block_rows: usize) -> Vec<[usize; 4]> {
    let blocks = |segment: &Segment| {
        let Segment { queries, keys } = segment.clone();
        let earlier = keys.len() - queries.len(); // than the first query's own
        let starts = (0..if queries.is_empty() { 0 } else { keys.len() }).step_by(block_rows);
        starts.map(move |start| {
            let skipped = start.saturating_sub(earlier);
            [queries.start + skipped, queries.len() - skipped, keys.start + start, earlier + 1 + skipped - start]
        })
    };
    segments.sequences.iter().flat_map(blocks).collect()
}
