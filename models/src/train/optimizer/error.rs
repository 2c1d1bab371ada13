//! Every way in which an update of the weights can be refused.

use std::fmt::Display;

use thiserror::Error;

/// Why an optimiser cannot be made, or a step not be taken.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum OptimizerError {
    /// An option is out of range.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What the option was given instead.
        found: String,
    },
    /// Gradients or parameters are not those that the optimiser was made for.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// What differs, as a phrase: `number of gradients`.
        what: String,
        /// What the optimiser was made for.
        expected: String,
        /// What the optimiser was handed instead.
        found: String,
    },
    /// A gradient is NaN or infinite.
    #[error(
        "step {step}: expected finite gradients, found NaN or infinite values in that of {parameter}; \
         lower the learning rate, or clip gradients"
    )]
    NonFinite {
        /// Steps done before this one.
        step: u64,
        /// The first parameter, in the order of the list, whose gradient is not finite.
        parameter: String,
    },
    /// Gradients are so large that the second moment would be infinite for ever after.
    #[error(
        "step {step}: expected a gradient norm up to {limit:e}, whose square fits into f32, found {norm:e}; \
         set clip_norm"
    )]
    Overflow {
        /// Steps done before this one.
        step: u64,
        /// The largest norm accepted.
        limit: f64,
        /// Norm ‖g‖ of the gradients, after clipping where there is any.
        norm: f64,
    },
    /// Gradients were accumulated over nothing.
    #[error("accumulated gradients: expected targets of a positive total weight, found {found}")]
    Weight {
        /// The sum of the weights.
        found: f64,
    },
    /// A saved state of another optimiser.
    #[error("saved optimiser: {what}: expected {expected}, found {found}")]
    Saved {
        /// Name of the saved entry: `moment_1.NAME`.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What the saved state has instead.
        found: String,
    },
}

impl OptimizerError {
    pub(crate) fn option(option: &'static str, expected: impl Into<String>, found: impl Display) -> Self {
        Self::Option {
            option,
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    pub(super) fn mismatch(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Display,
    ) -> Self {
        Self::Mismatch {
            what: what.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    pub(super) fn saved(what: impl Into<String>, expected: impl Into<String>, found: impl Display) -> Self {
        Self::Saved {
            what: what.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
