//! What each number of a state weighs the past by: the functions K_n(a) of an age a.

use super::Setting;
use super::history::traces;
use super::system::Named;
use spillway_ssm_core::state_space::hippo::basis::kernel_functions;
use spillway_ssm_core::state_space::{Discretisation, StateSpaceError};
use std::f64::consts::FRAC_1_SQRT_2;

/// Numbers of the state that are drawn.
const DRAWN: usize = 5;
/// Ages at which a function is evaluated.
const AGES: usize = 241;

/// What one number of the state weighs the past by: functions of an age.
#[derive(Clone, Debug)]
pub struct Function {
    /// n, the index of the number in the state, from 0.
    pub index: usize,
    /// (age in samples, weight of a unit of time): e^{aA} B, what the system hears.
    pub heard: Vec<(f64, f64)>,
    /// K_n = p_n ω of the measure; empty where the system hears just that, and where there is no measure.
    pub meant: Vec<(f64, f64)>,
}

/// The functions of the first numbers of a state.
///
/// # Errors
/// A function that leaves the range of f64.
pub fn functions(named: Named, setting: &Setting) -> Result<Vec<Function>, StateSpaceError> {
    let system = named.system(setting.states, None, setting.seed)?;
    let apart = named.horizon() / (AGES - 1) as f64;
    // Under this rule Ā^l B̄ is δ e^{lδA} B.
    let traces = traces(&system, Discretisation::Mixed, apart, AGES)?;
    let times: Vec<f64> = (0..AGES).map(|l| l as f64 * apart).collect();
    let meant = match named.window().zip(named.measure_with_basis()) {
        Some((_, measure)) => times
            .iter()
            .map(|&age| kernel_functions(measure, setting.states, age))
            .collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    let samples = |age: f64| age / setting.step;
    // A mode's real part is one of its real coordinates √2 [Re x, Im x].
    let scale = match named {
        Named::Diagonal(..) => FRAC_1_SQRT_2,
        Named::Measure(_) => 1.0,
    };
    let function = |index: usize| Function {
        index,
        heard: times
            .iter()
            .zip(&traces)
            .map(|(age, x)| (samples(*age), scale * x[index] / apart))
            .collect(),
        meant: times
            .iter()
            .zip(&meant)
            .map(|(age, k)| (samples(*age), k[index]))
            .collect(),
    };
    let drawn = named.drawn(setting.states, DRAWN, setting.seed)?;
    Ok(drawn.into_iter().map(function).collect())
}
