//! What the trainings support and what they do not, in sentences made from the numbers.

use super::arm::{ArmReport, Measure, Point};
use super::factorial::Effects;
use super::report::{ComparisonReport, Findings};
use super::runs::Arm;
use crate::kit::format::{count, list, position, short};
use crate::studies::estimate::{Estimate, Side};

/// Losses before the first step that are so close are those of the same weights: sums of f32 in another order.
const SAME: f64 = 1e-4;
/// Evaluations that a course has at least.
pub const COURSE: usize = 4;

/// What the arms give, the first of which is the reference, with all that is to be said of it.
pub fn report(arms: &[Arm], ranges: Vec<(u64, u64)>, command: String) -> ComparisonReport {
    let report = ComparisonReport::new(arms, ranges, command);
    ComparisonReport {
        findings: findings(&report),
        ..report
    }
}

fn findings(report: &ComparisonReport) -> Findings {
    let mut found = Findings::default();
    footing(report, &mut found);
    found.supported.extend(collapses(report));
    for arm in &report.arms {
        cure(report, arm, &mut found);
        course(report, arm, &mut found);
    }
    comparisons(report, &mut found);
    factorial(report, &mut found);
    limits(report, &mut found);
    found
}

impl ComparisonReport {
    /// A measure in words.
    pub fn words(&self, measure: Measure) -> String {
        let range = |range: Option<&(u64, u64)>| range.map_or(String::new(), |range| span(*range));
        match measure {
            Measure::Near => format!("the loss at {}", range(self.ranges.first())),
            Measure::Far => format!("the loss at {}", range(self.ranges.last())),
            Measure::Excess => format!("what the old state costs at {}", range(self.ranges.last())),
        }
    }
}

/// A range of positions, in tokens, as text: `8K–16K`.
pub fn span((start, end): (u64, u64)) -> String {
    format!("{}–{}", position(start as f64), position(end as f64))
}

/// Whether the arms are on an equal footing.
fn footing(report: &ComparisonReport, found: &mut Findings) {
    let Some(first) = report.arms.first() else { return };
    if report.arms.len() > 1 {
        match report.equal_tokens() {
            true => found
                .supported
                .push(format!("Every training read {} tokens.", count(first.tokens()))),
            false => {
                let each: Vec<String> = report
                    .arms
                    .iter()
                    .map(|arm| format!("{} {}", arm.name, count(arm.tokens())))
                    .collect();
                found.unsupported.push(format!(
                    "A comparison at equal tokens: {} tokens were read.",
                    list(&each)
                ));
            }
        }
        found.begin(report);
    }
}

impl Findings {
    /// Whether the arms began alike.
    fn begin(&mut self, report: &ComparisonReport) {
        let settings = report.arms.iter().take(1).flat_map(|arm| &arm.settings);
        let models: Vec<String> = settings
            .map(|setting| setting.field.clone())
            .filter(|field| field.starts_with("model."))
            .collect();
        if !models.is_empty() {
            self.unsupported.push(format!(
                "That arms differ by their training alone: they began with other models ({}).",
                list(&models)
            ));
            return;
        }
        let from_random = report.arms.iter().any(|arm| arm.from_random);
        match report.apart_at_start() {
            Some(apart) if apart <= SAME => self.supported.push(match from_random {
                true => "Trainings of one seed began with the same weights.".into(),
                false => "All trainings began with the same model.".into(),
            }),
            Some(apart) => self.unsupported.push(format!(
                "That arms differ by their training alone: models of one seed differed by up to {} nats before the first step.",
                short(apart)
            )),
            None => {}
        }
    }
}

/// Says how many trainings of each arm collapse.
fn collapses(report: &ComparisonReport) -> Option<String> {
    let arm = |arm: &ArmReport| {
        Some(format!(
            "{} {} of {}",
            arm.name,
            arm.end()?.collapsed,
            arm.seeds.len()
        ))
    };
    let each: Vec<String> = report.arms.iter().filter_map(arm).collect();
    let last = report.ranges.last()?.1;
    (!each.is_empty()).then(|| {
        format!(
            "Collapsed after the last step (perplexity beyond T over the threshold, on streams of {} tokens): {}.",
            count(last),
            list(&each)
        )
    })
}

/// Before and after, where training began with a model.
fn cure(report: &ComparisonReport, arm: &ArmReport, found: &mut Findings) {
    if let (Some(before), Some(after)) = (arm.before(), arm.end()) {
        let changes = Measure::ALL
            .into_iter()
            .filter_map(|measure| change(report, measure, before, after));
        judge(
            &format!("{}, after training against before", arm.name),
            changes,
            found,
        );
    }
}

/// How losses go while training goes on.
fn course(report: &ComparisonReport, arm: &ArmReport, found: &mut Findings) {
    let points: Vec<&Point> = arm.trained().collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return;
    };
    if points.len() < COURSE || !arm.from_random {
        return;
    }
    let inside = ("the loss inside T".to_string(), less(&last.inside, &first.inside));
    let changes = [Measure::Far, Measure::Excess];
    let changes = changes
        .into_iter()
        .filter_map(|measure| change(report, measure, first, last));
    let words = format!(
        "{}, after {} tokens against {}",
        arm.name,
        count(last.tokens),
        count(first.tokens)
    );
    judge(&words, std::iter::once(inside).chain(changes), found);
}

fn change(
    report: &ComparisonReport,
    measure: Measure,
    from: &Point,
    to: &Point,
) -> Option<(String, Estimate)> {
    Some((report.words(measure), less(measure.of(to)?, measure.of(from)?)))
}

/// One evaluation's values less another's of the same trainings.
fn less(a: &Estimate, b: &Estimate) -> Estimate {
    Estimate::of(a.values.iter().zip(&b.values).map(|(a, b)| a - b).collect())
}

/// Changes on the side that their intervals ask for.
fn judge(words: &str, changes: impl Iterator<Item = (String, Estimate)>, found: &mut Findings) {
    let (mut decided, mut open) = (Vec::new(), Vec::new());
    for (what, change) in changes {
        let text = change.text();
        match change.side() {
            Side::Below => decided.push(format!("{what} is lower, {text}")),
            Side::Above => decided.push(format!("{what} is higher, {text}")),
            Side::Both => open.push(format!("{what}, {text}, an interval that holds 0")),
            Side::Unknown => open.push(format!("{what}, {text} without an interval")),
        }
    }
    for (sentences, parts) in [(&mut found.supported, decided), (&mut found.unsupported, open)] {
        if !parts.is_empty() {
            sentences.push(format!("{words}: {}.", parts.join("; ")));
        }
    }
}

/// Every arm against the first.
fn comparisons(report: &ComparisonReport, found: &mut Findings) {
    let Some((first, others)) = report.arms.split_first() else {
        return;
    };
    for arm in others {
        let all = report.differences.iter();
        let here = all.filter(|difference| difference.arm == arm.name && difference.from == first.name);
        let changes =
            here.map(|difference| (report.words(difference.measure), difference.difference.clone()));
        judge(&format!("{} against {}", arm.name, first.name), changes, found);
    }
}

fn factorial(report: &ComparisonReport, found: &mut Findings) {
    let Some(factorial) = &report.factorial else {
        return;
    };
    let [a, b] = &factorial.factors;
    let effects = |effect: fn(&Effects) -> &Estimate| {
        let words = |effects: &Effects| (report.words(effects.measure), effect(effects).clone());
        factorial.effects.iter().map(words).collect::<Vec<_>>()
    };
    for (factor, other, effects) in [
        (a, b, effects(|effects| &effects.first)),
        (b, a, effects(|effects| &effects.second)),
    ] {
        let [from, to] = &factor.levels;
        let words = format!(
            "{} = {to} against {from}, the mean over both {}",
            factor.field, other.field
        );
        judge(&words, effects.into_iter(), found);
    }
    let words = format!(
        "What {} = {} does at {} = {} less what it does at {}",
        a.field, a.levels[1], b.field, b.levels[1], b.levels[0]
    );
    judge(&words, effects(|effects| &effects.interaction).into_iter(), found);
}

/// What no number here can tell.
fn limits(report: &ComparisonReport, found: &mut Findings) {
    let seeds: Vec<usize> = report.arms.iter().map(|arm| arm.seeds.len()).collect();
    let fewest = seeds.iter().copied().min().unwrap_or(0);
    let intervals = report
        .differences
        .iter()
        .filter(|difference| difference.difference.interval.is_some())
        .count();
    found.unsupported.push(match fewest {
        0 | 1 => "How much a result differs from training to training: an arm has one seed.".into(),
        _ => {
            let chance = match intervals {
                0 | 1 => String::new(),
                _ => format!("; of {intervals} intervals of differences one in twenty misses by chance"),
            };
            format!(
                "How results differ from text to text: intervals (95 %, Student's t over {fewest} seeds) take in what a seed draws, \
                 initial weights and the order of the data, on one held-out text{chance}."
            )
        }
    });
    let follows = |arm: &&ArmReport| arm.trained().count() >= COURSE && arm.from_random && !arm.constant_rate;
    let falling: Vec<String> = report
        .arms
        .iter()
        .filter(follows)
        .map(|arm| arm.name.clone())
        .collect();
    if !falling.is_empty() {
        found.unsupported.push(format!(
            "That more training alone makes the course of {}: the learning rate changes over it.",
            list(&falling)
        ));
    }
    if let Some((_, end)) = report.ranges.last() {
        found.unsupported.push(format!(
            "Anything beyond {} tokens, where the streams end.",
            count(*end)
        ));
    }
    found.unsupported.push(format!(
        "Anything at other sizes: the models have {} weights.",
        count(report.parameters)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_whose_interval_leaves_out_0_are_supported() {
        let mut found = Findings::default();
        let changes = [
            ("loss", vec![-1.0, -1.1, -0.9]),
            ("cost", vec![1.0, 1.1, 0.9]),
            ("price", vec![-1.0, 1.0, 0.5]),
            ("end", vec![2.0]),
            ("limit", vec![2.0, f64::NAN, 2.0]),
        ];
        let changes = changes.map(|(what, values)| (what.to_string(), Estimate::of(values)));
        judge("long against short", changes.into_iter(), &mut found);
        let [supported] = &found.supported[..] else {
            panic!("{found:?}")
        };
        assert!(supported.starts_with("long against short: loss is lower, \u{2212}1.00 (\u{2212}1.25 to \u{2212}0.75); cost is higher, 1.00 ("));
        let [open] = &found.unsupported[..] else {
            panic!("{found:?}")
        };
        for part in [
            "price, 0.17 (",
            "an interval that holds 0",
            "end, 2.00 without an interval",
            "limit, not finite without",
        ] {
            assert!(open.contains(part), "{open}");
        }
    }
}
