//! What the numbers support and what they do not, in sentences made from the numbers.
//!
//! Differences of AIC or AICc: below 2 no evidence, above 10 strong evidence against the worse law (Burnham & Anderson, *Model
//! Selection and Multimodel Inference*, 2002).

use super::analysis::Analysis;
use super::pairs;
use super::report::{
    AS_FITTED, CapacityReport, Findings, Published, REAL, RECALL_AS_FITTED, RECALL_REAL, Setting, by_name,
};
use super::result::RunResult;
use super::threshold::{Quantity, interval_of};
use crate::kit::format::{count, counted, list, position};
use crate::studies::results::distinct;
use spillway_models::evaluation::laws::profile::Profile;
use spillway_models::evaluation::laws::{ErrorModel, Fit, Law, Observation, published};

/// Differences of a criterion below this say nothing.
const NO_EVIDENCE: f64 = 2.0;
/// Differences of a criterion above this are strong evidence.
const STRONG: f64 = 10.0;
/// State of the published 780M model in millions of elements: 48 layers of 3072 · 128, and its short convolutions.
const SIZE_780M: f64 = 19.4;

/// What the trainings give, with all that is to be said of it.
pub fn report(setting: Setting, runs: Vec<RunResult>) -> CapacityReport {
    let report = CapacityReport::new(setting, runs);
    let found = findings(&report);
    CapacityReport {
        findings: found,
        ..report
    }
}

fn findings(report: &CapacityReport) -> Findings {
    let CapacityReport {
        setting,
        runs,
        analyses,
        published,
        ..
    } = report;
    let mut findings = Findings {
        published: of_published(published),
        ..Findings::default()
    };
    if runs.len() < setting.planned {
        let sentence = format!(
            "{} of {} trainings are done; the rest may change everything below.",
            runs.len(),
            setting.planned
        );
        findings.unsupported.push(sentence);
    }
    for analysis in analyses {
        if analysis.quantity.is_forget() {
            of_forgetting(&mut findings, analysis, setting);
        } else if analysis.quantity == Quantity::Recall {
            of_recall(&mut findings, analysis);
        }
        if analysis.quantity != Quantity::RecallWilson {
            of_laws(&mut findings, analysis, published);
        }
    }
    let of_pairs = pairs::findings::findings(&report.pairs);
    findings.supported.extend(of_pairs.supported);
    findings.unsupported.extend(of_pairs.unsupported);
    if !runs.is_empty() {
        of_sweep(&mut findings, setting, runs);
    }
    findings
}

fn name(analysis: &Analysis) -> String {
    format!("Task {}, {}", analysis.task, analysis.quantity)
}

/// The intervals of all seeds, size by size.
fn intervals(analysis: &Analysis) -> String {
    let of_size = |size: &u64| {
        let thresholds = analysis
            .thresholds
            .iter()
            .filter(|threshold| threshold.elements == *size);
        let mut each: Vec<String> = thresholds
            .map(|threshold| interval_of(analysis.quantity, threshold.interval))
            .collect();
        each.dedup();
        format!("S = {}: {}", position(*size as f64), each.join(" and "))
    };
    analysis
        .sizes()
        .iter()
        .map(of_size)
        .collect::<Vec<_>>()
        .join("; ")
}

fn of_forgetting(findings: &mut Findings, analysis: &Analysis, setting: &Setting) {
    let trials = || analysis.thresholds.iter().flat_map(|threshold| &threshold.trials);
    let (collapsed, all) = (trials().filter(|trial| trial.collapsed).count(), trials().count());
    let largest = trials().map(|trial| trial.value).fold(0.0, f64::max);
    let mut sentence = format!(
        "{}: {collapsed} of {} collapsed (ratio over {}; the largest was {largest:.2}).",
        name(analysis),
        counted(all as u64, "training"),
        setting.collapse_ratio,
    );
    match collapsed {
        0 => sentence.push_str(" So every threshold lies at or below the shortest training length tried."),
        _ => sentence.push_str(&format!(
            " Intervals of T_forget in tokens: {}.",
            intervals(analysis)
        )),
    }
    findings.supported.push(sentence);
    let disordered = analysis
        .thresholds
        .iter()
        .filter(|threshold| !threshold.ordered)
        .count();
    if disordered > 0 {
        findings.unsupported.push(format!(
            "{}: in {disordered} of {} cases a longer training length collapsed although a shorter one had not, so that the threshold \
             is no sharp length there; the interval spans both.",
            name(analysis),
            analysis.thresholds.len(),
        ));
    }
    of_seeds(findings, analysis);
}

/// Sizes at which seeds contradict each other.
fn of_seeds(findings: &mut Findings, analysis: &Analysis) {
    let sizes = analysis.disagreeing();
    if sizes.is_empty() {
        return;
    }
    let sizes: Vec<String> = sizes.iter().map(|size| position(*size as f64)).collect();
    findings.unsupported.push(format!(
        "{}: seeds disagree at S = {}: their intervals have no length in common.",
        name(analysis),
        list(&sizes),
    ));
}

fn of_recall(findings: &mut Findings, analysis: &Analysis) {
    let reached = analysis
        .thresholds
        .iter()
        .filter(|threshold| matches!(threshold.interval, Observation::Within { low, .. } if low > 0.0));
    let (reached, all) = (reached.count(), analysis.thresholds.len());
    if reached == 0 {
        findings.unsupported.push(format!(
            "{}: no model found more than 95 % of the passkeys at any length, so nothing is known about T_recall.",
            name(analysis),
        ));
        return;
    }
    findings.supported.push(format!(
        "{}: {reached} of {all} state sizes and seeds found more than 95 % of the passkeys at some length. Intervals of T_recall in tokens: {}.",
        name(analysis),
        intervals(analysis),
    ));
    of_seeds(findings, analysis);
    let trials = || analysis.thresholds.iter().flat_map(|threshold| &threshold.trials);
    // The value of a trial is how far passkeys were found.
    let short = trials().filter(|trial| trial.value < trial.length as f64).count();
    if short > 0 {
        findings.unsupported.push(format!(
            "{}: that the state is what limits it everywhere; {short} of {} trainings did not find the passkeys within their own training \
             length, which tells of the training.",
            name(analysis),
            trials().count(),
        ));
    }
    let mut lengths: Vec<u64> = trials().map(|trial| trial.length).collect();
    lengths.dedup();
    if let [length] = lengths[..] {
        findings.unsupported.push(format!(
            "{}: how far models recall that were trained at other lengths; all were trained at {} tokens, so that every longer context is \
             one they have never seen.",
            name(analysis),
            count(length),
        ));
    }
}

fn of_laws(findings: &mut Findings, analysis: &Analysis, published: &[Published]) {
    let (laws, symbol) = (&analysis.laws, analysis.quantity.symbol());
    let published = by_name(
        published,
        if analysis.quantity.is_forget() {
            REAL
        } else {
            RECALL_REAL
        },
    );
    let published = published.and_then(|published| published.laws.profile.as_ref());
    if let Some(profile) = &laws.profile {
        let bound = |end: Option<f64>, open: &str| {
            end.map_or(open.to_string(), |end| format!("{end:.2}").replace('-', "−"))
        };
        let range = format!(
            "the 95 % profile interval of the exponent b in {symbol} ∝ S^b is {} to {}",
            bound(profile.low, "unbounded below"),
            bound(profile.high, "unbounded above"),
        );
        if profile.low.is_some_and(|low| low > 0.0) {
            let sentence = format!(
                "{}: the threshold grows with the state; {range}, {}.",
                name(analysis),
                landmarks(profile, published),
            );
            findings.supported.push(sentence);
        } else if profile.high.is_some_and(|high| high < 0.0) {
            let sentence = format!(
                "{}: the threshold falls as the state grows; {range}.",
                name(analysis)
            );
            findings.supported.push(sentence);
        } else {
            let sentence = format!(
                "{}: that the threshold depends on the state size at all; {range}, which holds 0.",
                name(analysis)
            );
            findings.unsupported.push(sentence);
        }
    } else if laws.refused.iter().any(|reason| reason.contains("only bounds")) {
        findings.unsupported.push(format!(
            "{}: any law; all bounds lie on one side of the threshold.",
            name(analysis),
        ));
    }
    let Some(best) = laws.fits.first() else { return };
    let Some(other) = laws.fits.iter().find(|fit| fit.law != best.law) else {
        return;
    };
    let (criterion, behind) = (laws.criterion_name(), laws.behind(other));
    let comparison = format!(
        "the {} law is best and the {} law {behind:.1} of {criterion} behind",
        best.law, other.law
    );
    if behind > STRONG {
        findings.supported.push(format!(
            "{}: {comparison}, which is strong evidence.",
            name(analysis)
        ));
    } else {
        let weight = if behind < NO_EVIDENCE {
            "no evidence"
        } else {
            "some evidence, not more"
        };
        findings.unsupported.push(format!(
            "{}: which law holds; {comparison}, {weight} from {} of {}, {} of them bound from both sides.",
            name(analysis),
            counted(laws.points.len() as u64, "point"),
            counted(analysis.sizes().len() as u64, "size"),
            analysis.two_sided(),
        ));
    }
}

/// What the design of the sweep leaves open.
fn of_sweep(findings: &mut Findings, setting: &Setting, runs: &[RunResult]) {
    let range = |value: &dyn Fn(&RunResult) -> u64| {
        let values = || runs.iter().map(value);
        (values().min().unwrap_or(0), values().max().unwrap_or(0))
    };
    let (smallest, largest) = range(&|run| run.elements);
    let published = published::SIZES.map(|size| size * 1e6);
    findings.unsupported.push(format!(
        "Anything at the published sizes: the states here have {} to {} elements, those of the published models 1.1 to 12.9 million, \
         {:.0} to {:.0} times as many.",
        count(smallest),
        count(largest),
        published[1] / largest.max(1) as f64,
        published[5] / smallest.max(1) as f64,
    ));
    findings.unsupported.push(amounts(setting, runs));
    let (least, greatest) = range(&|run| run.parameters);
    if greatest > least {
        findings.unsupported.push(format!(
            "State size apart from model size: the models have {} to {} weights.",
            count(least),
            count(greatest)
        ));
    }
    let planted: Vec<String> = setting
        .tasks
        .iter()
        .filter(|task| !task.standard)
        .map(|task| task.name.clone())
        .collect();
    if !planted.is_empty() {
        findings.unsupported.push(format!(
            "That models of this size learn to retain by themselves: in {} slow decay was put in by the initial values, which plants \
             what large models learn.",
            list(&planted)
        ));
    }
    let read = runs
        .iter()
        .filter_map(|run| run.forgetting.as_ref()?.buckets.last().map(|bucket| bucket.end));
    if let Some(length) = read.max() {
        findings.unsupported.push(format!(
            "That a model without collapse would not collapse later: streams ended after at most {} tokens.",
            count(length)
        ));
    }
    let seeds = distinct(runs.iter().map(|run| run.seed));
    if seeds.len() < 3 {
        findings.unsupported.push(format!(
            "How much a threshold differs from training to training: there {} {} seed{}.",
            if seeds.len() == 1 { "is" } else { "are" },
            seeds.len(),
            if seeds.len() == 1 { "" } else { "s" },
        ));
    }
}

/// Says which exponents of note the interval holds: 1, and that of the five published models.
fn landmarks(profile: &Profile, published: Option<&Profile>) -> String {
    let holds = |exponent| match profile.allows(exponent) {
        true => "holds",
        false => "does not hold",
    };
    let mut words = format!("which {} 1 (proportionality)", holds(1.0));
    if let Some(Profile { best, .. }) = published {
        words.push_str(&format!(" and {} {best:.2} (the published models)", holds(*best)));
    }
    words
}

/// Says on how many tokens the models of each task were trained.
fn amounts(setting: &Setting, runs: &[RunResult]) -> String {
    let of_task = |name: &str| {
        let of_task = runs.iter().filter(|run| run.task == name);
        distinct(of_task.map(|run| run.tokens))
    };
    let each: Vec<Vec<u64>> = setting.tasks.iter().map(|task| of_task(&task.name)).collect();
    let mut all: Vec<String> = each.concat().into_iter().map(count).collect();
    all.dedup();
    match each.iter().all(|tokens| tokens.len() <= 1) {
        true => format!(
            "How thresholds move with the amount of training: within a task every model saw the same number of tokens ({}), so that \
             longer training lengths mean fewer sequences in a step.",
            list(&all)
        ),
        false => format!(
            "Training length apart from the amount of training: models of one task saw different numbers of tokens ({}).",
            list(&all)
        ),
    }
}

fn find(laws: &[Fit], law: Law, error: ErrorModel) -> Option<&Fit> {
    laws.iter().find(|fit| fit.law == law && fit.error == error)
}

fn of_published(published: &[Published]) -> Vec<String> {
    let mut sentences = Vec::new();
    let as_fitted = by_name(published, AS_FITTED).map(|published| &published.laws.fits);
    if let Some(line) = as_fitted.and_then(|fits| find(fits, Law::Linear, ErrorModel::Additive)) {
        let [a, b] = published::FORGET_LINE;
        sentences.push(format!(
            "The published line T_forget = {a} S − {:.3} is the least-squares line of all six points, the artificial (0, 0) included: {} \
             with R² = {:.3}. It is negative below S = {:.2} million.",
            -b,
            line.formula(),
            line.r_squared.unwrap_or(f64::NAN),
            -line.parameters[1] / line.parameters[0],
        ));
    }
    let is_judged = |set: &&Published| set.forget || set.name == RECALL_REAL;
    for laws in published.iter().filter(is_judged) {
        sentences.extend(of_published_laws(laws));
    }
    let recall = by_name(published, RECALL_AS_FITTED).map(|published| &published.laws.fits);
    if let Some(fit) = recall.and_then(|fits| find(fits, Law::Exponential, ErrorModel::Additive)) {
        sentences.push(format!(
            "The published exponential of T_recall is reproduced: {} with R² = {:.5}, from 3 parameters and 6 points of which one is \
             artificial and one, 256K, holds nearly all of the variance.",
            fit.formula(),
            fit.r_squared.unwrap_or(f64::NAN),
        ));
    }
    let per_token = published::SIZES.iter().zip(published::FORGET).skip(1);
    let per_token: Vec<String> = per_token
        .map(|(size, length)| format!("{:.0}", 1e6 * size / (1024.0 * length)))
        .collect();
    sentences.push(format!(
        "State elements per token at the published thresholds are {}: not constant, so that no fixed number of bytes for each token \
         explains them.",
        list(&per_token)
    ));
    sentences
}

fn of_published_laws(published: &Published) -> Option<String> {
    let laws = &published.laws;
    let best = laws.fits.first()?;
    let ranks: Vec<String> = laws
        .fits
        .iter()
        .skip(1)
        .map(|fit| {
            format!(
                "{} with {} errors {:.1} behind",
                fit.law,
                fit.error,
                laws.behind(fit)
            )
        })
        .collect();
    let mut sentence = format!(
        "{}: best by {} is {} with {} errors ({})",
        published.name,
        laws.criterion_name(),
        best.law,
        best.error,
        best.formula(),
    );
    if !ranks.is_empty() {
        sentence.push_str(&format!("; {}", list(&ranks)));
    }
    sentence.push('.');
    if let (Some(power), Some(line)) = (
        find(&laws.fits, Law::Power, ErrorModel::LogNormal),
        laws.fits.iter().find(|fit| fit.law == Law::Linear),
    ) {
        sentence.push_str(&format!(
            " For the 780M model (S = {SIZE_780M} million) the power law says {:.0}K tokens, the line {:.0}K.",
            power.at(SIZE_780M),
            line.at(SIZE_780M)
        ));
    }
    if let Some(profile) = &laws.profile {
        let end = |end: Option<f64>| end.map_or("open".into(), |end| format!("{end:.2}"));
        let proportional = if profile.allows(1.0) {
            "does not exclude"
        } else {
            "excludes"
        };
        sentence.push_str(&format!(
            " Exponent of the power law {:.2}, 95 % profile interval {} to {}, which {proportional} proportionality (from five points such an \
             interval is too narrow).",
            profile.best,
            end(profile.low),
            end(profile.high),
        ));
    }
    Some(sentence)
}
