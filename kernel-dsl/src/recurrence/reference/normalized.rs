//! The normalised recurrence in f64, as its definition says: one more column of values that are all 1.

use super::backward::{WideCotangents, run};
use super::{recurrence, skip_of};
use crate::recurrence::normalized::{
    InitialState, NormalizedCotangents, NormalizedGradients, NormalizedState, validate, validate_backward,
};
use crate::recurrence::problem::{GradientBuffers, Inputs, Problem, RecurrenceError};
use crate::rows::Rows;

/// The normalised recurrence in f64 (see [the module](crate::recurrence::normalized) for the formula).
///
/// # Shapes
/// As for [`normalized::sequential`](crate::recurrence::normalized::sequential).
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong.
pub fn normalized(
    problem: &Problem,
    inputs: &Inputs,
    eps: f32,
    state: NormalizedState<f64>,
    out: &mut [f64],
) -> Result<(), RecurrenceError> {
    validate(problem, inputs, &state, out)?;
    let wider = Wider::new(problem, inputs);
    let initial = InitialState {
        state: state.state,
        key_sum: state.key_sum,
    };
    let mut joined = wider.join(problem.value_dim, initial);
    let mut sums = vec![0.0; inputs.value.rows() * problem.heads * (problem.value_dim + 1)];
    recurrence(&wider.problem, &wider.inputs(inputs), &mut joined, &mut sums)?;
    wider.split(problem.value_dim, &joined, state);
    for row in (0..problem.batch).flat_map(|b| inputs.sequences.span(b, problem.time)) {
        for head in 0..problem.heads {
            let at = row * problem.heads + head;
            let sums = &sums[at * (problem.value_dim + 1)..][..problem.value_dim + 1];
            for p in 0..problem.value_dim {
                let value = f64::from(inputs.value.row(row)[head * problem.value_dim + p]);
                out[at * problem.value_dim + p] = sums[p] / (sums[problem.value_dim] + f64::from(eps))
                    + skip_of(problem, inputs, head, p) * value;
            }
        }
    }
    Ok(())
}

/// The gradients of [`normalized`] in f64.
///
/// # Shapes
/// As for [`normalized::backward`](crate::recurrence::normalized::backward).
///
/// # Errors
/// [`RecurrenceError`] when a shape is wrong.
pub fn normalized_backward(
    problem: &Problem,
    inputs: &Inputs,
    eps: f32,
    initial: InitialState<f64>,
    cotangents: &NormalizedCotangents,
    gradients: &mut NormalizedGradients<f64>,
) -> Result<(), RecurrenceError> {
    validate_backward(problem, inputs, initial, cotangents, gradients)?;
    let Problem {
        batch,
        time,
        heads,
        value_dim,
        ..
    } = *problem;
    let wider = Wider::new(problem, inputs);
    let joined = wider.join(value_dim, initial);
    let mut sums = vec![0.0; inputs.value.rows() * heads * (value_dim + 1)];
    recurrence(
        &wider.problem,
        &wider.inputs(inputs),
        &mut joined.clone(),
        &mut sums,
    )?;
    let mut out = vec![0.0; sums.len()];
    let mut skip = vec![0.0; inputs.skip.map_or(0, <[f32]>::len)];
    gradients.inputs.value.fill(0.0);
    for row in (0..batch).flat_map(|b| inputs.sequences.span(b, time)) {
        for head in 0..heads {
            let at = (row * heads + head) * (value_dim + 1);
            let denominator = sums[at + value_dim] + f64::from(eps);
            for p in 0..value_dim {
                let column = head * value_dim + p;
                let y = f64::from(cotangents.out.row(row)[column]);
                out[at + p] = y / denominator;
                out[at + value_dim] -= y * sums[at + p] / (denominator * denominator);
                gradients.inputs.value[row * heads * value_dim + column] =
                    skip_of(problem, inputs, head, p) * y;
                if !skip.is_empty() {
                    let index = if skip.len() == heads { head } else { column };
                    skip[index] += f64::from(inputs.value.row(row)[column]) * y;
                }
            }
        }
    }
    let zeros = |len: usize| vec![0.0_f32; len];
    let state_cotangent = cotangents
        .state
        .map_or(zeros(problem.state_len()), <[f32]>::to_vec);
    let key_sum_cotangent = cotangents
        .key_sum
        .map_or(zeros(initial.key_sum.len()), <[f32]>::to_vec);
    let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let wide_cotangents = WideCotangents {
        out,
        state: Some(wider.join(
            value_dim,
            InitialState {
                state: &wide(&state_cotangent),
                key_sum: &wide(&key_sum_cotangent),
            },
        )),
    };
    let mut found: GradientBuffers<f64> = GradientBuffers::zeros(&wider.problem, &wider.inputs(inputs))?;
    run(
        &wider.problem,
        &wider.inputs(inputs),
        &joined,
        &wide_cotangents,
        &mut found.as_written(),
    );
    wider.hand_over(value_dim, found, skip, gradients);
    Ok(())
}

/// The problem with one more column of values.
struct Wider {
    problem: Problem,
    values: Vec<f32>,
    rows: usize,
}

impl Wider {
    fn new(problem: &Problem, inputs: &Inputs) -> Self {
        let row = |row: usize| {
            let heads = (0..problem.heads).map(move |head| head * problem.value_dim);
            heads.flat_map(move |start| {
                let values = &inputs.value.row(row)[start..start + problem.value_dim];
                values.iter().copied().chain([1.0])
            })
        };
        Self {
            problem: Problem {
                value_dim: problem.value_dim + 1,
                ..*problem
            },
            values: (0..inputs.value.rows()).flat_map(row).collect(),
            rows: inputs.value.rows(),
        }
    }

    fn inputs<'a>(&'a self, inputs: &Inputs<'a>) -> Inputs<'a> {
        let columns = self.problem.heads * self.problem.value_dim;
        Inputs {
            value: Rows::contiguous(&self.values, self.rows, columns)
                .unwrap_or_else(|_| unreachable!("the buffer has been made for these rows")),
            skip: None,
            ..*inputs
        }
    }

    /// The key sum as the last column of the state.
    fn join(&self, value_dim: usize, initial: InitialState<f64>) -> Vec<f64> {
        let row = |(key, sum): (usize, &f64)| {
            let values = &initial.state[key * value_dim..(key + 1) * value_dim];
            values.iter().copied().chain([*sum]).collect::<Vec<_>>()
        };
        initial.key_sum.iter().enumerate().flat_map(row).collect()
    }

    /// The inverse of [`Wider::join`].
    fn split(&self, value_dim: usize, joined: &[f64], state: NormalizedState<f64>) {
        for (key, row) in joined.chunks_exact(value_dim + 1).enumerate() {
            state.state[key * value_dim..(key + 1) * value_dim].copy_from_slice(&row[..value_dim]);
            state.key_sum[key] = row[value_dim];
        }
    }

    /// Gives the gradients of the wider problem to those of the narrower one, whose values hold what goes through the skip.
    fn hand_over(
        &self,
        value_dim: usize,
        found: GradientBuffers<f64>,
        skip: Vec<f64>,
        gradients: &mut NormalizedGradients<f64>,
    ) {
        let narrow = found
            .value
            .chunks_exact(value_dim + 1)
            .flat_map(|head| &head[..value_dim]);
        gradients
            .inputs
            .value
            .iter_mut()
            .zip(narrow)
            .for_each(|(sum, x)| *sum += x);
        self.split(
            value_dim,
            &found.state,
            NormalizedState {
                state: gradients.inputs.state,
                key_sum: gradients.key_sum,
            },
        );
        gradients.inputs.query.copy_from_slice(&found.query);
        gradients.inputs.key.copy_from_slice(&found.key);
        let optional = [
            (
                gradients.inputs.log_decay.as_mut().either(),
                found.log_decay.either(),
            ),
            (gradients.inputs.step_size.as_mut(), found.step_size),
            (gradients.inputs.bonus.as_mut(), found.bonus),
            (gradients.inputs.skip.as_mut(), Some(skip)),
        ];
        for (into, found) in optional {
            if let (Some(into), Some(found)) = (into, found) {
                into.copy_from_slice(&found);
            }
        }
    }
}
