//! The suite's launches against what GPUs made of them (`tests/recorded`).

use crate::vectors::{self, Buffer, Card, Entry, Exactness, Reader, Recorded, VARIABLE, Vector};
use std::process::Command;

/// Every launch of the suite: it runs once more, in a process of its own.
fn launches() -> Vec<Vector> {
    let path = std::env::temp_dir().join(format!("vicugna-vectors-{}", std::process::id()));
    let mut suite = Command::new(std::env::current_exe().unwrap());
    let output = suite.args(["--skip", "recorded", "--skip", "fuzz", "--skip", "traps"]).env(VARIABLE, &path).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let vectors = Reader(&std::fs::read(&path).unwrap()).vectors().expect("whole launches");
    std::fs::remove_file(path).unwrap();
    vectors
}

#[test]
fn a_gpu_made_the_same() {
    vectors::replay(launches);
}

fn vector(exact: Exactness, after: &[u8]) -> Vector {
    let buffer = Buffer { before: vec![0xff; after.len()], addresses: Vec::new(), after: after.into(), exact };
    Vector {
        name: "a test".into(),
        kernel: false,
        ptx: "a text".into(),
        entry: "k".into(),
        grid: [1, 2, 3],
        block: [4, 5, 6],
        shared_bytes: 7,
        args: vec![vectors::Arg::Address(0), vectors::Arg::Value(vec![8])],
        buffers: vec![buffer],
    }
}

fn close() -> Exactness {
    Exactness::Close { element: vectors::Element::F32, relative: 1e-3, least: 1.0 }
}

/// What a file says of a launch that left `found` on the GPU and `now` on the emulator.
fn replayed(exact: Exactness, then: &[u8], found: &[u8], now: &[u8]) -> Result<f64, String> {
    let entry = Entry::new(&vector(exact, then), Ok(&[found.to_vec()]));
    let card = Card { name: "a card".into(), compute_capability: "8.0".into(), driver: "12.0".into(), emulated: true };
    let bytes = Recorded { card: card.clone(), entries: vec![entry] }.to_bytes();
    assert!(Recorded::from_bytes(&bytes[..bytes.len() - 1]).is_none(), "half a file was taken for one");
    let recorded = Recorded::from_bytes(&bytes).unwrap();
    assert_eq!(recorded.card, card);
    recorded.entries[0].compare(&vector(exact, now))
}

#[test]
fn a_difference_is_told() {
    let [one, near, far] = [1f32, 1.0005, 1.1].map(f32::to_le_bytes);
    assert_eq!(replayed(Exactness::Bits, &one, &one, &one), Ok(0.0));
    assert!(replayed(Exactness::Bits, &one, &near, &one).is_err(), "the GPU has other bits");
    assert!(replayed(Exactness::Bits, &one, &one, &near).is_err(), "the emulator's bits changed");
    assert_eq!(replayed(Exactness::Bits, &one, &near, &near), Ok(0.0), "the emulator was put right");
    assert!(replayed(close(), &one, &near, &one).is_ok_and(|share| share > 0.4 && share < 0.6));
    assert!(replayed(close(), &one, &far, &one).is_err());
    assert!(replayed(close(), &one, &one, &far).is_err());
    // A word behind those that are kept.
    let (long, mut other) = (vec![0; 10_000], vec![0; 10_000]);
    other[9_000] = 1;
    assert!(replayed(Exactness::Bits, &long, &other, &long).is_err());
}

#[test]
fn launches_survive_a_file() {
    let mut writer = vectors::Writer::default();
    let first = vector(close(), &[1, 2, 3]);
    for vector in [&first, &vector(Exactness::Bits, &[])] {
        vector.write(&mut writer);
    }
    let read = Reader(writer.bytes()).vectors().unwrap();
    assert_eq!(read.len(), 2);
    assert_eq!(format!("{:?}", read[0]), format!("{first:?}"));
    assert_eq!(read[0].fingerprint(), first.fingerprint());
    assert!(Reader(&writer.bytes()[..writer.bytes().len() - 1]).vectors().is_none());
    let other = Vector { grid: [1, 2, 4], ..first.clone() };
    assert_ne!(other.fingerprint(), first.fingerprint());
}
