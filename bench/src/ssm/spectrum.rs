//! The eigenvalues of a system, before and after it is made discrete, and what they say of its memory.

use super::Setting;
use super::system::Named;
use crate::error::ProgramError;
use crate::kit::format::short;
use serde::Serialize;
use spillway_ssm_core::state_space::Complex64;
use std::f64::consts::{LN_2, TAU};

/// How far above 1 rounding carries |ā|.
const ROUNDING: f64 = 1e-9;

/// A mode of a system: an eigenvalue λ of A, and ā, the eigenvalue of Ā that it becomes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Mode {
    /// Re λ and Im λ.
    pub continuous: [f64; 2],
    /// Re ā and Im ā.
    pub discrete: [f64; 2],
    /// Samples after which half of it is left; none if it does not decay.
    pub half_life: Option<f64>,
    /// Turns in a sample.
    pub frequency: f64,
}

/// The eigenvalues of A and of Ā, which is a function of A.
///
/// # Errors
/// [`ProgramError::Usage`] for a mode that grows under the rule.
pub fn modes(named: Named, setting: &Setting) -> Result<Vec<Mode>, ProgramError> {
    let eigenvalues = named
        .eigenvalues(setting.states, setting.seed)
        .map_err(super::failed)?;
    let mode = |eigenvalue: Complex64| {
        let discrete = setting
            .rule
            .mode(eigenvalue, setting.step)
            .map_err(super::failed)?
            .transition;
        let size = discrete.norm();
        if size > 1.0 + ROUNDING {
            let expected = format!(
                "a rule under which {} stays bounded at Δ = {}",
                named.name(),
                setting.step
            );
            let found = format!(
                "{}, which makes a mode grow {} times with every sample",
                setting.rule.name(),
                short(size)
            );
            return Err(ProgramError::usage("--rule", expected, found));
        }
        Ok(Mode {
            continuous: [eigenvalue.re, eigenvalue.im],
            discrete: [discrete.re, discrete.im],
            half_life: half_life(size),
            frequency: discrete.arg().abs() / TAU,
        })
    };
    eigenvalues.into_iter().map(mode).collect()
}

/// Whether no mode grows under another step.
pub fn is_stable(modes: &[Mode], setting: &Setting, step: f64) -> bool {
    modes.iter().all(|mode| {
        let [re, im] = mode.continuous;
        let discrete = setting.rule.mode(Complex64::new(re, im), step);
        discrete.is_ok_and(|discrete| discrete.transition.norm() <= 1.0 + ROUNDING)
    })
}

fn half_life(size: f64) -> Option<f64> {
    match size {
        size if size >= 1.0 - 1e-12 => None,
        size if size <= 0.0 => Some(0.0),
        size => Some(LN_2 / -size.ln()),
    }
}

/// The longest half-life in samples, of the modes that decay at all.
pub fn slowest(modes: &[Mode]) -> Option<f64> {
    modes
        .iter()
        .filter_map(|mode| mode.half_life)
        .max_by(f64::total_cmp)
}
