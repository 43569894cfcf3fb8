//! Where a tensor's bytes are.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::device::{Buffer, Device};
use crate::error::{Error, Result};

/// Memory that comes and goes: that of a weight which is gathered before its use and freed behind it.
///
/// Tensors [of it](super::Tensor::of_storage) find what is there when they are read. What an op saves of such a weight is the
/// way to it, so the weight may be freed before the backward pass and gathered again for it.
#[derive(Debug)]
pub struct Storage {
    device: Device,
    bytes: usize,
    held: Mutex<Option<Arc<Buffer>>>,
}

impl Storage {
    /// A place on `device` for `bytes`, with nothing in it.
    pub fn new(device: &Device, bytes: usize) -> Self {
        Self { device: device.clone(), bytes, held: Mutex::default() }
    }

    /// Puts the bytes there.
    ///
    /// # Errors
    /// [`Error::Device`] if they are not as many as fit, or elsewhere.
    pub fn fill(&self, bytes: Arc<Buffer>) -> Result<()> {
        if bytes.bytes() != self.bytes || !bytes.device().is_same(&self.device) {
            let (of, from) = (bytes.bytes(), bytes.device());
            return Err(Error::device(&self.device, format!("{of} bytes on {from} are no content for {}", self.bytes)));
        }
        *self.lock() = Some(bytes);
        Ok(())
    }

    /// Lets the bytes go.
    pub fn free(&self) {
        *self.lock() = None;
    }

    /// How many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn get(&self) -> Result<Arc<Buffer>> {
        let none = || Error::device(&self.device, format!("a weight of {} bytes is not gathered", self.bytes));
        self.lock().clone().ok_or_else(none)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Buffer>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory of one tensor.
#[derive(Debug)]
pub(super) enum Memory {
    Own(Arc<Buffer>),
    /// Boxed, since nearly all tensors have memory of their own.
    Stored(Box<Stored>),
}

#[derive(Debug)]
pub(super) struct Stored {
    storage: Arc<Storage>,
    /// What was found there at the first look.
    found: OnceLock<Arc<Buffer>>,
}

impl Clone for Memory {
    /// Shares the memory; a clone of what is stored has not looked yet, so it keeps nothing from being freed.
    fn clone(&self) -> Self {
        match self {
            Self::Own(buffer) => Self::Own(buffer.clone()),
            Self::Stored(stored) => Self::stored(stored.storage.clone()),
        }
    }
}

impl Memory {
    pub(super) fn stored(storage: Arc<Storage>) -> Self {
        Self::Stored(Box::new(Stored { storage, found: OnceLock::new() }))
    }

    pub(super) fn device(&self) -> Device {
        match self {
            Self::Own(buffer) => buffer.device(),
            Self::Stored(stored) => stored.storage.device.clone(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Own(buffer) => buffer.bytes(),
            Self::Stored(stored) => stored.storage.bytes,
        }
    }

    pub(super) fn buffer(&self) -> Result<&Arc<Buffer>> {
        match self {
            Self::Own(buffer) => Ok(buffer),
            Self::Stored(stored) => match stored.found.get() {
                Some(buffer) => Ok(buffer),
                None => {
                    let buffer = stored.storage.get()?;
                    Ok(stored.found.get_or_init(|| buffer))
                }
            },
        }
    }

    /// Its memory for writing: a copy where another shares it.
    pub(super) fn buffer_mut(&mut self) -> Result<&mut Buffer> {
        let is_shared = match self {
            Self::Own(buffer) => Arc::get_mut(buffer).is_none(),
            Self::Stored(_) => true,
        };
        if is_shared {
            *self = Self::Own(Arc::new(self.buffer()?.try_clone()?));
        }
        match self {
            Self::Own(buffer) => Arc::get_mut(buffer),
            Self::Stored(_) => None,
        }
        .ok_or_else(|| Error::device("tensor", "the memory is shared"))
    }
}
