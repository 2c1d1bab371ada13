//! The delta rule: DeltaNet, Gated DeltaNet, KDA and RWKV-7.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, required, slice};
use crate::backend::{Input, Operator, OutputAndState, Spec, operands, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
#[cfg(feature = "cube")]
use kernel_dsl::cube::DeviceBuffer;
#[cfg(feature = "cube")]
use kernel_dsl::delta_rule::cube as device;
use kernel_dsl::delta_rule::{self as kernel, DecayKind, TransitionKind};

/// What multiplies the state beside its decay, and what is written.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a handful of these exist at a time; a box would cost more"
)]
pub enum Transition {
    /// S ← a ∘ S, then S ← S + β k (v − Sᵀk)ᵀ: DeltaNet, Gated DeltaNet, KDA.
    Delta {
        /// β, `[batch, time, heads]`.
        beta: Tensor<3>,
    },
    /// S ← a ∘ S + b (pᵀ S) + k vᵀ, where p reads the state before it decays: RWKV-7.
    LowRank {
        /// p, `[batch, time, groups, key_dim]`.
        p: Tensor<4>,
        /// b, `[batch, time, groups, key_dim]`.
        b: Tensor<4>,
    },
}

/// Logarithm of the decay of a delta rule.
#[derive(Clone, Debug)]
pub enum DeltaDecay {
    /// Nothing decays (DeltaNet).
    None,
    /// One scalar per head and token, `[batch, time, heads]` (Gated DeltaNet).
    PerHeadToken(Tensor<3>),
    /// One value per key, head and token, `[batch, time, heads, key_dim]` (KDA, RWKV-7).
    PerKeyToken(Tensor<4>),
}

/// What a delta rule reads.
#[derive(Clone, Debug)]
pub struct DeltaInputs {
    /// q, `[batch, time, groups, key_dim]`.
    pub query: Tensor<4>,
    /// k, `[batch, time, groups, key_dim]`; normalising it is the caller's.
    pub key: Tensor<4>,
    /// v, `[batch, time, heads, value_dim]`.
    pub value: Tensor<4>,
    /// β, or p and b.
    pub transition: Transition,
    /// ln a.
    pub log_decay: DeltaDecay,
    /// Factor on the query.
    pub scale: f32,
}

/// y_t = scale · S_tᵀ q_t, where every token replaces what the state holds under its key; see [`Transition`] and
/// [`kernel_dsl::delta_rule`]. `state` is left after the last token of every sequence.
///
/// Sources: Yang et al., *Parallelizing linear transformers with the delta rule* (2406.06484) and *Gated delta networks*
/// (2412.06464); Peng et al., *RWKV-7* (2503.14456).
///
/// # Shapes
/// Result `[batch, time, heads, value_dim]`; the state's memory `[sequences, heads, key_dim, value_dim]`.
///
/// # Errors
/// [`Error::Shape`], [`Error::Groups`], [`Error::Sequences`], [`Error::Device`], [`Error::DType`] and [`Error::Kernel`].
pub fn delta_rule(inputs: DeltaInputs, sequences: &Sequences, state: &mut State) -> Result<Tensor<4>> {
    validate(&inputs, sequences, &state.memory)?;
    let time = inputs.query.dims()[1];
    let (transition, [beta, p, b]) = match inputs.transition {
        Transition::Delta { beta } => (TransitionKind::Delta, [Some(beta.into()), None, None]),
        Transition::LowRank { p, b } => (TransitionKind::LowRank, [None, Some(p.into()), Some(b.into())]),
    };
    let (decay, log_decay) = match inputs.log_decay {
        DeltaDecay::None => (DecayKind::None, None),
        DeltaDecay::PerHeadToken(a) => (DecayKind::PerHeadToken, Some(a.into())),
        DeltaDecay::PerKeyToken(a) => (DecayKind::PerKeyToken, Some(a.into())),
    };
    let operator = DeltaRule {
        transition,
        decay,
        scale: inputs.scale,
        sequences: sequences.clone(),
    };
    let operands = Inputs {
        query: inputs.query.into(),
        key: inputs.key.into(),
        value: inputs.value.into(),
        state: Input::State(&mut state.memory),
        log_decay,
        beta,
        p,
        b,
    };
    let found = run(operator, operands)?;
    state.memory = Tensor::from_dispatch(found.state);
    state.position += sequences.longest(time) as u64;
    Ok(Tensor::from_dispatch(found.out))
}

operands! {
    /// What a delta rule reads: β, or p and b.
    Inputs { query, key, value, state; optional log_decay, beta, p, b }
}

fn validate(inputs: &DeltaInputs, sequences: &Sequences, state: &Tensor<4>) -> Result<()> {
    let [batch, time, groups, key_dim] = inputs.query.dims();
    let [_, _, heads, value_dim] = inputs.value.dims();
    let count = sequences.count(batch, time)?;
    if groups == 0 || !heads.is_multiple_of(groups) {
        return Err(Error::Groups { heads, groups });
    }
    let (keys, gates) = ([batch, time, groups, key_dim], [batch, time, heads]);
    expect_shape("key", &keys, &inputs.key.dims())?;
    expect_shape("value", &[batch, time, heads, value_dim], &inputs.value.dims())?;
    match &inputs.transition {
        Transition::Delta { beta } => expect_shape("beta", &gates, &beta.dims())?,
        Transition::LowRank { p, b } => {
            expect_shape("p", &keys, &p.dims())?;
            expect_shape("b", &keys, &b.dims())?;
        }
    }
    match &inputs.log_decay {
        DeltaDecay::None => {}
        DeltaDecay::PerHeadToken(a) => expect_shape("log_decay", &gates, &a.dims())?,
        DeltaDecay::PerKeyToken(a) => expect_shape("log_decay", &[batch, time, heads, key_dim], &a.dims())?,
    }
    expect_shape("state", &[count, heads, key_dim, value_dim], &state.dims())
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

    /// Dimensions at the end of a token that a log decay has.
    fn decay_rank(&self) -> usize {
        match self.decay {
            DecayKind::PerKeyToken => 2,
            DecayKind::None | DecayKind::PerHeadToken => 1,
        }
    }

    fn hold(&self, inputs: Inputs<FlexTensor>) -> (Held<'_>, FlexTensor) {
        let (key, value) = (RowTensor::new(inputs.key, 2), RowTensor::new(inputs.value, 2));
        let held = Held {
            problem: self.problem(&key.dims, &value.dims),
            query: RowTensor::new(inputs.query, 2),
            key,
            value,
            log_decay: inputs
                .log_decay
                .map(|decay| RowTensor::new(decay, self.decay_rank())),
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
    log_decay: Option<RowTensor>,
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
            log_decay: self.log_decay.as_ref().map(RowTensor::view),
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
            log_decay: inputs.log_decay.map(|decay| cube::rows(decay, self.decay_rank())),
            scale: self.scale,
            sequences: self.sequences.view(),
        };
        (problem, held, cube::values(inputs.state))
    }
}
