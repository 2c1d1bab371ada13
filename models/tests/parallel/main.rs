//! Several ranks against one: the same messages, the same losses, the same states, the same training.
//!
//! The ranks are threads here. `tests/mpi` makes the same checks on processes under MPI.

mod checks;
mod definition;
mod gradients;
mod interrupted;
mod kinds;
mod sharding;
mod trainings;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use spillway_models::parallel::collectives::{agree, barrier};
use spillway_models::parallel::{Communicator, ParallelError, Tag, Threads};
use spillway_models::train::{Snapshot, TrainConfig, TrainError, Trainer};

use sharding::Whole;

/// Longer than any wait of a test on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Makes a check on 1, 2, 3 and 5 ranks.
fn on_ranks(check: impl Fn(&dyn Communicator) + Sync) {
    for size in [1, 2, 3, 5] {
        let results = Threads::run(size, TIMEOUT, |ranks| -> Result<(), ParallelError> {
            check(ranks);
            Ok(())
        });
        for (rank, result) in results.into_iter().enumerate() {
            assert_eq!(result, Ok(()), "rank {rank} of {size}");
        }
    }
}

#[test]
fn messages_arrive_in_order_under_their_tags() {
    on_ranks(checks::messages);
}

#[test]
fn collectives_give_what_their_definitions_say() {
    on_ranks(checks::collectives);
}

#[test]
fn sums_are_in_the_order_of_the_ranks() {
    on_ranks(checks::sums);
}

#[test]
fn parts_of_sums_come_in_buckets_of_any_size() {
    on_ranks(sharding::parts_of_sums);
}

#[test]
fn a_scan_keeps_the_order_of_what_does_not_commute() {
    on_ranks(checks::scans);
}

#[test]
fn equivalence_a_ring_gives_the_bits_of_one_process() {
    on_ranks(checks::rings);
}

#[test]
fn equivalence_a_ring_takes_every_layout() {
    let results = Threads::run(3, TIMEOUT, |ranks| -> Result<(), ParallelError> {
        checks::every_layout_in_a_ring(ranks);
        Ok(())
    });
    assert_eq!(results, [Ok(()), Ok(()), Ok(())]);
}

#[test]
fn equivalence_a_scan_gives_what_one_process_gives() {
    on_ranks(checks::recurrences);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn equivalence_gradients_of_a_scan_are_those_of_one_process(
        time in 1usize..40,
        seed in 0u64..1 << 32,
        size in prop_oneof![Just(1usize), Just(2), Just(3), Just(5)],
    ) {
        let results = Threads::run(size, TIMEOUT, |ranks| -> Result<(), ParallelError> {
            gradients::recurrence_gradients(ranks, time, seed);
            Ok(())
        });
        prop_assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

#[test]
fn equivalence_gradients_of_a_scan_hold_for_few_and_many_tokens() {
    on_ranks(gradients::recurrences);
}

#[test]
fn equivalence_gradients_of_a_cut_sequence_are_those_of_one_process() {
    for size in [1, 2, 3, 5] {
        trained(size, gradients::models);
    }
}

#[test]
fn equivalence_every_layout_has_gradients_through_cuts() {
    trained(3, gradients::every_layout);
}

#[test]
fn equivalence_a_diagnosis_is_the_same_on_any_number_of_ranks() {
    on_ranks(checks::diagnoses);
}

#[test]
fn equivalence_a_training_is_the_same_on_any_number_of_ranks() {
    for size in [1, 2, 3, 5] {
        trained(size, trainings::trainings);
    }
}

#[test]
fn equivalence_moments_in_parts_give_the_bits_of_one_optimiser() {
    for size in [1, 2, 3, 5] {
        trained(size, sharding::steps);
    }
}

#[test]
fn equivalence_moments_of_three_ranks_go_on_on_two_and_on_one() {
    let mut whole = Whole::new();
    let mut latest: Option<Snapshot> = None;
    for size in [3, 2, 1, 5] {
        let next = Mutex::new(None);
        trained(size, |ranks| {
            if let Some(snapshot) = interrupted::going_on(ranks, latest.as_ref()) {
                *next.lock().unwrap() = Some(snapshot);
            }
        });
        latest = next.into_inner().unwrap();
        let found = latest.as_ref().expect("rank 0 has saved");
        whole.step(size);
        whole.step(size);
        whole.expect_same(found, &format!("going on with {size} ranks"));
    }
}

#[test]
fn a_rank_that_does_not_give_its_moments_is_named() {
    trained(2, interrupted::a_snapshot_that_fails);
}

/// Does `work` on ranks that a training may keep.
fn trained(size: usize, work: impl Fn(&Arc<dyn Communicator>) + Sync) {
    let results = Threads::run(size, TIMEOUT, |ranks| -> Result<(), ParallelError> {
        let ranks: Arc<dyn Communicator> = Arc::new(ranks.clone());
        work(&ranks);
        Ok(())
    });
    assert!(results.iter().all(Result::is_ok), "{size} ranks: {results:?}");
}

#[test]
fn equivalence_a_training_goes_on_with_another_number_of_ranks() {
    let parent = tempfile::TempDir::new().unwrap();
    let folder = parent.path().join("run");
    let train = |ranks: &Arc<dyn Communicator>, stop: u64| {
        trainings::train_on(ranks, trainings::training(), &folder, stop)
    };
    trained(3, |ranks| drop(train(ranks, 2)));
    trained(1, |ranks| drop(train(ranks, 4)));
    trained(2, |ranks| {
        if let Some(found) = train(ranks, 6) {
            trainings::expect_same_weights(&found, trainings::training(), "3, 1 and 2 ranks");
        }
    });
}

#[test]
fn what_several_ranks_cannot_train_is_refused() {
    let refused = |ranks: usize, change: &(dyn Fn(&mut TrainConfig) + Sync)| {
        let results = Threads::run(ranks, TIMEOUT, |ranks| -> Result<(), TrainError> {
            let mut config = trainings::training();
            change(&mut config);
            Trainer::new(config)?.on(Arc::new(ranks.clone())).map(drop)
        });
        let error = results.into_iter().next().expect("rank 0").expect_err("refused");
        error.to_string()
    };
    let few = refused(6, &|_| ());
    assert_eq!(
        few,
        "sequences: expected at least 6, one for every rank, or parallel.sequence = true, found 5"
    );
    let carried = refused(2, &|config| config.carry.carry = true);
    assert!(
        carried.starts_with("carry: expected neither carried states nor initial noise"),
        "{carried}"
    );
}

#[test]
fn what_cannot_be_cut_into_stretches_is_refused() {
    const LONG: &str = "steps = 1\nsequences = 1\nlength = 8\nmodel = { arch = \"mamba2\", size = \"tiny\" }\n\
        optimizer = { learning_rate = 1e-3 }\ndata = { kind = \"copy\", vocab_size = 6 }\n";
    let refused = |more: &str, expected: &str| {
        let error = TrainConfig::parse("test.toml".as_ref(), &format!("{LONG}{more}"));
        let error = error.expect_err(more).to_string();
        assert_eq!(error, format!("test.toml: {expected}"));
    };
    let cut = "[parallel]\nsequence = true\n";
    refused(
        &format!("{cut}[carry]\nsegment = 4\n"),
        "parallel.sequence: expected false beside a table [carry]: every sequence begins with zeros, and gradients go through all of it, found true",
    );
    refused(
        &format!("{cut}[encoder]\nlength = 4\nmask_id = 1\n"),
        "parallel.sequence: expected false beside a table [encoder], which reads the beginning of a sequence both ways, found true",
    );
    refused(
        &format!("{cut}stretch = 0\n"),
        "parallel.stretch: expected at least 1 token, found 0",
    );
    refused(
        "[parallel]\nstretch = 4\n",
        "parallel.stretch: expected none without parallel.sequence = true, which cuts sequences into stretches, found 4",
    );
    let both_ways = gradients::refusal_of_both_ways();
    assert!(both_ways.starts_with("layer 0 is bidirectional"), "{both_ways}");
}

#[test]
fn ranks_with_other_configurations_or_weights_are_named() {
    let results = Threads::run(2, TIMEOUT, |ranks| -> Result<(), TrainError> {
        let mut config = trainings::training();
        config.seed = ranks.rank() as u64;
        Trainer::new(config)?.on(Arc::new(ranks.clone())).map(drop)
    });
    for result in results {
        let error = result.expect_err("other seeds").to_string();
        assert!(
            error.starts_with("configuration: expected ") && error.contains("on rank 1"),
            "{error}"
        );
    }
}

#[test]
fn ranks_that_were_started_otherwise_are_named() {
    let results = Threads::run(3, TIMEOUT, |ranks| {
        let model = if ranks.rank() == 2 { "another" } else { "this" };
        agree(ranks, "model", model)
    });
    for result in results {
        let expected = ParallelError::Differs {
            what: "model".into(),
            expected: "this".into(),
            found: "another".into(),
            rank: 2,
        };
        assert_eq!(result, Err(expected));
    }
}

const WORK: Tag = Tag::new(100, "some work");

#[test]
fn a_rank_that_fails_ends_the_waits_of_all_others_with_its_reason() {
    let results = Threads::run(3, TIMEOUT, |ranks| match ranks.rank() {
        1 => {
            ranks.fail("the disk is full");
            Ok(())
        }
        _ => ranks.receive(1, WORK).map(drop),
    });
    let expected = || ParallelError::Failed {
        rank: 1,
        reason: "the disk is full".into(),
    };
    assert_eq!(results, [Err(expected()), Ok(()), Err(expected())]);
}

#[test]
fn a_rank_that_ends_or_is_silent_is_named_within_the_timeout() {
    let ended = Threads::run(2, TIMEOUT, |ranks| match ranks.rank() {
        0 => ranks.receive(1, WORK).map(drop),
        _ => Ok(()),
    });
    let named = matches!(
        ended[0],
        Err(ParallelError::Ended {
            rank: 1,
            waiting: 0,
            ..
        })
    );
    assert!(named, "{ended:?}");
    let begin = Instant::now();
    let silent = Threads::run(2, Duration::from_millis(200), |ranks| match ranks.rank() {
        0 => {
            let result = ranks.receive(1, WORK).map(drop);
            ranks.send(1, WORK, Vec::new())?;
            result
        }
        // It lives, and says nothing for longer than the others wait.
        _ => {
            while ranks.poll(WORK, Duration::from_millis(10))?.is_none() {}
            Ok(())
        }
    });
    let named = matches!(
        silent[0],
        Err(ParallelError::Silent {
            rank: 1,
            waiting: 0,
            ..
        })
    );
    assert!(named, "{silent:?}");
    assert!(begin.elapsed() < TIMEOUT / 2);
}

#[test]
fn a_rank_that_panics_is_a_failure_on_all_others() {
    let results = Threads::run(3, TIMEOUT, |ranks| {
        assert!(ranks.rank() != 2, "on purpose");
        barrier(ranks)
    });
    for result in &results[..2] {
        assert!(
            matches!(result, Err(ParallelError::Failed { rank: 2, .. })),
            "{result:?}"
        );
    }
}

#[test]
fn a_rank_that_does_not_exist_is_refused() {
    let ranks = Threads::group(1, TIMEOUT);
    let refused = ranks[0].send(1, WORK, Vec::new());
    assert_eq!(refused, Err(ParallelError::NoSuchRank { rank: 1, size: 1 }));
}
