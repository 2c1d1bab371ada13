//! A table without trainings: how exactly the states of each initialisation remember a signal, with C by least squares.

use super::config::{DelayCase, DelayConfig, TableConfig};
use super::report::{ArmReport, Asked, Point, TableReport};
use crate::error::ProgramError;
use crate::studies::estimate::Estimate;
use rand::SeedableRng;
use rand::rngs::StdRng;
use spillway_models::train::task::{Metric, TaskResult};
use spillway_ssm_core::state_space::StateSpaceError;
use spillway_ssm_core::state_space::delay::Delay;
use spillway_ssm_core::state_space::init::{SpectrumOptions, initialise};
use std::path::Path;

/// The table of a configuration with delays, for each seed of its arms.
///
/// # Errors
/// [`ProgramError::Content`] for an arm without the name of an initialisation, and what cannot be computed.
pub fn report(
    config: &TableConfig,
    delays: &DelayConfig,
    path: &Path,
    command: String,
) -> Result<TableReport, ProgramError> {
    let mut arms = Vec::new();
    for arm in &config.arms {
        let init = match (arm.set.len(), arm.set.get("init").and_then(toml::Value::as_str)) {
            (1, Some(init)) => init,
            _ => {
                let expected = format!(
                    "set = {{ init = \"diag-lin\" }}, or another initialisation, for {}",
                    arm.name
                );
                return Err(ProgramError::content(path, expected, format!("{:?}", arm.set)));
            }
        };
        let wrong = |error: StateSpaceError| {
            ProgramError::content(
                path,
                "delays that can be computed",
                format!("{}: {error}", arm.name),
            )
        };
        let seeds = config.seeds_of(arm).to_vec();
        let asked = delays.cases.iter().map(|case| {
            let errors = seeds
                .iter()
                .map(|seed| error(init, delays, case, *seed).map_err(wrong));
            Ok::<_, ProgramError>(asked(case.name(), errors.collect::<Result<_, _>>()?))
        });
        arms.push(ArmReport {
            name: arm.name.clone(),
            settings: [("init".to_string(), init.to_string())].into(),
            parameters: 0,
            steps: 0,
            seconds: 0.0,
            published: arm.published,
            asked: asked.collect::<Result<_, ProgramError>>()?,
            seeds,
        });
    }
    Ok(TableReport::of(config, arms, command))
}

/// The mean square error over the variance.
fn error(init: &str, delays: &DelayConfig, case: &DelayCase, seed: u64) -> Result<f64, StateSpaceError> {
    let mut rng = StdRng::seed_from_u64(seed);
    let initial = initialise(init, case.states, 0, &SpectrumOptions::default(), &mut rng)?;
    let delay = Delay {
        length: delays.length,
        limit: delays.limit,
        lag: case.lag,
    };
    Ok(delay.error(&initial, case.step, &mut rng)?.powi(2))
}

fn asked(name: String, errors: Vec<f64>) -> Asked {
    let result = |error: &f64| TaskResult {
        name: name.clone(),
        examples: 1,
        metric: Metric::RelativeError,
        value: *error,
        low: *error,
        high: *error,
        chance: 1.0,
        whole: None,
        loss: *error,
    };
    let point = Point {
        step: 0,
        results: errors.iter().map(result).collect(),
        value: Estimate::of(errors),
    };
    Asked {
        name,
        metric: Metric::RelativeError,
        chance: 1.0,
        points: vec![point],
    }
}
