//! Attention by a polynomial of q·k whose features are never stored: Based and ReBased.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::{Input, Operator, OutputAndState, Spec, operands, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::operators::norm::expect_epsilon;
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cube::DeviceBuffer;
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
    let inputs = Inputs {
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
    state.position += sequences.longest(time) as u64;
    Ok(Tensor::from_dispatch(found.out))
}

operands! {
    /// What Taylor attention reads.
    Inputs { query, key, value, state }
}

#[derive(Debug)]
struct TaylorAttention {
    plan: TaylorPlan,
    sequences: Sequences,
}

/// The inputs on the CPU.
struct Held<'a> {
    query: RowTensor,
    key: RowTensor,
    value: RowTensor,
    problem: kernel::Problem,
    sequences: &'a Sequences,
}

impl TaylorAttention {
    fn hold(&self, inputs: Inputs<FlexTensor>) -> (Held<'_>, FlexTensor) {
        let [query, key, value] =
            [inputs.query, inputs.key, inputs.value].map(|input| RowTensor::new(input, 2));
        let held = Held {
            problem: self.plan.problem(&self.sequences, &key.dims, &value.dims),
            query,
            key,
            value,
            sequences: &self.sequences,
        };
        (held, inputs.state)
    }
}

impl Held<'_> {
    fn view(&self) -> kernel::Inputs<'_> {
        kernel::Inputs {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            sequences: self.sequences.view(),
        }
    }
}

impl Operator for TaylorAttention {
    type Inputs = Inputs<()>;
    type Outputs = OutputAndState<()>;

    fn name(&self) -> &'static str {
        "taylor_attention"
    }

    fn outputs(&self, inputs: Inputs<Spec>) -> OutputAndState<Spec> {
        OutputAndState {
            out: inputs.value,
            state: inputs.state,
        }
    }

    fn forward_flex(&self, inputs: Inputs<FlexTensor>) -> OutputAndState<FlexTensor> {
        let (held, state) = self.hold(inputs);
        flex::with_state(state, &held.value.dims, |state, out| match held.problem.time {
            0 | 1 => kernel::sequential(&held.problem, &held.view(), state, out),
            _ => kernel::chunked(
                &held.problem,
                &held.view(),
                kernel::DEFAULT_CHUNK_SIZE,
                state,
                out,
            ),
        })
    }

    fn backward_flex(
        &self,
        inputs: Inputs<FlexTensor>,
        cotangents: OutputAndState<Option<FlexTensor>>,
    ) -> Inputs<FlexTensor> {
        let shapes = flex::shapes::<Inputs<()>>(&inputs);
        let mut found = flex::buffers::<Inputs<()>>(&inputs);
        let (held, state) = self.hold(inputs);
        let state = contiguous(state);
        let cotangents = flex::HeldCotangents::new(cotangents, 2);
        flex::validated(kernel::backward(
            &held.problem,
            &held.view(),
            kernel::DEFAULT_CHUNK_SIZE,
            slice(&state),
            &cotangents.view(),
            &mut kernel::Gradients {
                query: &mut found.query,
                key: &mut found.key,
                value: &mut found.value,
                state: &mut found.state,
            },
        ));
        flex::tensors::<Inputs<()>>(found, shapes)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: Inputs<CubeTensor>) -> OutputAndState<CubeTensor> {
        let (place, specs) = (Place::of(&inputs.state), cube::specs::<Inputs<()>>(&inputs));
        let (problem, inputs, state) = self.hold_on_cube(inputs);
        let form = match (problem.time, &self.sequences) {
            (1, Sequences::Equal) => device::step,
            _ => device::chunked,
        };
        let found = cube::launched(form(&place.client, &problem, &inputs, Some(&state)));
        place.outputs(found, &specs.value, &specs.state)
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: Inputs<CubeTensor>,
        cotangents: OutputAndState<Option<CubeTensor>>,
    ) -> Inputs<CubeTensor> {
        let (place, specs) = (Place::of(&inputs.state), cube::specs::<Inputs<()>>(&inputs));
        let (problem, inputs, state) = self.hold_on_cube(inputs);
        let found = cube::launched(device::backward(
            &place.client,
            &problem,
            &inputs,
            Some(&state),
            &cube::cotangents(cotangents, 2, specs.value.dtype),
        ));
        let found = Inputs {
            query: found.query,
            key: found.key,
            value: found.value,
            state: found.state,
        };
        place.tensors::<Inputs<()>>(found, specs)
    }
}

#[cfg(feature = "cube")]
impl TaylorAttention {
    /// The inputs as the kernels take them, all in the value's type, and the state.
    fn hold_on_cube(
        &self,
        inputs: Inputs<CubeTensor>,
    ) -> (kernel::Problem, device::DeviceInputs<'_>, DeviceBuffer) {
        let (key, value) = (cube::spec(&inputs.key).shape, cube::spec(&inputs.value));
        let problem = self.plan.problem(&self.sequences, &key, &value.shape);
        let held = device::DeviceInputs {
            query: cube::rows_as(inputs.query, 2, value.dtype),
            key: cube::rows_as(inputs.key, 2, value.dtype),
            value: cube::rows(inputs.value, 2),
            sequences: self.sequences.view(),
        };
        (problem, held, cube::values(inputs.state))
    }
}
