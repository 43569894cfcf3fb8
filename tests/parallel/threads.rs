//! Ranks that are threads of one process.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vicugna::device::{Buffer, Device};
use vicugna::error::{Error, Result};
use vicugna::parallel::{Communicator, threads};

const LONG: Duration = Duration::from_secs(60);

fn buffer(bytes: &[u8]) -> Arc<Buffer> {
    Arc::new(Buffer::from_bytes(&Device::Cpu, bytes).unwrap())
}

/// What `f` gives on each of so many ranks, which wait for each other no longer than `limit`.
fn on_ranks<T: Send>(ranks: usize, limit: Duration, f: impl Fn(&dyn Communicator) -> T + Sync) -> Vec<T> {
    let ways = threads(ranks, limit);
    thread::scope(|scope| {
        let start = |way: Arc<dyn Communicator>| {
            let f = &f;
            scope.spawn(move || f(&*way))
        };
        let started: Vec<_> = ways.into_iter().map(start).collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn lost<T: std::fmt::Debug>(result: &Result<T>) -> String {
    match result {
        Err(error @ Error::Lost { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn every_part_comes_to_its_rank(ranks in 1..6usize, lengths in prop::collection::vec(0..50usize, 0..4)) {
        let content = |from: usize, to: usize, part: usize| vec![(from * 36 + to * 6 + part) as u8; lengths[part] + from];
        let given = |from, to| (0..lengths.len()).map(|part| buffer(&content(from, to, part))).collect::<Vec<_>>();
        let sizes: Vec<Vec<usize>> =
            (0..ranks).map(|from| lengths.iter().map(|length| length + from).collect()).collect();
        let found = on_ranks(ranks, LONG, |way| {
            let me = way.rank();
            let all = way.all_gather("all", given(me, 0), &sizes).unwrap();
            let each = way.all_to_all("each", (0..ranks).map(|to| given(me, to)).collect(), &sizes).unwrap();
            // Begun in one order, waited for in another.
            let each = each.wait().unwrap();
            (all.wait().unwrap(), each)
        });
        for (me, (all, each)) in found.iter().enumerate() {
            for from in 0..ranks {
                for part in 0..lengths.len() {
                    prop_assert_eq!(all[from][part].host().unwrap(), &content(from, 0, part)[..]);
                    prop_assert_eq!(each[from][part].host().unwrap(), &content(from, me, part)[..]);
                }
            }
        }
    }
}

#[test]
fn what_ranks_say_is_heard_by_all() {
    let heard = on_ranks(3, LONG, |way| {
        let said = way.gather("numbers", &(way.rank() * 7)).unwrap();
        (said, way.broadcast("a word", (way.rank() == 0).then_some(&"word".to_string())).unwrap())
    });
    assert!(heard.iter().all(|heard| *heard == (vec![0, 7, 14], "word".to_string())), "{heard:?}");
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let begun = Instant::now();
    let found = on_ranks(3, Duration::from_millis(200), |way| match way.rank() {
        1 => Ok(vec![]),
        _ => way.gather("the roll", &()),
    });
    assert!(found[1].is_ok());
    // The first to give up says why, and the other hears it.
    assert_eq!([&found[0], &found[2]].map(lost), ["the roll: rank 1 did not come in 0 s"; 2]);
    assert!(begun.elapsed() < LONG);
}

#[test]
fn a_rank_that_fails_frees_the_others_at_once() {
    let begun = Instant::now();
    let found = on_ranks(4, LONG, |way| match way.rank() {
        2 => {
            thread::sleep(Duration::from_millis(50));
            way.abort("out of luck", 1);
            Ok(vec![])
        }
        _ => way.gather("the roll", &()),
    });
    assert_eq!([&found[0], &found[1], &found[3]].map(lost), ["rank 2: out of luck"; 3]);
    assert!(begun.elapsed() < LONG / 2);
}

#[test]
fn ranks_in_different_places_are_told_apart() {
    let found = on_ranks(2, LONG, |way| match way.rank() {
        0 => way.gather("gradients", &()),
        _ => way.gather("weights", &()),
    });
    for error in found.iter().map(lost) {
        let either = ["rank 1 is at weights, rank 0 at gradients", "rank 0 is at gradients, rank 1 at weights"];
        assert!(either.contains(&&error[..]), "{error}");
    }
}

#[test]
fn a_part_of_another_length_is_refused() {
    let found = on_ranks(2, LONG, |way| {
        let mine = buffer(&vec![0; 8 + way.rank()]);
        way.all_gather("bytes", vec![mine], &[vec![8], vec![8]]).and_then(|exchange| exchange.wait())
    });
    let errors: Vec<String> = found.iter().filter(|found| found.is_err()).map(lost).collect();
    assert!(
        !errors.is_empty() && errors.iter().all(|error| error.contains("bytes: rank 1 sent [9] bytes")),
        "{errors:?}"
    );
}
