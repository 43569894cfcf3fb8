//! What started this process.

use crate::error::{Error, Result};

/// How ranks reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// They are threads of one process.
    Threads,
    /// They are processes, which mpirun or srun started.
    Mpi,
}

/// The variables in which launchers say how many processes they started: Open MPI's, MPICH's, Slurm's, torchrun's.
const SIZES: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", "WORLD_SIZE"];

/// How many processes a launcher says that it started, if they are several, and the variable in which it does.
pub fn launched() -> Option<(usize, &'static str)> {
    SIZES.into_iter().find_map(|name| {
        let size: usize = std::env::var(name).ok()?.parse().ok()?;
        (size > 1).then_some((size, name))
    })
}

/// The error of several processes, each of which would be the only rank of a run of its own.
pub fn strangers(size: usize, variable: &str, hint: &str) -> Error {
    let detail = format!("{variable} says that this is one of {size} processes, but it finds none of the others");
    Error::input("--ranks", detail).with_hint(hint.to_string())
}

/// Refuses a number of ranks that was asked for and is not that of the processes.
///
/// # Errors
/// [`Error::Input`] that names both.
pub fn refuse_other(asked: Option<usize>, processes: usize) -> Result<()> {
    match asked {
        Some(asked) if asked != processes => {
            let detail = format!("{asked} ranks, but the launcher started {processes} processes");
            Err(Error::input("--ranks", detail).with_hint("leave it away: each process is a rank"))
        }
        _ => Ok(()),
    }
}

/// How many threads the CPUs of this host run at once, those that this process is not bound to included.
pub fn cores() -> usize {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|ranges| count(ranges.trim()));
    online.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// How many numbers there are in ranges like `0-3,8`.
fn count(ranges: &str) -> Option<usize> {
    let of = |range: &str| match range.split_once('-') {
        Some((first, last)) => Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1),
        None => range.parse::<usize>().ok().map(|_| 1),
    };
    ranges.split(',').map(of).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ranges_are_counted() {
        let counts = ["0", "0-3", "0-3,8", "2-2,4-7", "", "3-1"].map(super::count);
        assert_eq!(counts, [Some(1), Some(4), Some(5), Some(5), None, None]);
    }
}
