//! What a backward pass takes and gives: cotangents of the results, gradients of the inputs.

use super::problem::{Inputs, OPERATOR, Problem, RecurrenceError};
use crate::Cotangents;

/// Where the gradients of a recurrence's inputs go: contiguous buffers, overwritten.
///
/// An optional one may be left out although its input is given. Rows that belong to no sequence get zeros.
#[derive(Debug)]
pub struct Gradients<'a, T = f32> {
    /// Of q, `[rows, groups, key_dim]`, summed over the heads of a group.
    pub query: &'a mut [T],
    /// Of k, `[rows, groups, key_dim]`, summed over the heads of a group.
    pub key: &'a mut [T],
    /// Of v, `[rows, heads, value_dim]`.
    pub value: &'a mut [T],
    /// Of ln a: in the form of [`Inputs::log_decay`], `[heads]` or `[heads, key_dim]` for constants, `[rows, heads]` or
    /// `[rows, heads, key_dim]` per token.
    pub log_decay: Option<&'a mut [T]>,
    /// Of δ, `[rows, heads]`.
    pub step_size: Option<&'a mut [T]>,
    /// Of u, `[heads, key_dim]`.
    pub bonus: Option<&'a mut [T]>,
    /// Of D, as long as D.
    pub skip: Option<&'a mut [T]>,
    /// Of the initial state, `[batch, heads, key_dim, value_dim]`.
    pub state: &'a mut [T],
}

/// Gradients that own their memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GradientBuffers<T = f32> {
    /// See [`Gradients::query`].
    pub query: Vec<T>,
    /// See [`Gradients::key`].
    pub key: Vec<T>,
    /// See [`Gradients::value`].
    pub value: Vec<T>,
    /// See [`Gradients::log_decay`].
    pub log_decay: Option<Vec<T>>,
    /// See [`Gradients::step_size`].
    pub step_size: Option<Vec<T>>,
    /// See [`Gradients::bonus`].
    pub bonus: Option<Vec<T>>,
    /// See [`Gradients::skip`].
    pub skip: Option<Vec<T>>,
    /// See [`Gradients::state`].
    pub state: Vec<T>,
}

impl<T: Clone + Default> GradientBuffers<T> {
    /// Zeros for every input that is given.
    ///
    /// # Errors
    /// [`RecurrenceError`] when a shape of the inputs is wrong.
    pub fn zeros(problem: &Problem, inputs: &Inputs) -> Result<Self, RecurrenceError> {
        problem.validate_inputs(inputs)?;
        let lengths = Lengths::new(problem, inputs);
        let zeros = |len: usize| vec![T::default(); len];
        Ok(Self {
            query: zeros(lengths.query),
            key: zeros(lengths.query),
            value: zeros(lengths.value),
            log_decay: lengths.log_decay.map(zeros),
            step_size: lengths.step_size.map(zeros),
            bonus: lengths.bonus.map(zeros),
            skip: lengths.skip.map(zeros),
            state: zeros(problem.state_len()),
        })
    }
}

impl<T> GradientBuffers<T> {
    /// All of them, to be written.
    pub fn as_gradients(&mut self) -> Gradients<'_, T> {
        Gradients {
            query: &mut self.query,
            key: &mut self.key,
            value: &mut self.value,
            log_decay: self.log_decay.as_deref_mut(),
            step_size: self.step_size.as_deref_mut(),
            bonus: self.bonus.as_deref_mut(),
            skip: self.skip.as_deref_mut(),
            state: &mut self.state,
        }
    }
}

/// Values that the gradient of each input has.
struct Lengths {
    query: usize,
    value: usize,
    log_decay: Option<usize>,
    step_size: Option<usize>,
    bonus: Option<usize>,
    skip: Option<usize>,
}

impl Lengths {
    fn new(problem: &Problem, inputs: &Inputs) -> Self {
        let Problem {
            batch,
            time,
            heads,
            groups,
            key_dim,
            value_dim,
            ..
        } = *problem;
        let rows = inputs.sequences.rows(batch, time);
        let decays = !inputs.log_decay.is_none();
        Self {
            query: rows * groups * key_dim,
            value: rows * heads * value_dim,
            log_decay: decays.then(|| problem.decay_len(inputs.sequences)),
            step_size: inputs.step_size.map(|_| rows * heads),
            bonus: inputs.bonus.map(<[f32]>::len),
            skip: inputs.skip.map(<[f32]>::len),
        }
    }
}

impl Problem {
    /// Checks what a backward pass is given; the inputs have been validated.
    pub(crate) fn validate_backward<T>(
        &self,
        inputs: &Inputs,
        initial_state_len: usize,
        cotangents: &Cotangents,
        gradients: &Gradients<T>,
    ) -> Result<(), RecurrenceError> {
        let rows = inputs.sequences.rows(self.batch, self.time);
        OPERATOR.values("state", self.state_len(), initial_state_len)?;
        cotangents.validate(OPERATOR, (rows, self.heads * self.value_dim), self.state_len())?;
        let lengths = Lengths::new(self, inputs);
        OPERATOR.gradient("query", lengths.query, gradients.query)?;
        OPERATOR.gradient("key", lengths.query, gradients.key)?;
        OPERATOR.gradient("value", lengths.value, gradients.value)?;
        OPERATOR.optional_gradient("log_decay", lengths.log_decay, gradients.log_decay.as_deref())?;
        OPERATOR.optional_gradient("step_size", lengths.step_size, gradients.step_size.as_deref())?;
        OPERATOR.optional_gradient("bonus", lengths.bonus, gradients.bonus.as_deref())?;
        OPERATOR.optional_gradient("skip", lengths.skip, gradients.skip.as_deref())?;
        Ok(OPERATOR.gradient("state", self.state_len(), gradients.state)?)
    }
}
