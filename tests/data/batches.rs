//! Orders, splits and batches.

use proptest::prelude::*;
use vicugna::data::packing::{Capacity, pack};
use vicugna::data::shuffle::order;
use vicugna::data::split::split;
use vicugna::nn::Sequence;

/// Sequences of these lengths whose tokens are all different.
fn sequences(lengths: &[usize]) -> Vec<Sequence> {
    let mut ids = 0u32..;
    let sequence = |&length: &usize| {
        let input_ids: Vec<u32> = ids.by_ref().take(length).collect();
        let labels = input_ids.iter().map(|&id| id as i32 - 3).collect();
        Sequence { input_ids, labels }
    };
    lengths.iter().map(sequence).collect()
}

/// A run that is taken up again must find the records where it left them: these numbers never change.
#[test]
fn the_order_is_what_it_has_always_been() {
    assert_eq!(order(8, 42, 0), [1, 3, 4, 5, 0, 7, 6, 2]);
    assert_eq!(order(8, 42, 1), [0, 4, 1, 6, 5, 3, 2, 7]);
    assert_eq!(order(8, 43, 0), [7, 3, 4, 2, 5, 1, 0, 6]);
    assert_eq!((order(0, 42, 0), order(1, 42, 0)), (vec![], vec![0]));
    assert_eq!(split((0..10).collect(), 0.2, 0), (vec![0, 3, 4, 5, 6, 7, 8, 9], vec![1, 2]));
}

/// Of 6 places for 3 records, each comes up as often as another.
#[test]
fn all_orders_are_as_likely() {
    let mut counts = std::collections::BTreeMap::new();
    for epoch in 0..6000 {
        *counts.entry(order(3, 7, epoch)).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 6);
    assert!(counts.values().all(|&count| (880..1120).contains(&count)), "beyond 4 standard deviations: {counts:?}");
}

#[test]
fn a_split_leaves_something_to_train_on() {
    let sizes = |len: usize, ratio: f64| {
        let (training, evaluation) = split((0..len).collect(), ratio, 1);
        (training.len(), evaluation.len())
    };
    assert_eq!(sizes(1188, 0.1), (1069, 119));
    assert_eq!(sizes(100, 0.07), (93, 7));
    assert_eq!(sizes(35, 0.2), (28, 7));
    assert_eq!(sizes(10, 0.0), (10, 0));
    assert_eq!(sizes(10, 1.0), (1, 9));
    assert_eq!(sizes(1, 0.5), (1, 0));
    assert_eq!(sizes(0, 0.5), (0, 0));
    assert_eq!(sizes(10, f64::NAN), (10, 0));
}

proptest! {
    #[test]
    fn an_order_holds_everything_once(len in 0usize..200, seed: u64, epoch in 0u64..5) {
        let mut sorted = order(len, seed, epoch);
        prop_assert_eq!(&sorted, &order(len, seed, epoch));
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..len).collect::<Vec<_>>());
    }

    #[test]
    fn a_split_holds_everything_once_and_in_order(len in 0usize..100, ratio in 0.0f64..1.0, seed: u64) {
        let (training, evaluation) = split((0..len).collect(), ratio, seed);
        prop_assert!(training.is_sorted() && evaluation.is_sorted());
        let mut all = [training, evaluation].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..len).collect::<Vec<_>>());
    }

    /// Nothing is dropped, torn or moved, no batch is over its capacity, and none could have taken the next one too.
    #[test]
    fn packing_keeps_every_token_in_order(lengths in prop::collection::vec(1usize..30, 0..40), most in 1usize..64, by_tokens: bool) {
        let sequences = sequences(&lengths);
        let capacity = if by_tokens { Capacity::Tokens(most) } else { Capacity::Sequences(most) };
        let batches = pack(&sequences, capacity);
        prop_assert!(batches.iter().flatten().copied().eq(&sequences));
        let size = |batch: &[&Sequence]| match by_tokens {
            true => batch.iter().map(|sequence| sequence.input_ids.len()).sum(),
            false => batch.len(),
        };
        for batch in &batches {
            prop_assert!((1..=most).contains(&size(batch)) || batch.len() == 1);
        }
        for pair in batches.windows(2) {
            prop_assert!(size(&pair[0]) + size(&pair[1][..1]) > most);
        }
    }
}
