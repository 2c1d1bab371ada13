//! Attention by a polynomial of q·k whose features are never stored: Based and ReBased.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, owned, required, slice};
use crate::backend::{List, Operand, Operator, Spec, first, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::operators::norm::expect_epsilon;
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use kernel_dsl::taylor_attention as kernel;
pub use kernel_dsl::taylor_attention::Expansion;
#[cfg(feature = "cube")]
use kernel_dsl::taylor_attention::cube as device;

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
            batch: match sequences {
                Sequences::Packed(offsets) => offsets.len().saturating_sub(1),
                Sequences::Equal | Sequences::LeftPadded(_) => key[0],
            },
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
    let operands = vec![
        Operand::new("query", query),
        Operand::new("key", key),
        Operand::new("value", value),
    ];
    let operator = TaylorAttention {
        plan,
        sequences: sequences.clone(),
    };
    let [output] = run(operator, operands, &mut [("state", &mut state.memory)])?;
    state.position += sequences.longest(time) as u64;
    Ok(Tensor::from_dispatch(output))
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
    fn hold(&self, inputs: [Option<FlexTensor>; 3]) -> Held<'_> {
        let [query, key, value] = inputs.map(|input| RowTensor::new(required(input), 2));
        Held {
            problem: self.plan.problem(&self.sequences, &key.dims, &value.dims),
            query,
            key,
            value,
            sequences: &self.sequences,
        }
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
    fn name(&self) -> &'static str {
        "taylor_attention"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        [&inputs[2], &inputs[3]].map(|spec| required(spec.clone())).into()
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let [query, key, value, state] = first(inputs);
        let held = self.hold([query, key, value]);
        let mut state = owned(required(state));
        let mut out = held.value.buffer();
        let memory = state.storage_mut::<f32>();
        flex::validated(match held.problem.time {
            0 | 1 => kernel::sequential(&held.problem, &held.view(), memory, &mut out),
            _ => kernel::chunked(
                &held.problem,
                &held.view(),
                kernel::DEFAULT_CHUNK_SIZE,
                memory,
                &mut out,
            ),
        });
        vec![flex::tensor(out, &held.value.dims), state]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let [query, key, value, state] = first(inputs);
        let held = self.hold([query, key, value]);
        let state = contiguous(required(state));
        let [out, after] = first(cotangents);
        let (out, after) = (RowTensor::new(required(out), 2), after.map(contiguous));
        let (mut of_query, mut of_key) = (held.query.buffer(), held.key.buffer());
        let (mut of_value, mut of_state) = (held.value.buffer(), flex::buffer(&state));
        flex::validated(kernel::backward(
            &held.problem,
            &held.view(),
            kernel::DEFAULT_CHUNK_SIZE,
            slice(&state),
            &kernel::Cotangents {
                out: out.view(),
                state: after.as_ref().map(slice),
            },
            &mut kernel::Gradients {
                query: &mut of_query,
                key: &mut of_key,
                value: &mut of_value,
                state: &mut of_state,
            },
        ));
        vec![
            Some(flex::tensor(of_query, &held.query.dims)),
            Some(flex::tensor(of_key, &held.key.dims)),
            Some(flex::tensor(of_value, &held.value.dims)),
            Some(flex::like(of_state, &state)),
        ]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let [query, key, value, state] = first(inputs);
        let state = required(state);
        let (place, state_spec) = (Place::of(&state), cube::spec(&state));
        let (spec, problem, inputs) = self.hold_on_cube([query, key, value]);
        let state = cube::values(state);
        let form = match (problem.time, &self.sequences) {
            (1, Sequences::Equal) => device::step,
            _ => device::chunked,
        };
        let found = cube::launched(form(&place.client, &problem, &inputs, Some(&state)));
        vec![
            place.tensor(found.out, &spec),
            place.tensor(found.state, &state_spec),
        ]
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        let specs: Vec<_> = inputs
            .iter()
            .map(|input| input.as_ref().map(cube::spec))
            .collect();
        let [query, key, value, state] = first(inputs);
        let state = required(state);
        let place = Place::of(&state);
        let (spec, problem, inputs) = self.hold_on_cube([query, key, value]);
        let [out, after] = first(cotangents);
        let found = cube::launched(device::backward(
            &place.client,
            &problem,
            &inputs,
            Some(&cube::values(state)),
            &device::DeviceCotangents {
                out: cube::rows_as(required(out), 2, spec.dtype),
                state: after.map(cube::values),
            },
        ));
        let gradients = [found.query, found.key, found.value, found.state].map(Some);
        place.tensors(gradients, specs)
    }
}

#[cfg(feature = "cube")]
impl TaylorAttention {
    /// The inputs as the kernels take them, all in the value's type, and what the output is like.
    fn hold_on_cube(
        &self,
        inputs: [Option<CubeTensor>; 3],
    ) -> (Spec, kernel::Problem, device::DeviceInputs<'_>) {
        let [query, key, value] = inputs.map(required);
        let (spec, dtype) = (cube::spec(&value), value.dtype);
        let problem = self
            .plan
            .problem(&self.sequences, &cube::spec(&key).shape, &spec.shape);
        let inputs = device::DeviceInputs {
            query: cube::rows_as(query, 2, dtype),
            key: cube::rows_as(key, 2, dtype),
            value: cube::rows(value, 2),
            sequences: self.sequences.view(),
        };
        (spec, problem, inputs)
    }
}
