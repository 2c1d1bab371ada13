//! Pairs of trainings that are made up, so that what must be said of them is known.

use super::super::analysis::Resampling;
use super::super::figures::pictures;
use super::super::findings;
use super::super::page::{markdown, page};
use super::super::report::{CapacityReport, Setting, TaskSetting};
use super::super::result::{PairsCell, PairsRecall, RunResult, RunSeconds, StateSize, VERSION};
use super::PairsSetting;
use spillway_models::evaluation::laws::Observation;

const COUNTS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
const LENGTHS: [u64; 6] = [512, 1024, 2048, 4096, 8192, 16384];

fn task(name: &str, against: Option<&str>) -> TaskSetting {
    TaskSetting {
        name: name.into(),
        data: "pairs".into(),
        initialisation: "slow initialisation".into(),
        standard: false,
        expansion: None,
        pairs: Some(PairsSetting {
            accuracy: 0.9,
            keys: 128,
            values: 64,
            against: against.map(String::from),
        }),
    }
}

/// A model that answers everything while `holds` says so, and else half.
fn run(
    task: &str,
    (d_state, train_length, seed): (usize, u64, u64),
    holds: impl Fn(u64, usize) -> bool,
) -> RunResult {
    let state = StateSize {
        model_dim: 64,
        layers: 2,
        head_dim: 16,
        d_state,
    };
    let mut cells = Vec::new();
    for length in LENGTHS {
        for pairs in COUNTS {
            cells.push(PairsCell {
                length,
                pairs,
                correct: if holds(length, pairs) { 256 } else { 128 },
                questions: 256,
                sequences: 256_u64.div_ceil(pairs as u64),
                whole: 0,
            });
        }
    }
    RunResult {
        version: VERSION,
        task: task.into(),
        state,
        elements: state.elements(),
        train_length,
        seed,
        parameters: 1000,
        steps: 10,
        tokens: 20_480,
        train_loss: 1.0,
        train_curve: vec![(10, 1.0)],
        forgetting: None,
        recall: None,
        pairs: Some(PairsRecall { cells }),
        seconds: RunSeconds::default(),
        settings: serde_json::Value::Null,
    }
}

fn report(tasks: Vec<TaskSetting>, runs: Vec<RunResult>) -> CapacityReport {
    let setting = Setting {
        name: "made up".into(),
        command: "spillway capacity made-up.toml".into(),
        configuration: String::new(),
        planned: runs.len(),
        tasks,
        collapse_ratio: 2.0,
        resampling: Resampling {
            resamples: 50,
            seed: 0,
        },
        record: None,
    };
    findings::report(setting, runs)
}

/// Models of each size, training length and seed that hold `pairs` of their d_state at every length up to `reach` training lengths.
fn runs(name: &str, pairs: impl Fn(usize) -> usize, reach: u64) -> Vec<RunResult> {
    let mut runs = Vec::new();
    for seed in 0..3 {
        for d_state in [8, 16, 32, 64] {
            for train_length in [512, 1024, 2048] {
                let most = pairs(d_state);
                runs.push(run(name, (d_state, train_length, seed), |length, pairs| {
                    pairs <= most && length * pairs as u64 <= reach * train_length
                }));
            }
        }
    }
    runs
}

fn holds_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn pairs_in_proportion_to_the_state_are_found_and_their_exponent_holds_one() {
    let report = report(
        vec![task("pairs", None)],
        runs("pairs", |d_state| d_state / 2, 1 << 20),
    );
    let held = &report.pairs.tasks[0].held[0];
    // 2 layers of 128 channels in f32: 1,024 bytes for each of 8 state values.
    assert_eq!((held.models[0].bytes, held.models[0].state.d_state), (8192, 8));
    let interval = Observation::Within {
        low: 4.0,
        high: Some(8.0),
    };
    assert_eq!(held.models[0].interval, interval);
    assert_eq!(held.models[0].shares[2..4], [(4, 1.0), (8, 0.5)]);
    let profile = held.laws.profile.as_ref().expect("fitted");
    assert!(profile.allows(1.0) && !profile.allows(0.0) && !profile.allows(2.0));
    holds_all(
        &report.findings.supported.join("\n"),
        &[
            "Task pairs, T = 512: pairs held at 90 %",
            "8.2 kB: [4, 8) and [4, 8) and [4, 8); 16.4 kB: [8, 16)",
            "which holds 1 and not 0: the claim stands",
            // One of K values that were read: 1 for one pair; 1/128 + 127/128/64 for 128.
            "100 % for 1 pair and 2 % for 128",
        ],
    );
}

#[test]
fn pairs_that_do_not_depend_on_the_state_falsify_proportion() {
    let report = report(vec![task("pairs", None)], runs("pairs", |_| 8, 1 << 20));
    let supported = report.findings.supported.join("\n");
    holds_all(&supported, &["without 1: the claim is falsified"]);
    assert!(!supported.contains("the claim stands"), "{supported}");
}

#[test]
fn a_state_that_binds_is_found_less_far_with_more_pairs_and_further_after_longer_training() {
    // K pairs are found at L tokens if K L ≤ 4 T.
    let report = report(vec![task("pairs", None)], runs("pairs", |_| 4, 4));
    let reach = &report.pairs.tasks[0].reach;
    let one = reach.iter().find(|reach| reach.pairs == 1).expect("asked");
    let within = |low: f64, high: f64| Observation::Within {
        low,
        high: Some(high),
    };
    assert_eq!(one.models[0].interval, within(2048.0, 4096.0));
    let profile = one.laws.profile.as_ref().expect("fitted");
    assert!(profile.allows(1.0) && !profile.allows(0.0), "{profile:?}");
    holds_all(
        &report.findings.supported.join("\n"),
        &[
            "T_recall falls with the number of pairs",
            "It fell in 36 of 36 models",
        ],
    );
    holds_all(
        &report.findings.unsupported.join("\n"),
        &[
            "T_recall in proportion to the training length",
            "Of the published models",
        ],
    );
}

#[test]
fn trainings_that_did_not_learn_and_states_that_are_not_full_are_said() {
    let mut runs = runs(
        "pairs",
        |d_state| if d_state == 8 { 0 } else { d_state / 2 },
        1 << 20,
    );
    for run in runs.iter_mut().filter(|run| run.state.d_state == 64) {
        let cells = run.pairs.iter_mut().flat_map(|pairs| &mut pairs.cells);
        cells.for_each(|cell| cell.correct = cell.questions);
    }
    let report = report(vec![task("pairs", None)], runs);
    assert_eq!(report.pairs.tasks[0].held[0].laws.points.len(), 9);
    holds_all(
        &report.findings.unsupported.join("\n"),
        &[
            "from 3 of 12 trainings, which did not answer 90 %",
            "how much 3 models hold",
        ],
    );
}

#[test]
fn an_arm_is_compared_seed_by_seed_with_what_it_is_held_against() {
    let tasks = vec![task("pairs", None), task("wide", Some("pairs"))];
    let better = |d_state: usize| if d_state > 16 { d_state } else { d_state / 2 };
    let all = [
        runs("pairs", |d_state| d_state / 2, 1 << 20),
        runs("wide", better, 1 << 20),
    ];
    let report = report(tasks, all.concat());
    let arm = &report.pairs.arms[0];
    assert_eq!(arm.differences.len(), 12);
    let difference = |d_state: usize| {
        let of_size = arm
            .differences
            .iter()
            .find(|difference| difference.state.d_state == d_state);
        of_size.expect("compared").difference.mean
    };
    // One more of eight numbers of pairs is answered, of which half was right by chance.
    assert!((difference(32) - 0.5 / 8.0).abs() < 1e-12 && difference(8) == 0.0);
    holds_all(
        &report.findings.supported.join("\n"),
        &[
            "Task wide against pairs: more is answered",
            "32.8 kB at T = 512: +6.2",
        ],
    );
    let unsupported = report.findings.unsupported.join("\n");
    holds_all(
        &unsupported,
        &["Task wide against pairs: a difference", "8.2 kB at T = 512: +0.0"],
    );
}

#[test]
fn pages_hold_every_picture_of_pairs_and_no_number_is_missing() {
    let tasks = vec![task("pairs", None), task("wide", Some("pairs"))];
    let all = [
        runs("pairs", |d_state| d_state / 2, 16),
        runs("wide", |d_state| d_state, 16),
    ];
    let report = report(tasks, all.concat());
    let pictures = pictures(&report);
    let html = page(&report, &pictures);
    assert_eq!(html.matches("role=\"img\"").count(), pictures.len());
    assert!(!html.contains("NaN"), "a number is missing");
    let text = markdown(&report, &pictures);
    let names: Vec<&str> = pictures.iter().map(|picture| picture.1.name.as_str()).collect();
    for name in [
        "pairs-answered-pairs-t512",
        "pairs-held-wide-t2048",
        "pairs-reach-pairs-t1024",
        "pairs-by-training-wide",
        "pairs-arm-wide",
        "pairs-beside-published",
    ] {
        assert!(names.contains(&name), "{names:?}");
        assert!(text.contains(&format!("figures/{name}.svg")));
    }
    let mut distinct = names.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), names.len(), "two pictures have one name");
    holds_all(
        &text,
        &[
            "## Pairs held at 90 %, task pairs, T = 512",
            "## T_recall at 90 % by number of pairs, task wide",
            "## Task wide against pairs: mean share of right answers",
        ],
    );
}
