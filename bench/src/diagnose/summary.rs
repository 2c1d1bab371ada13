//! The findings in a few sentences that a person reads in ten seconds.

use super::report::{DiagnosisReport, RunReport};
use crate::kit::format::{bytes, count, factor, list, nats};
use crate::trial;
use crate::values::quoted;
use serde_json::{Value, json};
use spillway_models::evaluation::diagnosis::heads::HeadSummary;
use spillway_models::evaluation::diagnosis::part::FailingPart;
use spillway_models::evaluation::diagnosis::standing::TOLERANCE;

/// The most heads that a sentence names.
const HEADS_NAMED: usize = 4;

/// The sentences, most important first.
pub fn sentences(report: &DiagnosisReport) -> Vec<String> {
    if !report.complete {
        return interrupted(report);
    }
    let mut sentences = Vec::new();
    if report.runs.is_empty() {
        return sentences;
    }
    sentences.push(collapse(report));
    sentences.extend(heads(report));
    sentences.extend(attention(report));
    sentences.extend(part(report));
    if report.verdict.collapsed {
        sentences.extend(cure(report));
    }
    if report.method.text.repeats {
        let text = &report.method.text;
        sentences.push(format!(
            "The text is shorter than the streams: its {} tokens are read over and over.",
            count(text.tokens)
        ));
    }
    sentences
}

/// What has been measured, and what has not: as long as something is left to do, nothing is concluded from what is missing.
fn interrupted(report: &DiagnosisReport) -> Vec<String> {
    let left: u64 = report
        .remaining
        .iter()
        .map(|run| run.tokens_in_all - run.tokens)
        .sum();
    let read: u64 = report.runs.iter().map(|run| run.found.tokens).sum();
    let mut sentences = vec![format!(
        "Interrupted after {} of {} tokens, so that there is no conclusion yet; the same command with --resume goes on.",
        count(read),
        count(read + left)
    )];
    if report.verdict.complete {
        sentences.push(collapse(report));
        sentences.extend(heads(report));
    }
    let measured: Vec<String> = report
        .runs
        .iter()
        .filter(|run| run.found.complete)
        .map(measured)
        .collect();
    if !measured.is_empty() {
        sentences.push(format!("Measured so far: {}.", measured.join("; ")));
    }
    let remaining: Vec<String> = report
        .remaining
        .iter()
        .map(|run| match run.tokens {
            0 => run.mitigation.clone(),
            tokens => format!(
                "{} ({:.0} % read)",
                run.mitigation,
                (100.0 * tokens as f64 / run.tokens_in_all as f64).floor()
            ),
        })
        .collect();
    sentences.push(format!("Still to be measured: {}.", list(&remaining)));
    sentences
}

/// `window:64 without a collapse, 1.52 nats beyond the training length`.
fn measured(run: &RunReport) -> String {
    let verdict = match (run.found.verdict.complete, run.found.verdict.onset) {
        (false, _) => String::new(),
        (true, None) => " does not collapse,".into(),
        (true, Some(onset)) => format!(" collapses at t = {},", count(onset)),
    };
    format!(
        "{}{verdict} {} nats beyond the training length",
        run.mitigation,
        nats(run.found.standing.beyond)
    )
}

fn collapse(report: &DiagnosisReport) -> String {
    let (verdict, train_length) = (&report.verdict, count(report.method.train_length));
    let reached = report
        .runs
        .first()
        .and_then(|run| run.found.loss.last())
        .map_or(0, |bucket| bucket.end);
    let ratio = factor(verdict.ratio);
    match verdict.onset {
        None => format!(
            "Does not collapse up to {} tokens on this text: beyond its training length of {train_length} its perplexity is at \
             most {ratio} times that of the same model restarted every {train_length} tokens.",
            count(reached)
        ),
        Some(onset) => format!(
            "Collapses at t = {}{}: perplexity reaches {ratio} times that of the same model restarted every {train_length} tokens \
             (its training length) on the same text.",
            count(onset),
            if verdict.recovers {
                ", and recovers later"
            } else {
                ""
            },
        ),
    }
}

/// What attention layers keep.
fn attention(report: &DiagnosisReport) -> Option<String> {
    let growth = report.model.cache_bytes_per_token;
    let alone = report.runs.first()?;
    (growth > 0).then(|| {
        format!(
            "Its attention layers keep {} more with every token: the state takes {} at its largest.",
            bytes(growth),
            bytes(alone.found.state_bytes)
        )
    })
}

/// Which part of a hybrid fails, and the loss with either of the two started again; of one that does not collapse, what its attention
/// does beyond the training length.
fn part(report: &DiagnosisReport) -> Option<String> {
    let period = report.method.train_length;
    let beyond = |name: &str| report.run(name).map(|run| nats(run.found.standing.beyond));
    let recurrences = beyond(&format!("reset:{period}"))?;
    let attention = beyond(&trial::attention_restart(period))?;
    let measured = format!(
        "{recurrences} nats beyond the training length with its recurrent states emptied every {} tokens, {attention} with its \
         attention started again as often, {} as it is",
        count(period),
        beyond("none")?
    );
    let said = match report.failing_part {
        Some(FailingPart::Recurrences) => "What fails is its recurrences",
        Some(FailingPart::Attention) => "What fails is its attention",
        Some(FailingPart::Together) => {
            "Long recurrent states and long attention fail together; either one kept short is enough"
        }
        Some(FailingPart::Both) => "Its recurrences and its attention fail, each for itself",
        None if report.verdict.collapsed => return None,
        None => "Neither its recurrences nor its attention fails",
    };
    Some(format!("{said}: {measured}."))
}

/// Which heads leave their in-window range first, and how much they keep.
fn heads(report: &DiagnosisReport) -> Option<String> {
    if report.model.sites.is_empty() {
        return Some(
            "The model has no recurrence over keys and values, so that there are no heads to look into."
                .into(),
        );
    }
    let first = report.heads.first()?.exit;
    let Some(exit) = first else {
        return Some("No head's state grows beyond twice its norm inside the training length.".into());
    };
    let together: Vec<&HeadSummary> = report
        .heads
        .iter()
        .filter(|head| head.exit == Some(exit))
        .collect();
    let kept = |head: &&HeadSummary| head.retention.kept_over_train_length;
    let least = together.iter().map(kept).fold(f64::INFINITY, f64::min);
    let most = together.iter().map(kept).fold(0.0, f64::max);
    let share = if most - least < 0.005 {
        format!("{most:.2}")
    } else {
        format!("{least:.2} to {most:.2}")
    };
    let plural = if together.len() == 1 {
        ("leaves its", "keeps")
    } else {
        ("leave their", "keep")
    };
    if !report.verdict.collapsed {
        let grow = match together.len() {
            1 => ("state", "grows beyond twice its norm"),
            _ => ("states", "grow beyond twice their norms"),
        };
        return Some(format!(
            "The {} of {} {} inside the training length all the same, from t = {} on.",
            grow.0,
            name(&together),
            grow.1,
            count(exit),
        ));
    }
    Some(format!(
        "First in {}, which {} in-window range at t = {} and {} {share} of a token over the training length.",
        name(&together),
        plural.0,
        count(exit),
        plural.1,
    ))
}

/// `layer 0 heads 1 and 3 and layer 2 head 0`.
fn name(heads: &[&HeadSummary]) -> String {
    let named = &heads[..heads.len().min(HEADS_NAMED)];
    let mut layers: Vec<usize> = named.iter().map(|head| head.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let of_layer = |layer: &usize| {
        let mut numbers: Vec<usize> = named
            .iter()
            .filter(|head| head.layer == *layer)
            .map(|head| head.head)
            .collect();
        numbers.sort_unstable();
        let texts: Vec<String> = numbers.iter().map(usize::to_string).collect();
        format!(
            "layer {layer} head{} {}",
            if texts.len() == 1 { "" } else { "s" },
            list(&texts)
        )
    };
    let mut parts: Vec<String> = layers.iter().map(of_layer).collect();
    if heads.len() > named.len() {
        parts.push(format!("{} more", heads.len() - named.len()));
    }
    parts.join(", ")
}

/// The best cure, what it costs, and whether a restart would do as well.
fn cure(report: &DiagnosisReport) -> Option<String> {
    let restart = &report.method.baseline;
    let beyond = |run: &RunReport| run.found.standing.beyond.unwrap_or(f64::INFINITY);
    let best = best(report);
    let reset = report.run(restart).filter(|run| run.found.complete);
    let Some(best) = best else {
        return match reset.filter(cures) {
            Some(reset) => Some(format!(
                "Only restarting helps: resetting the state every {} tokens gives {} nats beyond the training length.",
                count(report.method.train_length),
                nats(reset.found.standing.beyond)
            )),
            None => Some("None of the mitigations tried cures it.".into()),
        };
    };
    let alone = report.runs.first().and_then(|run| run.found.standing.beyond);
    let verdict_on_reset = reset.map_or(String::new(), |reset| match beyond(reset) - beyond(best) {
        difference if difference > TOLERANCE => {
            format!(
                "; resetting the state would leave {} nats more on this text",
                nats(Some(difference))
            )
        }
        difference if difference < -TOLERANCE => {
            format!(
                "; resetting the state would do {} nats better on this text",
                nats(Some(-difference))
            )
        }
        _ => format!(
            "; resetting the state would do as well on this text ({} nats)",
            nats(reset.found.standing.beyond)
        ),
    });
    let others = report
        .ranking
        .iter()
        .filter_map(|name| report.run(name))
        .filter(cures);
    let others = others.filter(|run| !is_restart(run) && run.mitigation != best.mitigation);
    let others: Vec<String> = others
        .filter(|run| beyond(run) - beyond(best) <= TOLERANCE)
        .map(|run| run.mitigation.clone())
        .collect();
    let as_well = if others.is_empty() {
        String::new()
    } else {
        format!(", and as well by {}", list(&others))
    };
    Some(format!(
        "Cured by {} at a cost of {} nats inside the training length ({} instead of {} nats beyond it){as_well}{verdict_on_reset}.",
        best.mitigation,
        nats(best.found.standing.price),
        nats(best.found.standing.beyond),
        nats(alone),
    ))
}

/// The cure with the smallest loss beyond the training length that is more than a restart.
fn best(report: &DiagnosisReport) -> Option<&RunReport> {
    let ranked = report.ranking.iter().filter_map(|name| report.run(name));
    ranked.filter(cures).find(|run| !is_restart(run))
}

fn cures(run: &&RunReport) -> bool {
    run.found.complete
        && !run.found.verdict.collapsed
        && run.found.standing.price.is_some_and(|price| price <= TOLERANCE)
}

/// A command to paste, which continues a prompt with the best cure in place.
pub fn try_it(report: &DiagnosisReport) -> Option<String> {
    let best = best(report).filter(|_| report.verdict.collapsed)?;
    let spec = quoted(&best.spec);
    Some(format!("{} --mitigation {spec}", report.method.generate))
}

/// Whether a run does nothing but empty the state now and then.
fn is_restart(run: &RunReport) -> bool {
    let starts_again = |part: &str| part.starts_with("reset") || part.starts_with("restart");
    run.mitigation.split('+').all(starts_again)
}

/// What is printed with `--json`: the same as data.
pub fn json(report: &DiagnosisReport) -> Value {
    let run = |run: &RunReport| {
        json!({
            "mitigation": run.mitigation,
            "spec": run.spec,
            "complete": run.found.complete,
            "beyond": run.found.standing.beyond,
            "price": run.found.standing.price,
            "collapse_onset": run.found.verdict.onset,
            "tokens_per_second": run.found.tokens_per_second,
            "state_bytes": run.found.state_bytes,
        })
    };
    json!({
        "complete": report.complete,
        "summary": report.summary,
        "try": report.try_it,
        "collapsed": report.verdict.collapsed,
        "runs": report.runs.iter().map(run).collect::<Vec<_>>(),
    })
}

/// What is printed: the sentences, and the mitigations in a table.
pub fn text(report: &DiagnosisReport) -> String {
    let mut text = report.summary.join("\n");
    let width = report
        .runs
        .iter()
        .map(|run| run.mitigation.len())
        .max()
        .unwrap_or(0)
        .max(10);
    text.push_str(&format!(
        "\n\n{:width$}  {:>7}  {:>6}  {:>11}  {:>8}  {:>9}",
        "", "beyond", "price", "collapses", "tokens/s", "state"
    ));
    for run in report
        .ranking
        .iter()
        .filter_map(|name| report.run(name))
        .chain(report.runs.first())
    {
        let onset = match (run.found.verdict.complete, run.found.verdict.onset) {
            (false, _) => "not known".into(),
            (true, None) => "no".into(),
            (true, Some(onset)) => format!("at {}", count(onset)),
        };
        text.push_str(&format!(
            "\n{:width$}  {:>7}  {:>6}  {onset:>11}  {:>8}  {:>9}",
            run.mitigation,
            nats(run.found.standing.beyond),
            nats(run.found.standing.price),
            count(run.found.tokens_per_second.round() as u64),
            bytes(run.found.state_bytes),
        ));
    }
    if let Some(command) = &report.try_it {
        text.push_str(&format!("\n\nTry it:  {command}"));
    }
    text
}
