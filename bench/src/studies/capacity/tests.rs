//! Reports of trainings that are made up, so that what must be said of them is known.

use super::analysis::Resampling;
use super::figures::pictures;
use super::findings;
use super::page::{markdown, page, write_csv};
use super::report::{CapacityReport, Record, Setting, TaskSetting};
use super::result::{Bucket, Forgetting, Recall, RecallCell, RunResult, RunSeconds, StateSize, VERSION};
use super::threshold::{Quantity, interval};

const LENGTHS: [u64; 6] = [32, 64, 128, 256, 512, 1024];

fn setting(planned: usize) -> Setting {
    Setting {
        name: "made up".into(),
        command: "spillway capacity made-up.toml --out out".into(),
        configuration: "name = \"made up\"".into(),
        planned,
        tasks: vec![TaskSetting {
            name: "text".into(),
            data: "text of book.txt".into(),
            initialisation: "slow initialisation".into(),
            standard: false,
            expansion: None,
            pairs: None,
        }],
        collapse_ratio: 2.0,
        resampling: Resampling {
            resamples: 50,
            seed: 0,
        },
        record: Some(Record {
            machine: "a processor, 2 cores".into(),
            date: "2026-01-31".into(),
            seconds: 100.0,
            workers: 2,
            load_sum: 10.0,
            load_samples: 2,
        }),
    }
}

/// A model that rises by `rise` nats from 1.5 beyond its training length.
fn run(d_state: usize, train_length: u64, seed: u64, rise: f64, reach: u64) -> RunResult {
    let state = StateSize {
        model_dim: 64,
        layers: 2,
        head_dim: 32,
        d_state,
    };
    let steps = [0u64, 1, 2, 4, 8, 16];
    let buckets = steps.windows(2).map(|pair| Bucket {
        start: pair[0] * train_length,
        end: pair[1] * train_length,
        loss: Some(1.5 + rise * (pair[1] as f64).log2() / 4.0),
    });
    let cell = |length: &u64| RecallCell {
        length: *length,
        depth: 0,
        correct: if *length <= reach { 100 } else { 20 },
        samples: 100,
    };
    RunResult {
        version: VERSION,
        task: "text".into(),
        state,
        elements: state.elements(),
        train_length,
        seed,
        parameters: 100_000 + 1000 * d_state as u64,
        steps: 10,
        tokens: 20_480,
        train_loss: 1.5,
        train_curve: vec![(10, 1.5)],
        forgetting: Some(Forgetting {
            streams: 2,
            buckets: buckets.collect(),
            inside: Some(1.5),
            worst: Some(1.5 + rise),
            worst_at: 16 * train_length,
        }),
        recall: Some(Recall {
            cells: LENGTHS.iter().map(cell).collect(),
        }),
        pairs: None,
        seconds: RunSeconds::default(),
        settings: serde_json::Value::Null,
    }
}

/// Models whose threshold is at `threshold` tokens for each state value of a channel.
fn runs(threshold: f64, collapse: f64) -> Vec<RunResult> {
    let mut runs = Vec::new();
    for seed in 0..2 {
        for d_state in [16usize, 32, 64, 128] {
            for length in LENGTHS {
                let collapses = (length as f64) < threshold * d_state as f64;
                let rise = if collapses { collapse } else { 0.1 };
                runs.push(run(d_state, length, seed, rise, 4 * d_state as u64));
            }
        }
    }
    runs
}

#[test]
fn a_threshold_in_proportion_to_the_state_is_found_and_said() {
    let runs = runs(6.0, 1.0);
    let report = findings::report(setting(runs.len()), runs);
    let findings = report.findings.supported.join("\n");
    assert!(
        findings.contains("the threshold grows with the state"),
        "{findings}"
    );
    // 6 · 16 = 96 lies in (64, 128], 6 · 128 = 768 in (512, 1,024].
    assert!(
        findings.contains("S = 4K: (64, 128]") && findings.contains("S = 32K: (512, 1,024]"),
        "{findings}"
    );
    let perplexity = report
        .analyses
        .iter()
        .find(|analysis| analysis.quantity == Quantity::ForgetPerplexity);
    let profile = perplexity
        .and_then(|analysis| analysis.laws.profile.as_ref())
        .expect("fitted");
    assert!(profile.allows(1.0) && !profile.allows(0.0), "{profile:?}");
    // One nat is 2.7 times the perplexity but only 1.7 times the loss.
    let unsupported = report.findings.unsupported.join("\n");
    assert!(
        findings.contains("T_forget by loss: 0 of 48 trainings collapsed"),
        "{findings}"
    );
    for part in [
        "slow decay was put in",
        "same number of tokens (20,480)",
        "there are 2 seeds",
        "times as many",
    ] {
        assert!(unsupported.contains(part), "no {part:?} in {unsupported}");
    }
    let recall = report
        .analyses
        .iter()
        .find(|analysis| analysis.quantity == Quantity::Recall)
        .expect("analysed");
    assert_eq!(interval(recall.thresholds[0].interval), "(64, 128]");
}

#[test]
fn without_a_collapse_no_law_is_claimed() {
    let runs = runs(0.0, 1.0);
    let report = findings::report(setting(runs.len() + 1), runs);
    let unsupported = report.findings.unsupported.join("\n");
    assert!(
        unsupported.contains("48 of 49 trainings are done"),
        "{unsupported}"
    );
    let supported = report.findings.supported.join("\n");
    assert!(
        supported.contains("T_forget by perplexity: 0 of 48 trainings collapsed"),
        "{supported}"
    );
    assert!(
        unsupported.contains("any law; all bounds lie on one side"),
        "{unsupported}"
    );
    assert!(
        !supported.contains("T_forget by perplexity: the threshold"),
        "{supported}"
    );
}

#[test]
fn seeds_that_disagree_and_lengths_out_of_order_are_said() {
    let mut runs = runs(6.0, 1.0);
    for run in runs
        .iter_mut()
        .filter(|run| run.seed == 1 && run.state.d_state == 16)
    {
        let worst = if run.train_length == 1024 { 3.0 } else { 1.5 };
        run.forgetting.as_mut().expect("measured").worst = Some(worst);
    }
    let report = findings::report(setting(runs.len()), runs);
    let unsupported = report.findings.unsupported.join("\n");
    assert!(
        unsupported.contains("a longer training length collapsed although a shorter one had not"),
        "{unsupported}"
    );
    let mut runs = self::runs(6.0, 1.0);
    for run in runs
        .iter_mut()
        .filter(|run| run.seed == 1 && run.state.d_state == 16)
    {
        let worst = if run.train_length < 512 { 3.0 } else { 1.5 };
        run.forgetting.as_mut().expect("measured").worst = Some(worst);
    }
    let report = findings::report(setting(runs.len()), runs);
    let unsupported = report.findings.unsupported.join("\n");
    assert!(unsupported.contains("seeds disagree at S = 4K"), "{unsupported}");
}

#[test]
fn pages_hold_every_figure_and_every_training() {
    let runs = runs(6.0, 1.0);
    let report = findings::report(setting(runs.len()), runs);
    let pictures = pictures(&report);
    let html = page(&report, &pictures);
    assert_eq!(html.matches("role=\"img\"").count(), pictures.len());
    assert!(!html.contains("NaN"), "a number is missing");
    assert!(html.contains("The machine was shared: its mean load was 5.0"));
    let text = markdown(&report, &pictures);
    for picture in &pictures {
        assert!(text.contains(&format!("figures/{}.svg", picture.1.name)));
    }
    let mut names: Vec<&str> = pictures.iter().map(|picture| picture.1.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), pictures.len(), "two pictures have one name");
    let mut csv = Vec::new();
    write_csv(&report.runs, &mut csv).expect("written");
    assert_eq!(String::from_utf8_lossy(&csv).lines().count(), 49);
}

/// Models of one training length that were asked for passkeys only, found up to `reach` tokens for each state value of a channel.
fn recalling(reach: impl Fn(usize) -> u64) -> CapacityReport {
    let mut runs = Vec::new();
    for seed in 0..3 {
        for d_state in [8usize, 16, 32, 64] {
            let forgetting = None;
            runs.push(RunResult {
                forgetting,
                ..run(d_state, 32, seed, 0.0, reach(d_state))
            });
        }
    }
    findings::report(setting(runs.len()), runs)
}

#[test]
fn recall_lengths_are_fitted_and_compared_with_the_published_ones() {
    let report = recalling(|d_state| 8 * d_state as u64);
    let supported = report.findings.supported.join("\n");
    for part in [
        "T_recall, more than 95 % found: the threshold grows with the state",
        "S = 2K: [64, 128)",
        "holds 1 (proportionality)",
        // The slope of ln T over ln S by least squares.
        "2.24 (the published models)",
    ] {
        assert!(supported.contains(part), "no {part:?} in {supported}");
    }
    let unsupported = report.findings.unsupported.join("\n");
    assert!(
        unsupported.contains("all were trained at 32 tokens"),
        "{unsupported}"
    );
    assert!(!unsupported.contains("within their own"), "{unsupported}");
    let published = report.findings.published.join("\n");
    assert!(
        published.contains("T_recall, the five models: best by"),
        "{published}"
    );
    let pictures = pictures(&report);
    let has = |name: &str| pictures.iter().any(|picture| picture.1.name == name);
    assert!(has("recall-beside-published") && has("exponent-profile") && has("threshold-text-recall"));
    assert!(!has("thresholds-beside-published"));
    let html = page(&report, &pictures);
    assert!(
        !html.contains("NaN") && !html.contains("<h2>Collapse</h2>"),
        "{html}"
    );
}

#[test]
fn passkeys_that_were_not_learned_are_no_limit_of_the_state() {
    let report = recalling(|d_state| if d_state == 8 { 0 } else { 8 * d_state as u64 });
    let unsupported = report.findings.unsupported.join("\n");
    assert!(
        unsupported.contains("3 of 12 trainings did not find the passkeys within their own training length"),
        "{unsupported}"
    );
}
