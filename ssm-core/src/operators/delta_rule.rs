//! The delta rule: DeltaNet, Gated DeltaNet, KDA and RWKV-7.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, required, slice};
use crate::backend::{Input, Operator, OutputAndState, Spec, operands, run};
use crate::error::Result;
use crate::gates::{Dims, Erase, Gates, LogDecay};
use crate::operators::recurrence::decay_rank;
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::{Device, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use spillway_kernel_dsl::DecayKind;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cube::DeviceBuffer;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::delta_rule::cube as device;
use spillway_kernel_dsl::delta_rule::{self as kernel, TransitionKind};

/// The read-out of valid gates that erase; `state` is left after the last token of every sequence, its position untouched. See
/// [`Erase`] and [`spillway_kernel_dsl::delta_rule`].
///
/// Sources: Yang et al., *Parallelizing linear transformers with the delta rule* (2406.06484) and *Gated delta networks*
/// (2412.06464); Peng et al., *RWKV-7* (2503.14456).
///
/// # Shapes
/// Result `[batch, time, heads, value_dim]`; the state's memory `[sequences, heads, key_dim, value_dim]`.
///
/// # Errors
/// [`Error::Sequences`](crate::Error::Sequences), [`Error::Device`](crate::Error::Device),
/// [`Error::DType`](crate::Error::DType) and [`Error::Kernel`](crate::Error::Kernel).
pub(crate) fn delta_rule_over(gates: Gates, sequences: &Sequences, state: &mut State) -> Result<Tensor<4>> {
    let gates = gates.with_stored_decay();
    let dims = gates.dims();
    let written = match &gates.step_size {
        Some(step) => gates.value.clone() * step.clone().unsqueeze_dim::<4>(3),
        None => gates.value.clone(),
    };
    let (transition, [beta, p, b]) = match gates.erase {
        Erase::Delta(beta) => (TransitionKind::Delta, [Some(beta.into()), None, None]),
        Erase::LowRank { p, b } => (TransitionKind::LowRank, [None, Some(p.into()), Some(b.into())]),
        Erase::None => unreachable!("gates that erase nothing are a weighted sum's"),
    };
    let (decay, log_decay) = decay_per_token(gates.log_decay, &dims, &gates.value.device());
    let operator = DeltaRule {
        transition,
        decay,
        scale: gates.scale,
        sequences: sequences.clone(),
    };
    let operands = Inputs {
        query: gates.query.into(),
        key: gates.key.into(),
        value: written.into(),
        state: Input::State(&mut state.memory),
        log_decay,
        beta,
        p,
        b,
    };
    let found = run(operator, operands)?;
    state.memory = Tensor::from_dispatch(found.state);
    let output = Tensor::from_dispatch(found.out);
    Ok(match gates.skip {
        None => output,
        Some(skip) => output + gates.value * per_value(skip, &dims),
    })
}

/// The kernel takes decays per token; constants are repeated.
fn decay_per_token<'a>(decay: LogDecay, dims: &Dims, device: &Device) -> (DecayKind, Option<Input<'a>>) {
    let (batch, time, heads, key_dim) = (dims.batch, dims.time, dims.heads, dims.key_dim);
    let per_head = |a: Tensor<3>| (DecayKind::PerHeadToken, Some(a.into()));
    let per_key = |a: Tensor<4>| (DecayKind::PerKeyToken, Some(a.into()));
    match decay {
        LogDecay::None => (DecayKind::None, None),
        LogDecay::PerHeadToken(a) => per_head(a),
        LogDecay::PerKeyToken(a) => per_key(a),
        LogDecay::PerHead(a) => per_head(Tensor::zeros([batch, time, heads], device) + a.unsqueeze::<3>()),
        LogDecay::PerKey(a) | LogDecay::PerStep(a) => {
            per_key(Tensor::zeros([batch, time, heads, key_dim], device) + a.unsqueeze::<4>())
        }
    }
}

/// A skip `[heads]` or `[heads · value_dim]` as `[1, 1, heads, value_dim or 1]`.
fn per_value(skip: Tensor<1>, dims: &Dims) -> Tensor<4> {
    let columns = skip.dims()[0] / dims.heads.max(1);
    skip.reshape([1, 1, dims.heads, columns])
}

operands! {
    /// What a delta rule reads: β, or p and b.
    Inputs { query, key, value, state; optional log_decay, beta, p, b }
}

/// What of a delta rule is not a tensor.
#[derive(Debug)]
struct DeltaRule {
    transition: TransitionKind,
    decay: DecayKind,
    scale: f32,
    sequences: Sequences,
}

impl DeltaRule {
    fn problem(&self, key: &[usize], value: &[usize]) -> kernel::Problem {
        kernel::Problem {
            batch: self.sequences.count_in(key[0]),
            time: key[1],
            heads: value[2],
            groups: key[2],
            key_dim: key[3],
            value_dim: value[3],
            transition: self.transition,
            decay: self.decay,
        }
    }

    fn hold(&self, inputs: Inputs<FlexTensor>) -> (Held<'_>, FlexTensor) {
        let (key, value) = (RowTensor::new(inputs.key, 2), RowTensor::new(inputs.value, 2));
        let held = Held {
            problem: self.problem(&key.dims, &value.dims),
            query: RowTensor::new(inputs.query, 2),
            key,
            value,
            log_decay: self.decay.log_decay(inputs.log_decay, contiguous, |decay| {
                RowTensor::new(decay, decay_rank(self.decay))
            }),
            transition: match self.transition {
                TransitionKind::Delta => HeldTransition::Delta {
                    beta: RowTensor::new(required(inputs.beta), 1),
                },
                TransitionKind::LowRank => HeldTransition::LowRank {
                    p: RowTensor::new(required(inputs.p), 2),
                    b: RowTensor::new(required(inputs.b), 2),
                },
            },
            operator: self,
        };
        (held, inputs.state)
    }
}

/// The inputs on the CPU.
struct Held<'a> {
    query: RowTensor,
    key: RowTensor,
    value: RowTensor,
    log_decay: spillway_kernel_dsl::LogDecay<FlexTensor, RowTensor>,
    transition: HeldTransition,
    problem: kernel::Problem,
    operator: &'a DeltaRule,
}

enum HeldTransition {
    Delta { beta: RowTensor },
    LowRank { p: RowTensor, b: RowTensor },
}

impl Held<'_> {
    fn view(&self) -> kernel::Inputs<'_> {
        kernel::Inputs {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            transition: match &self.transition {
                HeldTransition::Delta { beta } => kernel::Transition::Delta { beta: beta.view() },
                HeldTransition::LowRank { p, b } => kernel::Transition::LowRank {
                    p: p.view(),
                    b: b.view(),
                },
            },
            log_decay: self.log_decay.as_ref().map(slice, RowTensor::view),
            scale: self.operator.scale,
            sequences: self.operator.sequences.view(),
        }
    }
}

impl Operator for DeltaRule {
    type Inputs = Inputs<()>;
    type Outputs = OutputAndState<()>;

    fn name(&self) -> &'static str {
        "delta_rule"
    }

    fn outputs(&self, inputs: Inputs<Spec>) -> OutputAndState<Spec> {
        OutputAndState {
            out: inputs.value,
            state: inputs.state,
        }
    }

    fn forward_flex(&self, inputs: Inputs<FlexTensor>) -> OutputAndState<FlexTensor> {
        let (held, state) = self.hold(inputs);
        flex::with_state(
            state,
            &held.value.dims,
            |state, out| match kernel::preferred_chunk_size(&held.problem) {
                None => kernel::sequential(&held.problem, &held.view(), state, out),
                Some(size) => kernel::chunked(&held.problem, &held.view(), size, state, out),
            },
        )
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
        let transition = match self.transition {
            TransitionKind::Delta => kernel::TransitionGradients::Delta {
                beta: required(found.beta.as_deref_mut()),
            },
            TransitionKind::LowRank => kernel::TransitionGradients::LowRank {
                p: required(found.p.as_deref_mut()),
                b: required(found.b.as_deref_mut()),
            },
        };
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
                transition,
                log_decay: found.log_decay.as_deref_mut(),
                state: &mut found.state,
            },
        ));
        flex::tensors::<Inputs<()>>(found, shapes)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: Inputs<CubeTensor>) -> OutputAndState<CubeTensor> {
        let (place, specs) = (Place::of(&inputs.state), cube::specs::<Inputs<()>>(&inputs));
        let (problem, inputs, state) = self.hold_on_cube(inputs);
        let found = cube::launched(device::forward(&place.client, &problem, &inputs, Some(&state)));
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
        let (beta, p, b) = match found.transition {
            device::DeviceTransitionGradients::Delta { beta } => (Some(beta), None, None),
            device::DeviceTransitionGradients::LowRank { p, b } => (None, Some(p), Some(b)),
        };
        let found = Inputs {
            query: found.query,
            key: found.key,
            value: found.value,
            state: found.state,
            log_decay: found.log_decay,
            beta,
            p,
            b,
        };
        place.tensors::<Inputs<()>>(found, specs)
    }
}

#[cfg(feature = "cube")]
impl DeltaRule {
    /// The inputs as the kernels take them, and the state.
    fn hold_on_cube(
        &self,
        inputs: Inputs<CubeTensor>,
    ) -> (kernel::Problem, device::DeviceInputs<'_>, DeviceBuffer) {
        let (spec, dtype) = (cube::spec(&inputs.value), inputs.value.dtype);
        let problem = self.problem(&cube::spec(&inputs.key).shape, &spec.shape);
        let transition = match self.transition {
            TransitionKind::Delta => {
                let beta = required(inputs.beta);
                // β and the log decays have one type.
                let gates = inputs.log_decay.as_ref().map_or(beta.dtype, |decay| decay.dtype);
                device::DeviceTransition::Delta {
                    beta: cube::rows_as(beta, 1, gates),
                }
            }
            TransitionKind::LowRank => device::DeviceTransition::LowRank {
                p: cube::rows_as(required(inputs.p), 2, dtype),
                b: cube::rows_as(required(inputs.b), 2, dtype),
            },
        };
        let held = device::DeviceInputs {
            query: cube::rows_as(inputs.query, 2, dtype),
            key: cube::rows_as(inputs.key, 2, dtype),
            value: cube::rows(inputs.value, 2),
            transition,
            log_decay: self.decay.log_decay(inputs.log_decay, cube::values, |decay| {
                cube::rows(decay, decay_rank(self.decay))
            }),
            scale: self.scale,
            sequences: self.sequences.view(),
        };
        (problem, held, cube::values(inputs.state))
    }
}
