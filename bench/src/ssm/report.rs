//! The report of `spillway ssm`: everything that is shown of every system, as a table, as JSON and as CSV.

use super::functions::{Function, functions};
use super::history::{LeastEnergy, traces};
use super::memory::{Memory, memories, ranges};
use super::signal::Signal;
use super::spectrum::{Mode, is_stable, modes, slowest};
use super::system::Named;
use super::views::{AtRate, Views, at_rates, views};
use super::{Setting, failed};
use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format::{count, counted, short};
use serde_json::{Value, json};
use spillway_ssm_core::state_space::StateSpaceError;
use spillway_ssm_core::state_space::hippo::basis;

/// Everything that is shown: of the setting, the signal and every system.
#[derive(Clone, Debug)]
pub struct Report {
    /// What holds for every system.
    pub setting: Setting,
    /// Signal that the systems listen to.
    pub signal: Signal,
    /// What is shown of each system, in the order in which they were named.
    pub systems: Vec<SystemReport>,
}

/// Everything that is shown of one system.
#[derive(Clone, Debug)]
pub struct SystemReport {
    /// The system that all of this is of.
    pub named: Named,
    /// Eigenvalues of the system, before and after it is made discrete.
    pub modes: Vec<Mode>,
    /// What the first numbers of the state hear.
    pub functions: Vec<Function>,
    /// What its states remember of the signal, and how well by age.
    pub memories: Vec<Memory>,
    /// The age that the output reads, in samples.
    pub reading_age: f64,
    /// The system's output by three views: recurrence, convolution and integral.
    pub views: Views,
    /// The output at other rates.
    pub rates: Vec<AtRate>,
}

impl Report {
    /// Looks at every system.
    ///
    /// # Errors
    /// [`ProgramError`] for a system that cannot run under the rule.
    pub fn measure(
        systems: &[Named],
        setting: Setting,
        signal: Signal,
        context: &Context,
    ) -> Result<Self, ProgramError> {
        let progress = context.progress(systems.len() as u64, "systems");
        let mut reports = Vec::new();
        for &named in systems {
            progress.set_message(named.name().to_string());
            let modes = modes(named, &setting)?;
            reports.push(SystemReport::measure(named, modes, &setting, &signal).map_err(failed)?);
            progress.inc(1);
        }
        Ok(Self {
            setting,
            signal,
            systems: reports,
        })
    }

    /// One line on what was looked at: size of the state, Δ, rule and signal.
    pub fn facts(&self) -> String {
        format!(
            "state of {}; Δ = {}, a unit of time is {} samples; {}; {} samples of {}",
            counted(self.setting.states as u64, "number"),
            short(self.setting.step),
            short(1.0 / self.setting.step),
            self.setting.rule.name(),
            count(self.signal.samples.len() as u64),
            self.signal.name,
        )
    }

    /// The table that is printed.
    pub fn table(&self) -> String {
        let memories = || self.systems.iter().flat_map(|system| &system.memories);
        let width = |texts: &mut dyn Iterator<Item = &String>, least: usize| {
            texts
                .map(|text| text.chars().count())
                .max()
                .unwrap_or(0)
                .max(least)
        };
        let names = width(&mut memories().map(|memory| &memory.name), 6);
        let weighs = width(&mut memories().map(|memory| &memory.weighs), 17);
        let ages: Vec<String> = ranges(self.signal.samples.len())
            .map(|(from, to)| format!("{}–{}", count(from as u64), count(to as u64)))
            .collect();
        let ages: String = ages.iter().map(|age| format!("  {age:>11}")).collect();
        let mut lines = vec![
            self.facts(),
            String::new(),
            format!(
                "{:names$}  {:weighs$}  error of what is remembered, by age in samples",
                "", ""
            ),
            format!("{:names$}  {:weighs$}{ages}", "system", "weighs"),
        ];
        for memory in memories() {
            let errors: String = memory
                .errors
                .iter()
                .map(|error| format!("  {:>11}", percent(*error)))
                .collect();
            lines.push(format!(
                "{:names$}  {:weighs$}{errors}",
                memory.name, memory.weighs
            ));
        }
        lines.push(String::new());
        lines.push(format!(
            "{:names$}  {:>16}  {:>24}  {:>24}  {:>16}",
            "", "slowest mode", "recurrence, convolution", "recurrence, integral", "half the rate"
        ));
        for system in &self.systems {
            let half_life = slowest(&system.modes)
                .map_or("never fades".into(), |life| format!("{} samples", short(life)));
            let differences = &system.views.differences;
            let rate = system.rates.first().map_or("unstable".into(), |rate| {
                format!("off by {}", percent(Some(rate.error)))
            });
            lines.push(format!(
                "{:names$}  {half_life:>16}  {:>24}  {:>24}  {rate:>16}",
                system.named.name(),
                format!("differ by {}", difference(differences.recurrent_convolved)),
                format!("differ by {}", difference(differences.recurrent_continuous)),
            ));
        }
        lines.push(String::new());
        lines.extend(
            [
                "Errors are in percent of the signal's standard deviation; a dash is beyond the window. The slowest mode",
                "has halved after so many samples; outputs are held against their largest value.",
            ]
            .map(String::from),
        );
        lines.join("\n")
    }

    /// Settings and figures of every system.
    pub fn json(&self) -> Value {
        let system = |system: &SystemReport| {
            json!({
                "name": system.named.name(),
                "slowest_half_life_samples": slowest(&system.modes),
                "eigenvalues": system.modes,
                "memories": system.memories,
                "reading_age_samples": system.reading_age,
                "differences": system.views.differences,
                "rates": system.rates,
            })
        };
        let ranges: Vec<[usize; 2]> = ranges(self.signal.samples.len())
            .map(|(from, to)| [from, to])
            .collect();
        json!({
            "version": 1,
            "states": self.setting.states,
            "step": self.setting.step,
            "rule": self.setting.rule.name(),
            "seed": self.setting.seed,
            "signal": self.signal.name,
            "samples": self.signal.samples.len(),
            "error_ranges_samples": ranges,
            "systems": self.systems.iter().map(system).collect::<Vec<_>>(),
        })
    }

    /// The memories of all systems that have one.
    pub fn memories(&self) -> impl Iterator<Item = &Memory> {
        self.systems.iter().flat_map(|system| &system.memories)
    }
}

impl SystemReport {
    fn measure(
        named: Named,
        modes: Vec<Mode>,
        setting: &Setting,
        signal: &Signal,
    ) -> Result<Self, StateSpaceError> {
        let silent = named.system(setting.states, None, setting.seed)?;
        let length = signal.samples.len();
        // Where the numbers of the state are coefficients of no known functions.
        let least = match named.measure_with_basis() {
            None => Some(LeastEnergy::new(traces(
                &silent,
                setting.rule,
                setting.step,
                length,
            )?)),
            Some(_) => None,
        };
        let age = named.reading_age();
        let reading = match (&least, named.measure_with_basis()) {
            (Some(least), _) => least.reading((age / setting.step) as usize),
            (None, Some(measure)) => basis(measure, setting.states, age)?,
            (None, None) => vec![0.0; setting.states],
        };
        let system = named.system(setting.states, Some(&reading), setting.seed)?;
        let views = views(&system, setting, &signal.samples)?;
        let rates = at_rates(&system, setting, &signal.samples, &views.recurrent, |step| {
            is_stable(&modes, setting, step)
        })?;
        Ok(Self {
            named,
            functions: functions(named, setting)?,
            memories: memories(named, setting, least.as_ref(), signal)?,
            reading_age: age / setting.step,
            views,
            rates,
            modes,
        })
    }
}

/// A difference as a share of the largest value.
pub fn difference(value: f64) -> String {
    match value {
        0.0 => "nothing".into(),
        value if value < 1e-4 => format!("{value:.0e}"),
        value => percent(Some(value)),
    }
}

/// A share in percent; a dash where there is none.
pub fn percent(share: Option<f64>) -> String {
    match share.map(|share| 100.0 * share) {
        None => "–".into(),
        Some(value) if value >= 999.5 => "over 1,000 %".into(),
        Some(value) if value >= 9.95 => format!("{value:.0} %"),
        Some(value) if value >= 0.05 => format!("{value:.1} %"),
        Some(_) => "under 0.1 %".into(),
    }
}
