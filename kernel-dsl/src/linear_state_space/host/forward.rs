//! The choice among the forms.

use super::chunked::{self, chunked};
use super::convolved;
use super::sequential::sequential;
use super::system::discretised;
use crate::linear_state_space::problem::{Inputs, Outputs, Problem, StateSpaceError};

/// The recurrence in the form that is faster: as a convolution for many sequences that begin without a state, [`chunked`] for many tokens
/// at one step size, else [`sequential`].
///
/// # Errors
/// As for [`sequential`].
pub fn forward(problem: &Problem, inputs: &Inputs, outputs: &mut Outputs) -> Result<(), StateSpaceError> {
    if convolved::pays(problem, inputs) {
        problem.validate_forward(inputs, outputs)?;
        return convolved::forward(problem, inputs, &discretised(problem, inputs), outputs);
    }
    let pays = problem.rows() >= chunked::WORTH_TABLES && inputs.token_step_size.is_none();
    match pays {
        true => chunked(problem, inputs, chunked::DEFAULT_SIZE, outputs),
        false => sequential(problem, inputs, outputs),
    }
}
