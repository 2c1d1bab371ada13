//! Synthetic tasks: what their sequences hold, and where their weights are.

use super::*;

#[test]
fn a_copy_is_weighed_where_it_can_be_known() {
    for time in [2, 3, 16, 17] {
        let half = time / 2;
        for example in examples(CopyTask { vocab_size: 5 }, time, 1).unwrap().take(50) {
            assert_eq!(example.ids[1..], example.targets[..time - 1]);
            assert_eq!(example.ids[half], 0);
            assert_eq!(example.targets[half..2 * half], example.ids[..half]);
            assert!(example.ids[..half].iter().all(|id| (1..5).contains(id)));
            let weighed: Vec<usize> = (0..time).filter(|at| example.weights[*at] == 1.0).collect();
            assert!(weighed.into_iter().eq(half..2 * half));
            assert!(example.weights.iter().all(|weight| [0.0, 1.0].contains(weight)));
        }
    }
}

#[test]
fn every_key_is_asked_once_after_the_pairs_and_its_value_is_the_target() {
    for (time, pairs, random_filler) in [(16, 4, true), (64, 8, true), (64, 8, false), (67, 3, true)] {
        let task = Mqar {
            random_filler,
            vocab_size: 64,
            ..Mqar::new(pairs)
        };
        for example in examples(task, time, 1).unwrap().take(50) {
            let given: HashMap<u32, u32> = example.ids[..2 * pairs]
                .chunks(2)
                .map(|pair| (pair[0], pair[1]))
                .collect();
            assert_eq!(given.len(), pairs);
            assert!(
                given
                    .iter()
                    .all(|(key, value)| (1..32).contains(key) && (32..64).contains(value))
            );
            assert_eq!(given.values().collect::<BTreeSet<_>>().len(), pairs);
            let asked: Vec<usize> = (0..time).filter(|at| example.weights[*at] != 0.0).collect();
            assert_eq!(asked.len(), pairs);
            let mut keys = BTreeSet::new();
            for at in asked {
                assert!(at >= 2 * pairs && at % 2 == 0 && example.weights[at] == 1.0);
                assert_eq!(given.get(&example.ids[at]), Some(&example.targets[at]));
                keys.insert(example.ids[at]);
            }
            assert_eq!(keys.len(), pairs);
            assert!(random_filler || example.ids[2 * pairs..].iter().filter(|id| **id != 0).count() == pairs);
        }
    }
}

#[test]
fn the_power_says_how_soon_keys_are_asked() {
    let mean = |power: f64| {
        let task = Mqar {
            power,
            ..Mqar::new(1)
        };
        let places = examples(task, 202, 1).unwrap().take(2000).map(|example| {
            let place = example.weights.iter().position(|weight| *weight == 1.0).unwrap();
            ((place - 2) / 2 + 1) as f64
        });
        places.sum::<f64>() / 2000.0
    };
    // 100 slots, p ∝ i^(a − 1): 50.5 for a = 1 (standard error 0.65). For a = 0.01 the mean is Σ i^0.01 / Σ i^(−0.99) = 19.9
    // (standard error 0.56).
    let slots = || (1..=100).map(f64::from);
    let expected =
        slots().map(|slot| slot.powf(0.01)).sum::<f64>() / slots().map(|slot| slot.powf(-0.99)).sum::<f64>();
    assert!((mean(1.0) - 50.5).abs() < 3.3, "{}", mean(1.0));
    assert!(
        (mean(0.01) - expected).abs() < 2.8,
        "{} against {expected}",
        mean(0.01)
    );
}

#[test]
fn a_passkey_stands_where_its_depth_says_in_filler_that_never_changes() {
    let mut rng = StdRng::seed_from_u64(1);
    let task = PasskeyLite::default();
    for length in [11, 12, 64, 128, 1000, 8192] {
        let blocks = (length - 3) / 8;
        for depth in [0.0, 0.25, 0.5, 0.99, 1.0] {
            let prompt = task.prompt(length, depth, &mut rng).unwrap();
            assert_eq!(prompt.ids.len(), length);
            assert_eq!(prompt.ids[length - 3..], [21, 18, 19]);
            let first = (length - 3) % 8;
            let place = first + 8 * (depth * (blocks - 1) as f64).floor() as usize;
            let key = &prompt.ids[place..place + 8];
            assert_eq!(
                (&key[..2], &key[2..7], key[7]),
                (&[18, 19][..], &prompt.answer[..], 20)
            );
            assert!(prompt.answer.iter().all(|digit| *digit < 10));
            for (at, id) in prompt.ids[..length - 3].iter().enumerate() {
                let filler = 10 + ((at + 8 - first) % 8) as u32;
                assert!((place..place + 8).contains(&at) || *id == filler, "{at}: {id}");
            }
        }
    }
    let error = |length, depth| {
        task.prompt(length, depth, &mut StdRng::seed_from_u64(1))
            .unwrap_err()
            .to_string()
    };
    holds(&error(10, 0.5), &["length", "at least 11", "found 10"]);
    holds(&error(64, 1.5), &["depth", "found 1.5"]);
    holds(&error(64, f64::NAN), &["depth", "NaN"]);
}

#[test]
fn passkeys_to_train_on_end_with_their_answer_and_come_at_every_depth() {
    let (time, mut places) = (128, HashMap::<usize, usize>::new());
    for example in examples(PasskeyLite::default(), time, 1).unwrap().take(1500) {
        assert_eq!(example.ids[1..], example.targets[..time - 1]);
        assert_eq!(example.ids[time - 7..time - 4], [21, 18, 19]);
        let place = example.ids.windows(2).position(|pair| pair == [18, 19]).unwrap();
        assert_eq!(example.targets[time - 5..], example.ids[place + 2..place + 7]);
        assert!(example.weights[..time - 5].iter().all(|weight| *weight == 0.1));
        assert_eq!(example.weights[time - 5..], [1.0; 5]);
        *places.entry(place).or_default() += 1;
    }
    // 15 blocks, 100 each, give or take five standard deviations of 9.7.
    assert_eq!(places.len(), 15);
    assert!(
        places.values().all(|count| count.abs_diff(100) < 49),
        "{places:?}"
    );
}

#[test]
fn pairs_stand_in_filler_that_goes_on_and_every_key_is_asked_once_after_it() {
    let task = PairsInFiller {
        keys: 20,
        values: 5,
        ..PairsInFiller::new(vec![1, 4, 9])
    };
    // 30 tokens have room for 7 pairs, so that 9 are never drawn; 4 · 9 tokens are nothing but pairs.
    for (time, counts) in [(30, vec![1, 4]), (36, vec![1, 4, 9]), (200, vec![1, 4, 9])] {
        let mut drawn = BTreeSet::new();
        for example in examples(task.clone(), time, 1).unwrap().take(120) {
            assert_eq!(example.ids[1..], example.targets[..time - 1]);
            let mark = example.ids.iter().position(|id| *id == 8).unwrap();
            let text = &example.ids[..mark];
            let filler: Vec<u32> = text.iter().copied().filter(|id| *id < 8).collect();
            assert!(filler.iter().enumerate().all(|(at, id)| *id == (at % 8) as u32));
            let pairs: Vec<(u32, u32)> = text
                .windows(2)
                .filter(|pair| (9..29).contains(&pair[0]))
                .map(|pair| (pair[0], pair[1]))
                .collect();
            let table: HashMap<u32, u32> = pairs.iter().copied().collect();
            assert_eq!(table.len(), pairs.len(), "no key twice");
            assert!(table.values().all(|value| (29..34).contains(value)));
            assert_eq!(mark, time - 2 * pairs.len());
            assert_eq!(filler.len(), time - 4 * pairs.len());
            let asked: Vec<usize> = (0..time).filter(|at| example.weights[*at] == 1.0).collect();
            let keys: BTreeSet<u32> = asked.iter().map(|at| example.ids[*at]).collect();
            assert_eq!((asked.len(), keys.len()), (pairs.len(), pairs.len()));
            for at in asked {
                assert!(at > mark);
                assert_eq!(table.get(&example.ids[at]), Some(&example.targets[at]));
            }
            assert!(example.weights.iter().all(|weight| [0.1, 1.0].contains(weight)));
            drawn.insert(pairs.len());
        }
        assert!(drawn.into_iter().eq(counts), "{time} tokens");
    }
}

#[test]
fn a_pair_in_filler_is_anywhere_with_equal_probability_and_asking_weighs_answers_alone() {
    let task = PairsInFiller::new(vec![2, 8]).asking(1);
    let mut places = HashMap::<usize, usize>::new();
    for example in examples(task, 23, 1).unwrap().take(2000) {
        let place = example.ids.iter().position(|id| *id >= 9).unwrap();
        *places.entry(place).or_default() += 1;
        assert_eq!(example.weights.iter().sum::<f32>(), 1.0);
        assert_eq!(example.weights[22], 1.0);
    }
    // 20 units, 100 each, give or take five standard deviations of 9.7.
    assert_eq!(places.len(), 20);
    assert!(
        places.values().all(|count| count.abs_diff(100) < 49),
        "{places:?}"
    );
    // One of two values that were read, or any of 64: ½ + ½ / 64.
    let chance = PairsInFiller::new(vec![2]).chance(2);
    assert!((chance - 0.507_812_5).abs() < 1e-12, "{chance}");
}

#[test]
fn the_answer_of_induction_heads_is_the_token_after_the_first_marker() {
    for time in [3, 10, 64] {
        for example in examples(InductionHeads::default(), time, 1).unwrap().take(50) {
            let marker = example.ids.iter().position(|id| *id == 0).unwrap();
            assert!(marker < time - 2);
            assert_eq!(example.ids.iter().filter(|id| **id == 0).count(), 2);
            assert_eq!(example.targets[time - 1], example.ids[marker + 1]);
            assert_eq!(example.weights.iter().sum::<f32>(), 1.0);
            assert_eq!(example.weights[time - 1], 1.0);
        }
    }
}

#[test]
fn a_task_needs_room() {
    let check = |task: &dyn Task, time: usize, parts: &[&str]| {
        assert!(task.check(time + 1).is_ok());
        holds(&task.check(time).unwrap_err().to_string(), parts);
    };
    check(&CopyTask::default(), 1, &["time", "at least 2", "found 1"]);
    check(&InductionHeads::default(), 2, &["time", "at least 3", "found 2"]);
    check(&Mqar::new(8), 31, &["time", "at least 32", "8 pairs", "found 31"]);
    let pairs = PairsInFiller::new(vec![8, 3]);
    check(&pairs, 11, &["time", "at least 12", "3 pairs", "found 11"]);
    check(&PasskeyLite::default(), 14, &["time", "at least 15", "found 14"]);
    assert!(examples(CopyTask::default(), 0, 1).is_err());
}

/// What a reader who keeps a table of all that it was told would answer, and whether it is right wherever it is asked.
fn solved(example: &Example, answer: impl Fn(&[u32]) -> Option<u32>) -> usize {
    let asked: Vec<usize> = (0..example.ids.len())
        .filter(|at| example.weights[*at] != 0.0)
        .collect();
    for at in &asked {
        assert_eq!(
            answer(&example.ids[..=*at]),
            Some(example.targets[*at]),
            "at {at}"
        );
    }
    asked.len()
}

#[test]
fn pairs_that_are_read_again_are_the_same_pairs() {
    let task = Mqar {
        passes: 3,
        vocab_size: 64,
        ..Mqar::new(5)
    };
    assert!(examples(task.clone(), 39, 1).is_err());
    for example in examples(task, 40, 1).unwrap().take(30) {
        assert_eq!(example.ids[..10], example.ids[10..20]);
        assert_eq!(example.ids[..10], example.ids[20..30]);
        let table: HashMap<u32, u32> = example.ids[..10]
            .chunks(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        assert_eq!(solved(&example, |read| table.get(read.last()?).copied()), 5);
    }
}

#[test]
fn the_last_value_of_a_key_is_the_right_one() {
    let task = ForgettingMqar {
        updates: 3,
        vocab_size: 40,
        ..ForgettingMqar::new(6)
    };
    let mut stale = 0;
    for example in examples(task, 50, 1).unwrap().take(50) {
        let pairs: Vec<(u32, u32)> = example.ids[..18]
            .chunks(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        let values: BTreeSet<u32> = pairs.iter().map(|(_, value)| *value).collect();
        assert_eq!(values.len(), 9, "no value twice");
        let last = |key: u32| {
            pairs
                .iter()
                .rev()
                .find(|(other, _)| *other == key)
                .map(|(_, value)| *value)
        };
        assert_eq!(solved(&example, |read| last(*read.last()?)), 6);
        let first: HashMap<u32, u32> = pairs[..6].iter().copied().collect();
        let asked = (0..50).filter(|at| example.weights[*at] != 0.0);
        stale += asked
            .filter(|at| first[&example.ids[*at]] != example.targets[*at])
            .count();
    }
    assert_eq!(stale, 150);
}

#[test]
fn only_both_keys_together_say_the_value() {
    let task = CompositionalMqar {
        vocab_size: 60,
        ..CompositionalMqar::new(4)
    };
    for example in examples(task, 100, 1).unwrap().take(50) {
        let table: HashMap<[u32; 2], u32> = example.ids[..48]
            .chunks(3)
            .map(|triple| ([triple[0], triple[1]], triple[2]))
            .collect();
        assert_eq!(table.len(), 16);
        for place in 0..2 {
            let keys: BTreeSet<u32> = table.keys().map(|keys| keys[place]).collect();
            assert_eq!(keys.len(), 4);
        }
        let answer = |read: &[u32]| match read {
            [.., first, second] => table.get(&[*first, *second]).copied(),
            _ => None,
        };
        assert_eq!(solved(&example, answer), 16);
    }
}

#[test]
fn the_shared_element_is_the_only_one_in_both_lists() {
    let sizes = vec![(1, 9), (9, 1), (4, 4)];
    let task = SetDisjointness {
        vocab_size: 32,
        ..SetDisjointness::new(sizes.clone())
    };
    let mut found = BTreeSet::new();
    for example in examples(task, 15, 1).unwrap().take(60) {
        let place = |mark: u32| example.ids.iter().position(|id| *id == mark).unwrap();
        let (first, second, end) = (place(1), place(2), place(3));
        assert_eq!(end, 14);
        assert!(example.ids[..first].iter().all(|id| *id == 0));
        let set = |from: usize, to: usize| example.ids[from..to].iter().copied().collect::<BTreeSet<u32>>();
        let (a, b) = (set(first + 1, second), set(second + 1, end));
        found.insert((a.len(), b.len()));
        let shared: Vec<u32> = a.intersection(&b).copied().collect();
        assert_eq!(solved(&example, |_| shared.first().copied()), 1);
        assert_eq!(shared.len(), 1);
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), sizes_sorted(sizes));
    for (sizes, time) in [
        (vec![], 20),
        (vec![(0, 3)], 20),
        (vec![(4, 40)], 60),
        (vec![(8, 8)], 18),
    ] {
        let task = SetDisjointness {
            vocab_size: 40,
            ..SetDisjointness::new(sizes)
        };
        assert!(examples(task, time, 1).is_err());
    }
}

fn sizes_sorted(mut sizes: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    sizes.sort_unstable();
    sizes
}
