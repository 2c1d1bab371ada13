//! What a state remembers of a signal, at several moments, and how well by age.

use super::Setting;
use super::history::{LeastEnergy, states};
use super::signal::Signal;
use super::system::Named;
use serde::Serialize;
use spillway_ssm_core::state_space::hippo::basis::reconstruct_scaled;
use spillway_ssm_core::state_space::hippo::{LegsScan, Measure, reconstruct};
use spillway_ssm_core::state_space::{Discretisation, StateSpaceError};

/// When the state is looked at, as shares of the signal.
const MOMENTS: [f64; 3] = [0.25, 0.5, 1.0];
/// Points of a remembered signal.
const POINTS: usize = 400;
/// Moments, spread over the second half of the signal, over which errors are averaged; and ages at which they are taken.
pub const AVERAGED: usize = 100;
const AGES: usize = 100;
/// Ends of the ranges of age in tables, as shares of the signal.
pub const RANGES: [f64; 3] = [0.1, 0.25, 0.5];

/// What a system remembers of the signal, at several moments and by age.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Name of the system; `legs with A/t` where the window grows with the signal.
    pub name: String,
    /// What of the past it weighs.
    pub weighs: String,
    /// What is remembered at several moments.
    #[serde(skip)]
    pub snapshots: Vec<Snapshot>,
    /// (age in samples, root mean square error in standard deviations of the signal).
    #[serde(skip)]
    pub by_age: Vec<(f64, f64)>,
    /// Errors as in `by_age`, over the ranges of age that end at [`RANGES`]; `None` beyond a window.
    pub errors: Vec<Option<f64>>,
}

/// What is remembered at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Number of samples that have been heard at that moment.
    pub heard: usize,
    /// (index of a sample, what is remembered of it), the oldest first.
    pub remembered: Vec<(usize, f64)>,
}

/// How coefficients become a signal.
enum Reader {
    /// All of [0, t] alike.
    Whole,
    /// Coefficients of the functions of a measure.
    Basis(Measure),
    /// The past of least energy.
    Least(Box<LeastEnergy>),
}

impl Reader {
    /// What is remembered of these ages, in samples, after `heard` of them.
    fn remembered(
        &self,
        state: &[f64],
        heard: usize,
        ages: &[usize],
        step: f64,
    ) -> Result<Vec<f64>, StateSpaceError> {
        // A sample is held over its step: its middle is half a step older than its end.
        match self {
            Self::Whole => {
                let share = |&age: &usize| 1.0 - (age as f64 + 0.5) / heard as f64;
                reconstruct_scaled(state, &ages.iter().map(share).collect::<Vec<_>>())
            }
            Self::Basis(measure) => {
                let time = |&age: &usize| (age as f64 + 0.5) * step;
                reconstruct(*measure, state, &ages.iter().map(time).collect::<Vec<_>>())
            }
            Self::Least(memory) => Ok(memory.remembered(state, ages)),
        }
    }
}

/// The memories of a system; `legs` has two, one whose window grows with the signal and one with a constant rate.
///
/// # Errors
/// As [`states`].
pub fn memories(
    named: Named,
    setting: &Setting,
    least: Option<&LeastEnergy>,
    signal: &Signal,
) -> Result<Vec<Memory>, StateSpaceError> {
    let mut all = Vec::new();
    let name = named.name().to_string();
    if named == Named::Measure(Measure::Legs) {
        let scan = LegsScan::new(setting.states, Discretisation::ZeroOrderHold)?;
        let states = scan.read(&mut scan.begin(), &signal.samples)?;
        all.push(memory(
            "legs with A/t".into(),
            "all of the past alike".into(),
            (&Reader::Whole, None),
            &states,
            signal,
            setting.step,
        )?);
    }
    let system = named.system(setting.states, None, setting.seed)?;
    let heard = states(&system, setting.rule, setting.step, &signal.samples)?;
    let reader = match (named.measure_with_basis(), least) {
        (Some(measure), _) => Reader::Basis(measure),
        (None, Some(least)) => Reader::Least(Box::new(least.clone())),
        (None, None) => return Ok(all),
    };
    let window = named.window().map(|end| (end / setting.step) as usize);
    all.push(memory(
        name,
        named.weighs(1.0 / setting.step),
        (&reader, window),
        &heard,
        signal,
        setting.step,
    )?);
    Ok(all)
}

fn memory(
    name: String,
    weighs: String,
    (reader, window): (&Reader, Option<usize>),
    states: &[Vec<f64>],
    signal: &Signal,
    step: f64,
) -> Result<Memory, StateSpaceError> {
    let length = signal.samples.len();
    let reach = |heard: usize| window.map_or(heard, |window| window.min(heard));
    let mut snapshots = Vec::new();
    for heard in MOMENTS.map(|share| (share * length as f64) as usize) {
        let reach = reach(heard).max(1);
        let mut ages: Vec<usize> = (0..POINTS).map(|i| i * (reach - 1) / (POINTS - 1)).collect();
        ages.dedup();
        ages.reverse();
        let values = reader.remembered(&states[heard - 1], heard, &ages, step)?;
        let remembered = ages
            .iter()
            .zip(values)
            .map(|(age, value)| (heard - 1 - age, value));
        snapshots.push(Snapshot {
            heard,
            remembered: remembered.collect(),
        });
    }
    let mut ages: Vec<usize> = (0..AGES)
        .map(|i| i * (reach(length / 2).max(1) - 1) / (AGES - 1))
        .collect();
    ages.dedup();
    let mut squares = vec![0.0; ages.len()];
    for i in 1..=AVERAGED {
        let heard = length / 2 + i * (length - length / 2) / AVERAGED;
        let values = reader.remembered(&states[heard - 1], heard, &ages, step)?;
        for ((square, age), value) in squares.iter_mut().zip(&ages).zip(values) {
            let error = value - signal.samples[heard - 1 - age];
            *square += error * error / AVERAGED as f64;
        }
    }
    let variance = signal.deviation() * signal.deviation();
    let mean_square: Vec<(usize, f64)> = ages
        .iter()
        .zip(&squares)
        .map(|(a, s)| (*a, s / variance))
        .collect();
    Ok(Memory {
        name,
        weighs,
        snapshots,
        errors: ranges(length)
            .map(|(from, to)| over_range(&mean_square, from, to))
            .collect(),
        by_age: mean_square
            .iter()
            .map(|(age, square)| (*age as f64, square.sqrt()))
            .collect(),
    })
}

/// The ranges of age of tables, in samples.
pub fn ranges(length: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = move |share: f64| (share * length as f64) as usize;
    (0..RANGES.len()).map(move |i| (if i == 0 { 0 } else { end(RANGES[i - 1]) }, end(RANGES[i])))
}

/// Root of the mean; none where the ages end before the middle of the range.
fn over_range(mean_square: &[(usize, f64)], from: usize, to: usize) -> Option<f64> {
    let inside = || mean_square.iter().filter(|(age, _)| (from..to).contains(age));
    let last = mean_square.last()?.0;
    let count = inside().count();
    (count > 0 && 2 * last >= from + to)
        .then(|| (inside().map(|(_, s)| s).sum::<f64>() / count as f64).sqrt())
}
