//! A GPU that times every launch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::driver::{Arg, DevicePtr, Driver, Launch, MemoryInfo, Module, Stream};
use super::{Buffer, Cuda, Device};
use crate::error::Result;

/// How long a launch is repeated for, in rounds of which the best counts.
const ROUND: Duration = Duration::from_millis(15);
const ROUNDS: usize = 3;
const MOST_REPEATS: f64 = 1000.0;

/// A [`Driver`] that runs each launch many times and notes how long one takes. What a kernel that works in place leaves
/// is not what one launch would. A launch of the same kind as one before takes as long: it runs once.
#[derive(Debug)]
pub struct Timed {
    driver: Arc<dyn Driver>,
    times: Mutex<Times>,
}

#[derive(Debug, Default)]
struct Times {
    launches: Vec<TimedLaunch>,
    /// How long a launch of each kind takes.
    kinds: HashMap<Kind, f64>,
}

/// What a launch's time depends on: the kernel, its blocks, the bytes of its buffers.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Kind(String, [usize; 3], Vec<usize>);

impl Kind {
    fn of(launch: &Launch<'_>) -> Self {
        let bytes = |arg: &Arg| match arg {
            Arg::Input(slice) | Arg::Output(slice) => Some(slice.bytes),
            _ => None,
        };
        Self(launch.kernel.into(), launch.grid, launch.args.iter().filter_map(bytes).collect())
    }
}

/// How long one launch took.
#[derive(Clone, Debug)]
pub struct TimedLaunch {
    /// The kernel.
    pub kernel: String,
    /// The least, over rounds of many launches in a row: a short kernel's is the time between two launches.
    pub seconds: f64,
}

impl Timed {
    /// The GPU of `cuda`, with nothing loaded.
    pub fn new(cuda: &Cuda) -> Self {
        Self { driver: cuda.shared_driver(), times: Mutex::default() }
    }

    /// The launches since the last call, in their order; their kinds are forgotten.
    pub fn take_times(&self) -> Vec<TimedLaunch> {
        std::mem::take(&mut *self.times()).launches
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds that copying `bytes` from one place on `device`, which this drives, to another takes.
    ///
    /// # Errors
    /// [`Error::Device`](crate::error::Error::Device) where there is no room for two such places.
    pub fn time_copy(&self, device: &Device, bytes: usize) -> Result<f64> {
        let (from, to) = (Buffer::zeros(device, bytes)?, Buffer::uninit(device, bytes)?);
        let (from, to) = (from.device_ptr()?, to.device_ptr()?);
        self.repeat(|| self.copy_on_device(to, from, bytes, Stream::Compute))
    }

    /// Seconds that one of many `work` in a row takes, after one to warm up.
    fn repeat(&self, work: impl Fn() -> Result<()>) -> Result<f64> {
        let round = |times: usize| {
            let start = Instant::now();
            (0..times).try_for_each(|_| work())?;
            self.synchronize(Stream::Compute)?;
            Ok(start.elapsed().as_secs_f64() / times as f64)
        };
        self.synchronize(Stream::Compute)?;
        let first = round(1)?;
        let once = if first < ROUND.as_secs_f64() { round(1)? } else { first };
        let times = (ROUND.as_secs_f64() / once).clamp(1.0, MOST_REPEATS) as usize;
        if times == 1 {
            return Ok(once);
        }
        (0..ROUNDS).try_fold(f64::INFINITY, |best, _| Ok(best.min(round(times)?)))
    }
}

impl Driver for Timed {
    fn name(&self) -> &str {
        self.driver.name()
    }

    fn allocate(&self, bytes: usize) -> Result<Option<DevicePtr>> {
        self.driver.allocate(bytes)
    }

    fn free(&self, ptr: DevicePtr) {
        self.driver.free(ptr);
    }

    fn copy_to_device(&self, dst: DevicePtr, src: &[u8], stream: Stream) -> Result<()> {
        self.driver.copy_to_device(dst, src, stream)
    }

    fn copy_to_host(&self, dst: &mut [u8], src: DevicePtr, stream: Stream) -> Result<()> {
        self.driver.copy_to_host(dst, src, stream)
    }

    fn copy_on_device(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Stream) -> Result<()> {
        self.driver.copy_on_device(dst, src, bytes, stream)
    }

    fn set(&self, dst: DevicePtr, value: u8, bytes: usize, stream: Stream) -> Result<()> {
        self.driver.set(dst, value, bytes, stream)
    }

    fn load(&self, ptx: &str) -> Result<Module> {
        self.driver.load(ptx)
    }

    fn launch(&self, module: Module, launch: &Launch<'_>, stream: Stream) -> Result<()> {
        let run = || self.driver.launch(module, launch, stream);
        let kind = Kind::of(launch);
        let known = self.times().kinds.get(&kind).copied();
        let seconds = match known {
            Some(seconds) => run().map(|()| seconds),
            None => self.repeat(run),
        }?;
        let mut times = self.times();
        times.kinds.insert(kind, seconds);
        times.launches.push(TimedLaunch { kernel: launch.kernel.into(), seconds });
        Ok(())
    }

    fn wait(&self, stream: Stream, other: Stream) -> Result<()> {
        self.driver.wait(stream, other)
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        self.driver.synchronize(stream)
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        self.driver.memory_info()
    }
}
