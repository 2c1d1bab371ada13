//! What the numbers say about pairs, and what would falsify it.
//!
//! Each verdict answers a claim that was made before the trainings, with the observation that would falsify it said beside it:
//!
//! | claim | falsified by |
//! |---|---|
//! | pairs held are in proportion to the bytes of the state: b = 1 | a 95 % profile interval of b without 1 |
//! | the state is what binds: T_recall falls with the number of pairs | a T_recall of the most pairs that is not below that of the fewest |
//! | T_recall is in proportion to the training length: b = 1 | a 95 % profile interval of b without 1 |
//! | an arm is worth as much as what it is held against | a 95 % interval of their difference without 0 |

use super::super::analysis::Laws;
use super::super::threshold::{Quantity, interval_of};
use super::PairsReport;
use super::arms::{Arm, Difference};
use super::held::{HeldAt, Reach, Reached, TaskPairs, is_reached};
use crate::kit::format::{bytes, count, counted, list};
use crate::studies::estimate::Side;
use spillway_models::evaluation::laws::profile::Profile;
use spillway_models::evaluation::laws::published::recall_by_training_length;
use spillway_models::evaluation::laws::{Observation, profile};

/// What is to be said of pairs, in sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairsFindings {
    /// What the trainings show.
    pub supported: Vec<String>,
    /// What they do not show.
    pub unsupported: Vec<String>,
}

/// What is to be said of pairs.
pub fn findings(report: &PairsReport) -> PairsFindings {
    let mut findings = PairsFindings::default();
    for task in &report.tasks {
        for held in &task.held {
            of_held(&mut findings, task, held);
            of_law(&mut findings, task, held);
        }
        of_load(&mut findings, task);
        of_training_length(&mut findings, task);
    }
    for arm in &report.arms {
        of_arm(&mut findings, arm);
    }
    findings
}

/// `[4, 8)`, `at least 16`, `below 1`.
pub fn interval(observation: Observation) -> String {
    interval_of(Quantity::Recall, observation)
}

/// `0.63 to 1.10`, with an open end said.
pub fn range(profile: &Profile) -> String {
    let end = |end: Option<f64>, open: &str| {
        end.map_or(open.to_string(), |end| format!("{end:.2}").replace('-', "−"))
    };
    format!(
        "{} to {}",
        end(profile.low, "unbounded below"),
        end(profile.high, "unbounded above")
    )
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn name(task: &TaskPairs, held: &HeldAt) -> String {
    format!("Task {}, T = {}", task.task, count(held.train_length))
}

/// How many pairs each size holds, and which trainings tell nothing.
fn of_held(findings: &mut PairsFindings, task: &TaskPairs, held: &HeldAt) {
    let accuracy = percent(task.setting.accuracy);
    let (learned, all) = (
        held.models.iter().filter(|model| model.has_learned()).count(),
        held.models.len(),
    );
    if learned < all {
        findings.unsupported.push(format!(
            "{}: anything about the state from {} of {}, which did not answer {accuracy} of the keys of even the fewest pairs: they have \
             not learned the task, and are left out of the laws.",
            name(task, held),
            all - learned,
            counted(all as u64, "training"),
        ));
    }
    if learned == 0 {
        return;
    }
    let sizes: Vec<String> = held
        .models
        .chunk_by(|a, b| a.bytes == b.bytes)
        .filter_map(|models| {
            let learned = models.iter().filter(|model| model.has_learned());
            let each: Vec<String> = learned.map(|model| interval(model.interval)).collect();
            (!each.is_empty()).then(|| format!("{}: {}", bytes(models[0].bytes), each.join(" and ")))
        })
        .collect();
    findings.supported.push(format!(
        "{}: pairs held at {accuracy} of the answers right, an interval for each seed: {}. {}",
        name(task, held),
        sizes.join("; "),
        chance(task, held),
    ));
    let full = held.models.iter().filter(|model| is_open(model.interval)).count();
    if full > 0 {
        findings.unsupported.push(format!(
            "{}: how much {} hold; they answered {accuracy} for as many pairs as {} tokens have room for, so that their state is not full.",
            name(task, held),
            counted(full as u64, "model"),
            count(held.train_length),
        ));
    }
}

fn is_open(interval: Observation) -> bool {
    matches!(interval, Observation::Within { high: None, low } if low > 0.0)
}

/// What guessing would get at the fewest and the most pairs.
fn chance(task: &TaskPairs, held: &HeldAt) -> String {
    let counts = held
        .models
        .iter()
        .flat_map(|model| model.shares.iter().map(|share| share.0));
    let (fewest, most) = counts.fold((usize::MAX, 0), |(fewest, most), pairs| {
        (fewest.min(pairs), most.max(pairs))
    });
    format!(
        "A guess without reading is right in {:.1} % of the cases, one among the values that were read in {} for {} and {} for {}.",
        100.0 / task.setting.values.max(1) as f64,
        percent(task.setting.chance(fewest)),
        counted(fewest as u64, "pair"),
        percent(task.setting.chance(most)),
        most,
    )
}

/// The exponent of pairs held against bytes.
fn of_law(findings: &mut PairsFindings, task: &TaskPairs, held: &HeldAt) {
    let claim =
        "pairs held in proportion to the bytes of the state (b = 1; falsified by an interval without 1)";
    exponent(
        findings,
        &name(task, held),
        claim,
        "pairs held ∝ bytes^b",
        &held.laws,
    );
}

/// What the points say about an exponent that is claimed to be 1.
fn exponent(findings: &mut PairsFindings, name: &str, claim: &str, law: &str, laws: &Laws) {
    let Some(profile) = &laws.profile else {
        findings.unsupported.push(format!(
            "{name}: {claim}. Nothing was found for or against it: {}.",
            laws.refused.first().map_or("no points", |reason| reason.as_str())
        ));
        return;
    };
    let sentence = format!(
        "{name}: {claim}. From {} the most likely exponent of {law} is {:.2}, with a 95 % profile interval of {}",
        counted(laws.points.len() as u64, "point"),
        profile.best,
        range(profile),
    );
    match (profile.allows(1.0), profile.allows(0.0)) {
        (false, _) => findings
            .supported
            .push(format!("{sentence}, without 1: the claim is falsified.")),
        (true, false) => findings.supported.push(format!(
            "{sentence}, which holds 1 and not 0: the claim stands, as do all others inside the interval."
        )),
        (true, true) => findings.unsupported.push(format!(
            "{sentence}, which holds 0 as well as 1: it is not shown that there is any dependence."
        )),
    }
}

/// Whether T_recall falls with the number of pairs, over the models of each size that find the fewest.
fn of_load(findings: &mut PairsFindings, task: &TaskPairs) {
    let claim = "the state is what binds, so that T_recall falls with the number of pairs (falsified by one that does not)";
    let mut said = Vec::new();
    let (mut falls, mut all) = (0, 0);
    for sizes in task.reach.chunk_by(|a, b| a.state == b.state) {
        let (Some(fewest), Some(most)) = (sizes.first(), sizes.last()) else {
            continue;
        };
        if fewest.pairs == most.pairs {
            continue;
        }
        let pairs = fewest.models.iter().filter_map(|model| {
            let same =
                |other: &&Reached| (other.train_length, other.seed) == (model.train_length, model.seed);
            let other = most.models.iter().find(same)?;
            is_reached(model.interval).then_some((low(model.interval), low(other.interval)))
        });
        let pairs: Vec<(f64, f64)> = pairs.collect();
        falls += pairs.iter().filter(|(few, many)| many < few).count();
        all += pairs.len();
        if let (Some(few), Some(many)) = (
            median(pairs.iter().map(|p| p.0)),
            median(pairs.iter().map(|p| p.1)),
        ) {
            said.push(format!(
                "{}: {} with {} and {} with {}",
                bytes(fewest.bytes),
                tokens(few),
                counted(fewest.pairs as u64, "pair"),
                tokens(many),
                most.pairs,
            ));
        }
    }
    if all == 0 {
        return;
    }
    let sentence = format!(
        "Task {}: {claim}. It fell in {falls} of {all} models that find the fewest; medians of the lower ends of T_recall: {}.",
        task.task,
        said.join("; "),
    );
    match falls == all {
        true => findings.supported.push(sentence),
        false => findings.unsupported.push(sentence),
    }
}

fn tokens(length: f64) -> String {
    match length > 0.0 {
        true => format!("{} tokens", count(length as u64)),
        false => "none".into(),
    }
}

fn low(interval: Observation) -> f64 {
    match interval {
        Observation::Exact(value) => value,
        Observation::Within { low, .. } => low,
    }
}

/// The lower one of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// T_recall against training length, where there are several of those.
fn of_training_length(findings: &mut PairsFindings, task: &TaskPairs) {
    let several = task.reach.iter().filter(|reach| reach.lengths().len() > 1);
    let judged: Vec<(&Reach, &Profile)> = several
        .filter_map(|reach| Some((reach, reach.laws.profile.as_ref()?)))
        .collect();
    if judged.is_empty() {
        return;
    }
    let claim = "T_recall in proportion to the training length (b = 1; falsified by an interval without 1)";
    let each = judged.iter().map(|(reach, profile)| {
        format!(
            "{}, {}: {:.2} ({})",
            bytes(reach.bytes),
            counted(reach.pairs as u64, "pair"),
            profile.best,
            range(profile)
        )
    });
    let excluded = judged.iter().filter(|(_, profile)| !profile.allows(1.0)).count();
    let published = profile::exponent(&recall_by_training_length(), &[]).ok();
    let published = published.map_or(String::new(), |profile| {
        format!(
            " Of the published models, T_recall against the training length at which they no longer collapse has {:.2} ({}).",
            profile.best,
            range(&profile)
        )
    });
    let sentence = format!(
        "Task {}: {claim}. Exponents of T_recall ∝ T^b with 95 % profile intervals: {}. {excluded} of {} exclude 1.{published}",
        task.task,
        list(&each.collect::<Vec<_>>()),
        counted(judged.len() as u64, "interval"),
    );
    match excluded == 0 {
        true => findings.unsupported.push(format!(
            "{sentence} So the claim stands, and so do others: the intervals are wide."
        )),
        false => findings
            .supported
            .push(format!("{sentence} Where they do, the claim is falsified.")),
    }
}

/// Whether an arm differs from what it is held against.
fn of_arm(findings: &mut PairsFindings, arm: &Arm) {
    let words = |difference: &Difference| {
        format!(
            "{} at T = {}: {}, by seeds {}",
            bytes(difference.bytes),
            count(difference.train_length),
            points(&difference.difference.values, difference.difference.interval),
            difference
                .difference
                .values
                .iter()
                .map(|value| signed(*value))
                .collect::<Vec<_>>()
                .join(", "),
        )
    };
    let name = format!("Task {} against {}", arm.task, arm.against);
    let of = |side: Side| -> Vec<String> {
        let here = arm
            .differences
            .iter()
            .filter(|difference| difference.difference.side() == side);
        here.map(words).collect()
    };
    let measure = "mean share of right answers over all numbers of pairs, in points of percent";
    for (side, verb) in [(Side::Above, "more"), (Side::Below, "less")] {
        let found = of(side);
        if !found.is_empty() {
            findings.supported.push(format!(
                "{name}: {verb} is answered ({measure}), which falsifies that they are worth the same: {}.",
                found.join("; ")
            ));
        }
    }
    let undecided: Vec<String> = [of(Side::Both), of(Side::Unknown)].concat();
    if !undecided.is_empty() {
        findings.unsupported.push(format!(
            "{name}: a difference ({measure}; the claim that they are worth the same would be falsified by an interval without 0): {}.",
            undecided.join("; ")
        ));
    }
}

/// A mean with its interval, in points of percent.
fn points(values: &[f64], interval: Option<[f64; 2]>) -> String {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    match interval {
        Some([low, high]) => format!("{} ({} to {})", signed(mean), signed(low), signed(high)),
        None => signed(mean),
    }
}

/// A share in points of percent, with its sign.
pub fn signed(share: f64) -> String {
    let text = format!("{:.1}", (100.0 * share).abs());
    match share < 0.0 && text != "0.0" {
        true => format!("−{text}"),
        false => format!("+{text}"),
    }
}
