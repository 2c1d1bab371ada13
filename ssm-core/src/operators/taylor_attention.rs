//! Attention by a polynomial of q·k whose features are never stored: Based and ReBased, and behind a prefix, prefix linear attention.

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
use std::sync::Arc;

/// What of Taylor attention is not a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaylorPlan {
    /// Factor on q·k; 1/√K in the papers.
    pub scale: f32,
    /// The polynomial of the scaled q·k that weighs a value.
    pub expansion: Expansion,
    /// ε of the denominator; `None` for no denominator.
    pub normalizer: Option<f32>,
}

impl TaylorPlan {
    /// Rows and columns of the state of a head: the features with each product of two keys once, and the values with one
    /// more column for the denominator.
    pub fn state_shape(&self, key_dim: usize, value_dim: usize) -> [usize; 2] {
        let problem = kernel::Problem {
            batch: 0,
            time: 0,
            prefix: 0,
            heads: 0,
            key_dim,
            value_dim,
            scale: self.scale,
            expansion: self.expansion,
            normalizer: self.normalizer,
        };
        [problem.features(), problem.columns()]
    }
}

/// Tokens that every other token sees, earlier ones too.
#[derive(Clone, Debug)]
pub struct TaylorPrefix {
    /// Keys of the prefix, `[sequences, prefix, heads, key_dim]`.
    pub key: Tensor<4>,
    /// Values of the prefix, `[sequences, prefix, heads, value_dim]`.
    pub value: Tensor<4>,
    /// How many of the first tokens of the prefix are padding, per sequence, where some are.
    pub padding: Option<Arc<[usize]>>,
}

/// What Taylor attention reads.
#[derive(Clone, Debug)]
pub struct TaylorInputs {
    /// Queries q, `[batch, time, heads, key_dim]`.
    pub query: Tensor<4>,
    /// Keys k, `[batch, time, heads, key_dim]`.
    pub key: Tensor<4>,
    /// Values v, `[batch, time, heads, value_dim]`.
    pub value: Tensor<4>,
    /// The prefix, where there is one.
    pub prefix: Option<TaylorPrefix>,
    /// ln γ, `[heads]`: what the sum of values, but not that of weights, is multiplied by at every token; `None` for γ = 1.
    pub log_decay: Option<Tensor<1>>,
}

impl TaylorInputs {
    /// Without a prefix, and without a decay.
    pub fn new(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Self {
        Self {
            query,
            key,
            value,
            prefix: None,
            log_decay: None,
        }
    }

    /// Compares every shape with those of the query and of the value; key and value dimension.
    fn expect_shapes(&self, count: usize) -> Result<[usize; 2]> {
        let [batch, time, heads, key_dim] = self.query.dims();
        let value_dim = self.value.dims()[3];
        expect_shape("key", &self.query.dims(), &self.key.dims())?;
        expect_shape("value", &[batch, time, heads, value_dim], &self.value.dims())?;
        if let Some(prefix) = &self.prefix {
            let tokens = prefix.key.dims()[1];
            let (key, value) = ([count, tokens, heads, key_dim], [count, tokens, heads, value_dim]);
            expect_shape("key of the prefix", &key, &prefix.key.dims())?;
            expect_shape("value of the prefix", &value, &prefix.value.dims())?;
            if let Some(padding) = &prefix.padding {
                Sequences::LeftPadded(padding.clone()).count(count, tokens)?;
            }
        }
        if let Some(log_decay) = &self.log_decay {
            expect_shape("log decay", &[heads], &log_decay.dims())?;
        }
        Ok([key_dim, value_dim])
    }
}

/// y_t = (Σ_e w(q_t·k′_e) v′_e + Σ_{j ≤ t} w(q_t·k_j) v_j), divided by the sum of the same weights and ε where the plan says so;
/// `state` is left after the last token of every sequence.
///
/// The prefix, whose tokens are k′ and v′, is added to the state first; the same tokens are not also read as the sequence's own unless
/// they are given there. Where there is a decay, w(q_t·k_j) v_j counts γ^{t−j} times in the numerator and once in the denominator.
///
/// Sources: Arora et al., *Simple linear attention language models balance the recall-throughput tradeoff* (2402.18668) and *Just
/// read twice* (2407.05483); Aksenov et al., *Linear Transformers with Learnable Kernel Functions* (2402.10644).
///
/// # Shapes
/// As in [`TaylorInputs`]; result `[batch, time, heads, value_dim]`; the state's memory `[sequences, heads, …]` with
/// [`TaylorPlan::state_shape`].
///
/// # Errors
/// [`Error::Shape`], [`Error::Value`] for a negative ε or scale or a head without keys or values, [`Error::Sequences`],
/// [`Error::Device`], [`Error::DType`] and [`Error::Kernel`].
pub fn taylor_attention(
    inputs: TaylorInputs,
    plan: TaylorPlan,
    sequences: &Sequences,
    state: &mut State,
) -> Result<Tensor<4>> {
    let [batch, time, heads, _] = inputs.query.dims();
    let count = sequences.count(batch, time)?;
    let [key_dim, value_dim] = inputs.expect_shapes(count)?;
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
    // No token of a prefix is no prefix, and no rows are what no device has memory for.
    let prefix = inputs.prefix.filter(|prefix| prefix.key.dims()[1] > 0);
    let (prefix_key, prefix_value, prefix_padding) = match prefix {
        Some(prefix) => (Some(prefix.key.into()), Some(prefix.value.into()), prefix.padding),
        None => (None, None, None),
    };
    let operands = kernel::OperandsAndState {
        query: inputs.query.into(),
        key: inputs.key.into(),
        value: inputs.value.into(),
        prefix_key,
        prefix_value,
        log_decay: inputs.log_decay.map(Into::into),
        state: Input::State(&mut state.memory),
    };
    let operator = TaylorAttention {
        plan,
        sequences: sequences.clone(),
        prefix_padding,
    };
    let found = run(operator, operands)?;
    state.memory = Tensor::from_dispatch(found.state);
    state.position = state.position.saturating_add(sequences.longest(time) as u64);
    Ok(Tensor::from_dispatch(found.out))
}

#[derive(Debug)]
struct TaylorAttention {
    plan: TaylorPlan,
    sequences: Sequences,
    prefix_padding: Option<Arc<[usize]>>,
}

impl TaylorAttention {
    fn problem(&self, inputs: &kernel::OperandsAndState<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        let (key, value) = (&inputs.key, &inputs.value);
        kernel::Problem {
            batch: self.sequences.count_in(key[0]),
            time: key[1],
            prefix: inputs.prefix_key.as_ref().map_or(0, |shape| shape[1]),
            heads: key[2],
            key_dim: key[3],
            value_dim: value[3],
            scale: self.plan.scale,
            expansion: self.plan.expansion,
            normalizer: self.plan.normalizer,
        }
    }

    /// All in the value's type.
    #[cfg(feature = "cube")]
    fn types(&self, inputs: &kernel::OperandsAndState<Spec, Spec>) -> cube::Types {
        cube::Types::all(inputs.value.dtype)
    }
}

over_sequences! {
    TaylorAttention as attention, "taylor_attention", kernel;
    settings: [attention.sequences.view(), attention.prefix_padding.as_deref()];
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
