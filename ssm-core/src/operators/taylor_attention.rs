//! Attention by a polynomial of q·k whose features are never stored: Based and ReBased.

use crate::backend::{Input, over_sequences, run};
#[cfg(feature = "cube")]
use crate::backend::{Spec, cube};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::operators::norm::expect_epsilon;
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;
use spillway_kernel_dsl::taylor_attention as kernel;
pub use spillway_kernel_dsl::taylor_attention::Expansion;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::taylor_attention::cube as device;

/// What of Taylor attention is not a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaylorPlan {
    /// Factor on q·k; 1/√K in the papers.
    pub scale: f32,
    /// Which polynomial of it weighs a value.
    pub expansion: Expansion,
    /// ε of the denominator; `None` for no denominator.
    pub normalizer: Option<f32>,
}

impl TaylorPlan {
    fn problem(&self, sequences: &Sequences, key: &[usize], value: &[usize]) -> kernel::Problem {
        kernel::Problem {
            batch: sequences.count_in(key[0]),
            time: key[1],
            heads: key[2],
            key_dim: key[3],
            value_dim: value[3],
            scale: self.scale,
            expansion: self.expansion,
            normalizer: self.normalizer,
        }
    }

    /// Rows and columns of the state of a head: the features with each product of two keys once, and the values with one
    /// more column for the denominator.
    pub fn state_shape(&self, key_dim: usize, value_dim: usize) -> [usize; 2] {
        let problem = self.problem(&Sequences::Equal, &[0, 0, 0, key_dim], &[0, 0, 0, value_dim]);
        [problem.features(), problem.columns()]
    }
}

/// y_t = Σ_{j ≤ t} w(q_t·k_j) v_j, divided by Σ_{j ≤ t} w(q_t·k_j) + ε where the plan says so; `state` is left after the last
/// token of every sequence.
///
/// Sources: Arora et al., *Simple linear attention language models balance the recall-throughput tradeoff* (2402.18668);
/// Aksenov et al., *Linear Transformers with Learnable Kernel Functions* (2402.10644).
///
/// # Shapes
/// `query`, `key` `[batch, time, heads, key_dim]`, `value` and result `[batch, time, heads, value_dim]`; the state's memory
/// `[sequences, heads, …]` with [`TaylorPlan::state_shape`].
///
/// # Errors
/// [`Error::Shape`], [`Error::Value`] for a negative ε or scale or a head without keys or values, [`Error::Sequences`],
/// [`Error::Device`], [`Error::DType`] and [`Error::Kernel`].
pub fn taylor_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    plan: TaylorPlan,
    sequences: &Sequences,
    state: &mut State,
) -> Result<Tensor<4>> {
    let [batch, time, heads, key_dim] = query.dims();
    let value_dim = value.dims()[3];
    let count = sequences.count(batch, time)?;
    expect_shape("key", &query.dims(), &key.dims())?;
    expect_shape("value", &[batch, time, heads, value_dim], &value.dims())?;
    expect_epsilon(plan.normalizer.unwrap_or(0.0))?;
    if key_dim == 0 || value_dim == 0 || !(plan.scale > 0.0 && plan.scale.is_finite()) {
        return Err(Error::Value {
            what: "Taylor attention",
            expected: "keys and values of at least 1 dimension and a positive scale",
            found: format!("{key_dim}, {value_dim} and {}", plan.scale),
        });
    }
    let [features, columns] = plan.state_shape(key_dim, value_dim);
    expect_shape("state", &[count, heads, features, columns], &state.memory.dims())?;
    let inputs = kernel::OperandsAndState {
        query: query.into(),
        key: key.into(),
        value: value.into(),
        state: Input::State(&mut state.memory),
    };
    let operator = TaylorAttention {
        plan,
        sequences: sequences.clone(),
    };
    let found = run(operator, inputs)?;
    state.memory = Tensor::from_dispatch(found.state);
    state.position = state.position.saturating_add(sequences.longest(time) as u64);
    Ok(Tensor::from_dispatch(found.out))
}

#[derive(Debug)]
struct TaylorAttention {
    plan: TaylorPlan,
    sequences: Sequences,
}

impl TaylorAttention {
    fn problem(&self, inputs: &kernel::OperandsAndState<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        self.plan.problem(&self.sequences, &inputs.key, &inputs.value)
    }

    /// All in the value's type.
    #[cfg(feature = "cube")]
    fn types(&self, inputs: &kernel::OperandsAndState<Spec, Spec>) -> cube::Types {
        cube::Types::all(inputs.value.dtype)
    }
}

over_sequences! {
    TaylorAttention as attention, "taylor_attention", kernel;
    settings: [attention.sequences.view()];
    output like value;
    host: {
        forward: |_, problem: &kernel::Problem, inputs, state, out| match problem.time {
            0 | 1 => kernel::sequential(problem, inputs, state, out),
            _ => kernel::chunked(problem, inputs, kernel::DEFAULT_CHUNK_SIZE, state, out),
        },
        backward: |_, problem, inputs, state, cotangents, gradients| {
            kernel::backward(problem, inputs, kernel::DEFAULT_CHUNK_SIZE, state, cotangents, gradients)
        },
    }
    device: {
        forward: |attention: &Self, client, problem: &kernel::Problem, inputs, state| {
            match (problem.time, &attention.sequences) {
                (1, Sequences::Equal) => device::step(client, problem, inputs, state),
                _ => device::chunked(client, problem, inputs, state),
            }
        },
        backward: |_, client, problem, inputs, state, cotangents| {
            device::backward(client, problem, inputs, state, cotangents)
        },
    }
}
