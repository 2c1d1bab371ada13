//! What the runs come to: errors over seeds, how they lie beside the theory, and up to where a type is safe.

use super::config::{Law, PrecisionConfig};
use super::measure::Measured;
use super::models::measure::ModelMeasured;
use super::models::report::ModelReport;
use crate::kit::format::{count, factor, list, short};
use serde::Serialize;

/// Measured over predicted within this factor of 1 counts as what the theory says.
pub const FACTOR: f64 = 2.0;

/// Everything that a study of precision has found: the content of `results.json`.
#[derive(Clone, Debug, Serialize)]
pub struct PrecisionReport {
    /// Name of the file's format, `spillway-state-precision`.
    pub format: &'static str,
    /// Version of the format.
    pub version: u32,
    /// Version of the program.
    pub program: &'static str,
    /// The command that makes the study.
    pub command: String,
    /// Configuration of the study: what was asked.
    pub config: PrecisionConfig,
    /// Runs that are finished, and all.
    pub runs: [usize; 2],
    /// Time that the runs took one after another, in seconds.
    pub seconds: f64,
    /// The laws, those without a finished run included.
    pub laws: Vec<LawReport>,
    /// The models, with their finished runs.
    pub models: Vec<ModelReport>,
    /// What follows, in sentences.
    pub findings: Vec<String>,
}

/// A law under every type.
#[derive(Clone, Debug, Serialize)]
pub struct LawReport {
    /// The law by which the state takes tokens in.
    pub law: Law,
    /// Seeds whose runs are finished.
    pub seeds: Vec<u64>,
    /// Positions at which states were compared, in tokens.
    pub positions: Vec<u64>,
    /// The types, in the order of the configuration; none without a finished run.
    pub types: Vec<TypeReport>,
}

/// A type under a law, over seeds.
#[derive(Clone, Debug, Serialize)]
pub struct TypeReport {
    /// As `state-dtype` takes it.
    pub name: String,
    /// Bits of a stored number, its share of the scales included.
    pub bits: f64,
    /// ε, the relative error of one rounding.
    pub rounding: Option<f64>,
    /// Relative error of the state at each position: the root of the mean of the squares over seeds, absent where one is no number.
    pub state: Vec<Option<f64>>,
    /// Relative error of the read-out over the tokens from half of each position to it, likewise.
    pub read_out: Vec<Option<f64>>,
    /// What independent roundings would make of the state's error.
    pub predicted: Vec<Option<f64>>,
    /// The last position up to which no seed's read-out is off by more than is tolerated; 0 if the first is.
    pub safe_up_to: u64,
}

impl TypeReport {
    /// Measured over predicted, at each position.
    pub fn ratios(&self) -> Vec<Option<f64>> {
        let pairs = self.state.iter().zip(&self.predicted);
        pairs
            .map(|(state, predicted)| Some((*state)? / (*predicted)?).filter(|ratio| ratio.is_finite()))
            .collect()
    }

    /// The last of the ratios.
    pub fn last_ratio(&self) -> Option<f64> {
        self.ratios().last().copied().flatten()
    }
}

impl PrecisionReport {
    /// The report of what is measured so far: for every law, the seeds and what they gave.
    pub fn of(
        config: &PrecisionConfig,
        names: &[(String, f64)],
        measured: &[Vec<(u64, Measured)>],
        asked: &[Vec<Option<ModelMeasured>>],
        command: String,
    ) -> Self {
        let all = config.laws.len() * config.seeds.len() + asked.iter().map(Vec::len).sum::<usize>();
        let laws = config.laws.iter().zip(measured);
        let laws: Vec<LawReport> = laws
            .map(|(law, runs)| law_report(config, law, names, runs))
            .collect();
        let models = config.models.iter().zip(asked);
        let models = models.map(|(model, runs)| ModelReport::of(config, model, names, runs));
        let finished = asked.iter().flatten().flatten();
        let done = measured.iter().map(Vec::len).sum::<usize>() + finished.clone().count();
        let seconds = measured.iter().flatten().map(|(_, run)| run.seconds);
        let mut report = Self {
            format: "spillway-state-precision",
            version: 1,
            program: env!("CARGO_PKG_VERSION"),
            command,
            config: config.clone(),
            runs: [done, all],
            seconds: seconds.chain(finished.map(|run| run.seconds)).sum(),
            laws,
            models: models.collect(),
            findings: Vec::new(),
        };
        report.findings = findings(&report);
        report
    }
}

fn law_report(
    config: &PrecisionConfig,
    law: &Law,
    names: &[(String, f64)],
    runs: &[(u64, Measured)],
) -> LawReport {
    let of_type = |(place, (name, bits)): (usize, &(String, f64))| {
        let all = |field: fn(&super::measure::TypeErrors) -> &Vec<Option<f64>>| -> Vec<&[Option<f64>]> {
            runs.iter()
                .filter_map(|(_, run)| Some(field(run.types.get(place)?).as_slice()))
                .collect()
        };
        let (states, read_outs) = (all(|errors| &errors.state), all(|errors| &errors.read_out));
        let rounding = runs.iter().map(|(_, run)| run.types.get(place)?.rounding);
        let rounding = mean_square(rounding);
        let growths: Vec<Vec<Option<f64>>> = runs
            .iter()
            .map(|(_, run)| run.growth.iter().map(|growth| Some(*growth)).collect())
            .collect();
        let growths: Vec<&[Option<f64>]> = growths.iter().map(Vec::as_slice).collect();
        let predicted = over_seeds(&growths).into_iter();
        TypeReport {
            name: name.clone(),
            bits: *bits,
            rounding,
            state: over_seeds(&states),
            read_out: over_seeds(&read_outs),
            predicted: predicted.map(|growth| Some(growth? * rounding?)).collect(),
            safe_up_to: safe(config, &read_outs),
        }
    };
    LawReport {
        law: law.clone(),
        seeds: runs.iter().map(|(seed, _)| *seed).collect(),
        positions: PrecisionConfig::positions(config.tokens),
        types: match runs {
            [] => Vec::new(),
            _ => names.iter().enumerate().map(of_type).collect(),
        },
    }
}

/// The root of the mean of the squares; nothing where one is no number, or where there is none.
fn mean_square(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    let squares: f64 = values.iter().map(|value| value * value).sum();
    (!values.is_empty()).then(|| (squares / values.len() as f64).sqrt())
}

fn over_seeds(courses: &[&[Option<f64>]]) -> Vec<Option<f64>> {
    let positions = courses.iter().map(|course| course.len()).min().unwrap_or(0);
    let at = |place: usize| mean_square(courses.iter().map(|course| course[place]));
    (0..positions).map(at).collect()
}

/// The last position before the first at which a seed's read-out is off by more than is tolerated.
fn safe(config: &PrecisionConfig, courses: &[&[Option<f64>]]) -> u64 {
    let positions = PrecisionConfig::positions(config.tokens);
    let is_safe = |place: usize| {
        let errors = courses.iter().map(|course| course.get(place).copied().flatten());
        errors
            .into_iter()
            .all(|error| error.is_some_and(|error| error <= config.tolerated))
    };
    let safe = positions
        .iter()
        .enumerate()
        .take_while(|(place, _)| is_safe(*place));
    safe.last().map_or(0, |(_, position)| *position)
}

/// What follows for each type, over the laws that were measured.
fn findings(report: &PrecisionReport) -> Vec<String> {
    let [done, all] = report.runs;
    let mut sentences = Vec::new();
    if done < all {
        sentences.push(format!(
            "{done} of {all} runs are finished; the others are not in what follows."
        ));
    }
    for (place, written) in report.config.types.iter().enumerate() {
        let laws = report.laws.iter();
        let found: Vec<(&str, &TypeReport)> = laws
            .filter_map(|law| Some((law.law.name.as_str(), law.types.get(place)?)))
            .collect();
        sentences.extend(safety(report, written, &found));
        sentences.extend(departures(written, &found));
    }
    let models = report.models.iter();
    sentences.extend(models.flat_map(|model| model.findings(report.config.tolerated_change)));
    sentences
}

/// For how long a type is safe, and where it is so for the shortest.
fn safety(report: &PrecisionReport, written: &str, found: &[(&str, &TypeReport)]) -> Option<String> {
    let last = report.config.tokens;
    let percent = short(100.0 * report.config.tolerated);
    let safe = found.iter().filter(|(_, found)| found.safe_up_to == last).count();
    let (law, shortest) = found.iter().min_by_key(|(_, found)| found.safe_up_to)?;
    let segment = format!(
        "the read-out stays within {percent} % for all {} tokens",
        count(last)
    );
    Some(match (safe, shortest.safe_up_to) {
        (all, _) if all == found.len() => format!("{written}: {segment} under every law."),
        (0, 0) if found.iter().all(|(_, found)| found.safe_up_to == 0) => {
            format!(
                "{written}: the read-out is off by more than {percent} % from the first tokens on, under every law."
            )
        }
        (safe, 0) => format!(
            "{written}: {segment} under {safe} of {} laws, and under “{law}” not even for the first.",
            found.len()
        ),
        (safe, shortest) => format!(
            "{written}: {segment} under {safe} of {} laws, and for the fewest, {}, under “{law}”.",
            found.len(),
            count(shortest)
        ),
    })
}

/// Where a type's state is further off than independent roundings would make it. What is not rounded has errors of arithmetic alone,
/// of which the theory does not speak.
fn departures(written: &str, found: &[(&str, &TypeReport)]) -> Option<String> {
    let beyond: Vec<String> = found
        .iter()
        .filter(|(_, found)| found.bits < 32.0)
        .filter_map(|(name, found)| Some((name, found.last_ratio()?)))
        .filter(|(_, ratio)| *ratio > FACTOR)
        .map(|(name, ratio)| format!("“{name}” ({} times)", factor(ratio)))
        .collect();
    (!beyond.is_empty()).then(|| {
        format!(
            "{written}: the state is further off than independent roundings would make it, under {}.",
            list(&beyond)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PrecisionConfig {
        let text = "title = \"t\"\ntokens = 64\ntypes = [\"bf16\"]\n[[laws]]\nname = \"sum\"\n";
        toml::from_str(text).expect("a study")
    }

    #[test]
    fn a_type_is_safe_until_the_first_seed_is_off() {
        let course = |errors: [f64; 3]| errors.map(Some);
        let (a, b) = (course([0.001, 0.002, 0.5]), course([0.001, 0.02, 0.001]));
        let safe = |courses: &[&[Option<f64>]]| safe(&config(), courses);
        assert_eq!(safe(&[&a]), 32);
        assert_eq!(safe(&[&a, &b]), 16);
        assert_eq!(safe(&[&[None, Some(0.0), Some(0.0)]]), 0);
    }

    #[test]
    fn errors_over_seeds_are_the_root_of_the_mean_of_their_squares() {
        assert_eq!(
            mean_square([Some(3.0), Some(4.0)].into_iter()),
            Some(12.5f64.sqrt())
        );
        assert_eq!(mean_square([Some(3.0), None].into_iter()), None);
        assert_eq!(mean_square(std::iter::empty()), None);
    }
}
