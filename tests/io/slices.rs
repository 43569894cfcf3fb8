//! Tensors that are cut among files, in one way, and read in another.

use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;
use vicugna::autograd::Tensor;
use vicugna::device::Device;
use vicugna::io::slices::{Slice, Slices, write};
use vicugna::shape::Shape;

fn values(shape: Shape, salt: usize) -> Vec<f32> {
    (0..shape.numel()).map(|i| (i * 31 + salt) as f32 / 7.0).collect()
}

fn slice(name: &str, shape: Shape, salt: usize, (start, end): (usize, usize)) -> Slice {
    let values = &values(shape, salt)[start..end];
    let values = Tensor::from_slice(&Device::Cpu, [values.len()], values).unwrap();
    Slice { name: name.into(), offset: start, shape, values }
}

fn file(folder: &Path, number: usize) -> std::path::PathBuf {
    folder.join(format!("slices-{number}.safetensors"))
}

proptest! {
    #[test]
    fn what_is_cut_in_one_way_is_read_in_another(
        sizes in prop::collection::vec((1..9usize, 1..9usize), 1..5),
        cuts in prop::collection::vec(0..1000usize, 0..4),
        (from, to) in (0..1000usize, 0..1000usize),
    ) {
        let folder = TempDir::new().unwrap();
        let shapes: Vec<Shape> = sizes.into_iter().map(|(n, k)| [n, k].into()).collect();
        // Each tensor between the same parts of itself, some of which are empty.
        let at = |shape: &Shape, part: usize| shape.numel() * part / 1000;
        let mut ends = cuts;
        ends.extend([0, 1000]);
        ends.sort_unstable();
        for (number, pair) in ends.windows(2).enumerate() {
            let cut = |(salt, shape): (usize, &Shape)| {
                slice(&format!("t{salt}"), *shape, salt, (at(shape, pair[0]), at(shape, pair[1])))
            };
            write(&file(folder.path(), number), &shapes.iter().enumerate().map(cut).collect::<Vec<_>>()).unwrap();
        }
        let stored = Slices::open(folder.path()).unwrap();
        prop_assert_eq!(stored.names().count(), shapes.len());
        for (salt, shape) in shapes.iter().enumerate() {
            let name = format!("t{salt}");
            prop_assert_eq!(stored.shape(&name).unwrap(), *shape);
            let wanted = at(shape, from.min(to))..at(shape, from.max(to));
            let found = stored.read(&name, *shape, wanted.clone()).unwrap().to_vec::<f32>().unwrap();
            prop_assert_eq!(&found[..], &values(*shape, salt)[wanted]);
        }
    }
}

#[test]
fn what_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    let shape: Shape = [4, 5].into();
    write(&file(folder.path(), 1), &[slice("t", shape, 0, (0, 8))]).unwrap();
    write(&file(folder.path(), 2), &[slice("t", shape, 0, (12, 20))]).unwrap();
    let stored = Slices::open(folder.path()).unwrap();
    let refusal = |name: &str, shape: Shape, elements| stored.read(name, shape, elements).unwrap_err().to_string();
    assert!(stored.read("t", shape, 2..8).is_ok() && stored.read("t", shape, 12..13).is_ok());
    assert!(refusal("t", shape, 7..13).ends_with("tensor t lacks its elements from 8 on"));
    assert!(refusal("t", [5, 4].into(), 0..1).contains("tensor t must be [5, 4], got [4, 5]"));
    assert!(refusal("u", shape, 0..1).ends_with("tensor u is missing"));

    write(&file(folder.path(), 3), &[slice("t", [2, 10].into(), 0, (8, 12))]).unwrap();
    let error = Slices::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("slices-3.safetensors: tensor t is [2, 10], in another file [4, 5]"), "{error}");
}
