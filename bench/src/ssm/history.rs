//! The states of a system, sample by sample, and what the least energy is that leaves a given state.

use spillway_ssm_core::state_space::{
    DMatrix, DVector, Dense, DiscreteStateSpace, Discretisation, StateSpace, StateSpaceError,
};

/// Directions of the state in which the past has left less than this share of the greatest are lost to rounding in f32.
const RESOLVED: f64 = 3e-7;

/// The states x_k after every sample, from x = 0.
///
/// # Errors
/// A state that leaves the range of f64.
pub fn states(
    system: &Dense,
    rule: Discretisation,
    step: f64,
    input: &[f64],
) -> Result<Vec<Vec<f64>>, StateSpaceError> {
    let discrete = system.discretise(rule, step)?;
    let mut states = discrete.states(&mut discrete.zero_state(), input)?;
    // Some rules run on x + shift · u.
    if !discrete.shift().is_empty() {
        for (state, u) in states.iter_mut().zip(input) {
            for (x, shift) in state.iter_mut().zip(discrete.shift()) {
                *x -= shift * u;
            }
        }
    }
    Ok(states)
}

/// Ā^l B̄ for l from 0 to `length` − 1: what a sample leaves in the state l samples later.
///
/// # Errors
/// As [`states`].
pub fn traces(
    system: &Dense,
    rule: Discretisation,
    step: f64,
    length: usize,
) -> Result<Vec<Vec<f64>>, StateSpaceError> {
    let mut impulse = vec![0.0; length];
    if let Some(first) = impulse.first_mut() {
        *first = 1.0;
    }
    states(system, rule, step, &impulse)
}

/// The past of least energy Σ u² that leaves a given state: û_l = k_lᵀ G⁺ x with the traces k_l and G = Σ k_l k_lᵀ.
///
/// It is the orthogonal projection of the past on what the state hears. Directions of G below the resolution of f32 are left out.
#[derive(Clone, Debug)]
pub struct LeastEnergy {
    traces: Vec<Vec<f64>>,
    inverse: DMatrix<f64>,
}

impl LeastEnergy {
    /// Prepares G⁺ from the traces k_l of every age l that counts, from 0 on.
    pub fn new(traces: Vec<Vec<f64>>) -> Self {
        let states = traces.first().map_or(0, Vec::len);
        let columns: Vec<DVector<f64>> = traces.iter().map(|k| DVector::from_column_slice(k)).collect();
        let matrix = DMatrix::from_columns(&columns);
        let gram = &matrix * matrix.transpose();
        let eigen = gram.symmetric_eigen();
        let least = RESOLVED * RESOLVED * eigen.eigenvalues.amax();
        let reciprocals = eigen
            .eigenvalues
            .map(|value| if value > least { 1.0 / value } else { 0.0 });
        let scaled = &eigen.eigenvectors * DMatrix::from_diagonal(&reciprocals);
        debug_assert_eq!(scaled.nrows(), states);
        Self {
            traces,
            inverse: scaled * eigen.eigenvectors.transpose(),
        }
    }

    /// G⁺ k_l: the output C that reads the past at this age off the state.
    pub fn reading(&self, age: usize) -> Vec<f64> {
        match self.traces.get(age) {
            Some(trace) => (&self.inverse * DVector::from_column_slice(trace))
                .as_slice()
                .to_vec(),
            None => vec![0.0; self.inverse.nrows()],
        }
    }

    /// û at these ages in samples.
    pub fn remembered(&self, state: &[f64], ages: &[usize]) -> Vec<f64> {
        let weights = &self.inverse * DVector::from_column_slice(state);
        let at = |&age: &usize| {
            let trace = self.traces.get(age).into_iter().flatten();
            trace.zip(weights.iter()).map(|(k, w)| k * w).sum()
        };
        ages.iter().map(at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_as_long_as_the_past_gives_it_back_and_a_reading_is_one_value_of_it() {
        // A chain of delays: the state is the last four samples.
        let traces: Vec<Vec<f64>> = (0..4)
            .map(|l| (0..4).map(|n| f64::from(u8::from(n == l))).collect())
            .collect();
        let memory = LeastEnergy::new(traces);
        let state = [4.0, 3.0, 2.0, 1.0];
        assert_eq!(memory.remembered(&state, &[0, 3, 9]), [4.0, 1.0, 0.0]);
        let read: f64 = memory.reading(2).iter().zip(state).map(|(c, x)| c * x).sum();
        assert!((read - 2.0).abs() < 1e-12);
    }

    #[test]
    fn states_under_every_rule_are_those_of_the_system_itself() {
        // x′ = −x + u under a constant input of 1: x = 1 − e^{−t}.
        let system = Dense::from_rows(&[-1.0], &[1.0], &[0.0], 0.0).expect("a system");
        for name in ["zoh", "bilinear", "backward", "forward", "mixed", "trapezoidal"] {
            let rule = Discretisation::from_name(name).expect("a rule");
            let states = states(&system, rule, 0.001, &[1.0; 1000]).expect("stable");
            assert!((states[999][0] - (1.0 - (-1.0_f64).exp())).abs() < 1e-3, "{name}");
        }
    }
}
