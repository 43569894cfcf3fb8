//! Things that are known by a handle and belong to a context.

use crate::status::{Failure, Result, Status};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that no other thing has; the first ones are CUDA's names for streams.
pub fn new_handle() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0x1000);
    NEXT.fetch_add(16, Ordering::Relaxed)
}

/// Everything of one kind.
#[derive(Debug)]
pub struct Table<T> {
    kind: &'static str,
    items: BTreeMap<u64, (u64, T)>,
}

impl<T> Table<T> {
    pub fn new(kind: &'static str) -> Self {
        Self { kind, items: BTreeMap::new() }
    }

    /// Adds an item under a new handle.
    pub fn add(&mut self, context: u64, item: T) -> u64 {
        let handle = new_handle();
        self.insert(handle, context, item);
        handle
    }

    pub fn insert(&mut self, handle: u64, context: u64, item: T) {
        self.items.insert(handle, (context, item));
    }

    pub fn get(&self, handle: u64) -> Result<&T> {
        self.items.get(&handle).map(|(_, item)| item).ok_or_else(|| missing(self.kind, handle))
    }

    pub fn get_mut(&mut self, handle: u64) -> Result<&mut T> {
        self.items.get_mut(&handle).map(|(_, item)| item).ok_or_else(|| missing(self.kind, handle))
    }

    /// The context that an item belongs to.
    pub fn context(&self, handle: u64) -> Result<u64> {
        self.items.get(&handle).map(|(context, _)| *context).ok_or_else(|| missing(self.kind, handle))
    }

    pub fn remove(&mut self, handle: u64) -> Result<T> {
        self.items.remove(&handle).map(|(_, item)| item).ok_or_else(|| missing(self.kind, handle))
    }

    /// Handles and items, in the order of their making.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &T)> {
        self.items.iter().map(|(handle, (_, item))| (*handle, item))
    }

    pub fn handles(&self) -> Vec<u64> {
        self.items.keys().copied().collect()
    }

    pub fn handles_of(&self, context: u64) -> Vec<u64> {
        self.items.iter().filter(|(_, (owner, _))| *owner == context).map(|(handle, _)| *handle).collect()
    }

    /// Forgets what belongs to a context.
    pub fn forget(&mut self, context: u64) {
        self.items.retain(|_, (owner, _)| *owner != context);
    }
}

fn missing(kind: &str, handle: u64) -> Failure {
    Failure::new(Status::INVALID_HANDLE, format!("{handle:#x} is not a {kind}"))
}
