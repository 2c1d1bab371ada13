//! Everything that can be wrong with a state space, a step size or a name.

use thiserror::Error;

/// Why a system cannot be made, discretised or run.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum StateSpaceError {
    /// A number is outside what the operation is defined for; NaN always is.
    #[error("{what} at {place}: expected {expected}, found {found}")]
    Value {
        /// The quantity that the number is of.
        what: &'static str,
        /// Where the number stands, such as an index, a mode or a rule.
        place: String,
        /// What would have been accepted.
        expected: &'static str,
        /// The number that was found.
        found: f64,
    },
    /// A list has another length than the rest of the system asks for.
    #[error("{what}: expected {expected} numbers, found {found}")]
    Length {
        /// The list that has the wrong length.
        what: &'static str,
        /// The length that the others ask for.
        expected: usize,
        /// The length that came.
        found: usize,
    },
    /// A mode grows from step to step instead of decaying.
    #[error(
        "mode {mode} is unstable under {rule} with step {step}: expected |ā| ≤ 1, found {magnitude}; \
         use the bilinear rule or the zero-order hold, and eigenvalues with Re λ ≤ 0"
    )]
    Unstable {
        /// Index of the mode.
        mode: usize,
        /// The rule that made it discrete.
        rule: String,
        /// The step size Δ.
        step: f64,
        /// |ā|, the factor by which the mode grows at every step.
        magnitude: f64,
    },
    /// A state or an output left the range of f64.
    #[error("{what} is no finite number at step {step}: the system is unstable, or its input is too large")]
    Overflow {
        /// What was being computed: a state, an output, a kernel or a response.
        what: &'static str,
        /// The first step with such a number.
        step: usize,
    },
    /// A rule has no form for this parameterisation.
    #[error("{rule} is not defined for {system}: {instead}")]
    Rule {
        /// The rule of discretisation.
        rule: String,
        /// The parameterisation that the rule is not defined for.
        system: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// A linear system has no unique solution.
    #[error("{what} is singular at {place}: {instead}")]
    Singular {
        /// The matrix that is singular.
        what: &'static str,
        /// Where the matrix is singular, such as a step size, a lag or a node.
        place: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// A rank is too small for the correction that a measure needs.
    #[error("the normal form of {measure} needs rank {needed}, found rank {found}")]
    Rank {
        /// Name of the measure.
        measure: String,
        /// The rank that the measure needs: its number of correction vectors.
        needed: usize,
        /// The rank that was asked for.
        found: usize,
    },
    /// A measure has no form of the kind that was asked for.
    #[error("{measure} has no {form}: {reason}")]
    Form {
        /// Name of the measure.
        measure: String,
        /// What was asked for.
        form: &'static str,
        /// Why there is none.
        reason: &'static str,
    },
    /// A system has no state at all.
    #[error("{what}: expected at least one state, found none")]
    Empty {
        /// The system that has no state.
        what: &'static str,
    },
    /// A state size cannot be split into conjugate pairs.
    #[error("{what}: expected an even and positive state size, found {found}")]
    Odd {
        /// The system or form whose state is made of conjugate pairs.
        what: &'static str,
        /// The state size that was asked for.
        found: usize,
    },
    /// Copies of a system cannot be shared out evenly among the parts of a mixture.
    #[error("{copies} copies cannot be shared evenly among the {parts} parts of {mixture}")]
    Copies {
        /// Name of the mixture.
        mixture: String,
        /// How many initialisations the mixture mixes.
        parts: usize,
        /// How many copies were asked for.
        copies: usize,
    },
    /// A name is not one of the published ones.
    #[error("unknown {what} {found:?}: expected one of {known}")]
    Name {
        /// What kind of name.
        what: &'static str,
        /// The name that was found.
        found: String,
        /// The names that there are.
        known: &'static str,
    },
}

/// Shorthand for the results of this module.
pub type Result<T, E = StateSpaceError> = std::result::Result<T, E>;

/// Refuses a list of another length.
pub(crate) fn require_length(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(StateSpaceError::Length {
            what,
            expected,
            found,
        })
    }
}

/// Refuses the first number that is not finite.
pub(crate) fn require_finite(what: &'static str, values: impl IntoIterator<Item = f64>) -> Result<()> {
    for (i, found) in values.into_iter().enumerate() {
        if !found.is_finite() {
            return Err(StateSpaceError::Value {
                what,
                place: format!("index {i}"),
                expected: "a finite number",
                found,
            });
        }
    }
    Ok(())
}

/// Refuses a number that is not finite and positive.
pub(crate) fn require_positive(what: &'static str, place: impl FnOnce() -> String, found: f64) -> Result<()> {
    if found.is_finite() && found > 0.0 {
        Ok(())
    } else {
        Err(StateSpaceError::Value {
            what,
            place: place(),
            expected: "a finite number above 0",
            found,
        })
    }
}

/// Refuses a system without states.
pub(crate) fn require_states(what: &'static str, states: usize) -> Result<()> {
    if states > 0 {
        Ok(())
    } else {
        Err(StateSpaceError::Empty { what })
    }
}

/// Refuses a state size that has no conjugate pairs.
pub(crate) fn require_pairs(what: &'static str, state_size: usize) -> Result<()> {
    if state_size > 0 && state_size.is_multiple_of(2) {
        Ok(())
    } else {
        Err(StateSpaceError::Odd {
            what,
            found: state_size,
        })
    }
}
