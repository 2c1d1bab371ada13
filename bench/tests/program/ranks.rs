//! Work shared out over ranks that are threads of this process. `bench/tests/mpi.sh` does the same with processes.

#[cfg(not(feature = "mpi"))]
use crate::*;
use spillway::context::{Context, Printing};
use spillway::error::ProgramError;
use spillway::ranks::queue::Queue;
use spillway::ranks::share_out::Team;
use spillway::stop::Stop;
use spillway_models::parallel::Threads;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// What a rank is left with: what `share_out` gave, what was done as rank 0 heard of it, and the bar and the count at the end.
type Left = (Result<bool, String>, BTreeMap<usize, u64>, (u64, u64));

/// Squares of the numbers at the places in `queue`, two threads on each rank. `work` may say otherwise.
fn shared(
    size: usize,
    queue: &[usize],
    stop_after: Option<u64>,
    work: impl Fn(usize, usize) -> Result<Option<u64>, ProgramError> + Sync,
) -> Vec<Left> {
    let items: Vec<usize> = (0..20).collect();
    let results = Threads::run(size, TIMEOUT, |ranks| -> Result<Left, ProgramError> {
        let quiet = Printing {
            quiet: true,
            json: false,
        };
        let context = Context::within(2, quiet).on(Some(Arc::new(ranks.clone())));
        let stop = Stop::after(stop_after.filter(|_| context.leads()));
        let bar = context.progress(0, "numbers");
        let team = Team {
            context: &context,
            threads: 1,
            stop: &stop,
            bar: &bar,
        };
        let heard = Mutex::new(BTreeMap::new());
        let rank = context.ranks().map_or(0, |ranks| ranks.rank());
        let one = |item: &usize| {
            let result = work(rank, *item)?;
            bar.inc(10);
            stop.count(1);
            Ok(result)
        };
        let done = |item: &usize, result: u64| {
            let before = heard.lock().expect("no panic").insert(*item, result);
            assert_eq!(before, None, "{item} was done twice");
            Ok(())
        };
        let outcome = team.share_out(&items, queue, one, done);
        let counted = (bar.position(), stop.counted());
        Ok((
            outcome.map_err(|error| error.to_string()),
            heard.into_inner().expect("no panic"),
            counted,
        ))
    });
    results
        .into_iter()
        .map(|result| result.expect("a rank that is left"))
        .collect()
}

#[test]
fn every_piece_is_done_once_and_heard_of_on_rank_0() {
    let queue = [3, 5, 19, 0, 7, 8, 11];
    for size in [1, 2, 3, 5] {
        let left = shared(size, &queue, None, |_, item| {
            std::thread::sleep(Duration::from_millis(5));
            Ok(Some((item * item) as u64))
        });
        let (outcome, heard, counted) = &left[0];
        assert_eq!(outcome, &Ok(true), "{size} ranks");
        let expected = queue.iter().map(|item| (*item, (item * item) as u64)).collect();
        assert_eq!(heard, &expected, "{size} ranks");
        assert_eq!(*counted, (70, 7), "{size} ranks: progress of all");
        for (outcome, heard, _) in &left[1..] {
            assert_eq!((outcome, heard.len()), (&Ok(true), 0));
        }
    }
}

#[test]
fn an_empty_queue_is_done() {
    let left = shared(3, &[], None, |_, _| Ok(None));
    assert!(left.iter().all(|left| left.0 == Ok(true)), "{left:?}");
}

#[test]
fn other_ranks_take_part() {
    let ranks = Mutex::new(Vec::new());
    let queue: Vec<usize> = (0..20).collect();
    shared(3, &queue, None, |rank, _| {
        ranks.lock().expect("no panic").push(rank);
        std::thread::sleep(Duration::from_millis(20));
        Ok(Some(0))
    });
    let ranks = ranks.into_inner().expect("no panic");
    assert!((0..3).all(|rank| ranks.contains(&rank)), "{ranks:?}");
}

#[test]
fn a_stop_on_rank_0_stops_all() {
    let queue: Vec<usize> = (0..20).collect();
    let left = shared(3, &queue, Some(6), |_, _| {
        std::thread::sleep(Duration::from_millis(50));
        Ok(Some(0))
    });
    let (outcome, heard, _) = &left[0];
    assert_eq!(outcome, &Ok(false));
    assert!((6..20).contains(&heard.len()), "{} pieces were done", heard.len());
}

#[test]
fn a_failure_on_any_rank_stops_all_and_is_named() {
    let queue: Vec<usize> = (0..20).collect();
    let left = shared(3, &queue, None, |rank, item| {
        std::thread::sleep(Duration::from_millis(20));
        match rank {
            1 => Err(ProgramError::Failed(format!("piece {item}: the disk is full"))),
            _ => Ok(Some(0)),
        }
    });
    let error = left[0].0.as_ref().expect_err("rank 1 failed");
    assert!(
        error.starts_with("rank 1: piece ") && error.ends_with("the disk is full"),
        "{error}"
    );
    assert!(left[0].1.len() < 20, "the others went on");
    let error = left[1].0.as_ref().expect_err("this is rank 1");
    assert!(error.starts_with("piece "), "{error}");
    assert_eq!(left[2].0, Ok(true));
}

/// Pieces in two lanes: the last of each that is there at the beginning brings two more.
#[test]
fn what_follows_from_a_piece_is_done_too() {
    let items: Vec<usize> = (0..10).collect();
    for size in [1, 2, 3, 5] {
        let done = Mutex::new(Vec::new());
        let results = Threads::run(size, TIMEOUT, |ranks| -> Result<bool, ProgramError> {
            let quiet = Printing {
                quiet: true,
                json: false,
            };
            let context = Context::within(2, quiet).on(Some(Arc::new(ranks.clone())));
            let (stop, bar) = (Stop::after(None), context.progress(0, "numbers"));
            let team = Team {
                context: &context,
                threads: 2,
                stop: &stop,
                bar: &bar,
            };
            let work = |item: &usize| {
                std::thread::sleep(Duration::from_millis(10));
                Ok(Some(*item))
            };
            let queue = Queue::of_lanes([vec![0, 1], vec![5]]);
            team.share_out_lanes(&items, queue, work, |item, found: usize| {
                assert_eq!(*item, found);
                done.lock().expect("no panic").push(found);
                Ok(match found {
                    1 => vec![2, 3],
                    5 => vec![6, 7],
                    _ => Vec::new(),
                })
            })
        });
        assert!(
            results.into_iter().all(|result| matches!(result, Ok(true))),
            "{size} ranks"
        );
        let mut done = done.into_inner().expect("no panic");
        let place = |item: usize| done.iter().position(|other| *other == item);
        assert!(place(1) < place(2) && place(5) < place(7), "{done:?}");
        done.sort_unstable();
        assert_eq!(done, [0, 1, 2, 3, 5, 6, 7], "{size} ranks");
    }
}

/// As one of two processes of a launcher.
#[cfg(not(feature = "mpi"))]
fn launched(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(arguments)
        .env("OMPI_COMM_WORLD_SIZE", "2")
        .output()
        .expect("the program starts")
}

#[test]
#[cfg(not(feature = "mpi"))]
fn a_program_without_mpi_is_not_one_of_several() {
    let output = launched(&["train", "nothing.toml"]);
    refused(
        &output,
        2,
        &[
            "mpirun: expected a program built with MPI",
            "--features mpi",
            "found 2 processes",
        ],
    );
}

#[test]
#[cfg(not(feature = "mpi"))]
fn a_command_of_one_process_says_so() {
    refused(
        &launched(&["doctor"]),
        2,
        &[
            "mpirun: expected one of capacity, compare, diagnose",
            "found 2 processes",
        ],
    );
}
