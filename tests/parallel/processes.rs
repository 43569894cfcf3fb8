//! Ranks that are processes: one that panics.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vicugna::parallel::{Communicator, Mpi};

#[test]
fn a_rank_that_panics_ends_the_job() {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "3"]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "processes::rank_1_panics", "--ignored", "--nocapture"]);
    let job = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("mpirun, see docs/sharding.md");
    let begun = Instant::now();
    let ran = job.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert_ne!(ran.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("rank 1 panicked"), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
#[ignore = "what each rank of a_rank_that_panics_ends_the_job does"]
fn rank_1_panics() {
    let job = Mpi::join(Duration::from_secs(60)).unwrap();
    assert_ne!(job.rank(), 1, "as it is meant to be");
    (&*job as &dyn Communicator).gather("what never comes", &()).unwrap();
}
