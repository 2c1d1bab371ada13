//! The delta rule: DeltaNet, Gated DeltaNet, KDA and RWKV-7.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, owned, required, slice};
use crate::backend::{List, Operand, Operator, Spec, first, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
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
    let (transition, first, second) = match inputs.transition {
        Transition::Delta { beta } => (TransitionKind::Delta, Operand::new("beta", beta), None),
        Transition::LowRank { p, b } => (
            TransitionKind::LowRank,
            Operand::new("p", p),
            Operand::new("b", b),
        ),
    };
    let (decay, log_decay) = match inputs.log_decay {
        DeltaDecay::None => (DecayKind::None, None),
        DeltaDecay::PerHeadToken(a) => (DecayKind::PerHeadToken, Operand::new("log_decay", a)),
        DeltaDecay::PerKeyToken(a) => (DecayKind::PerKeyToken, Operand::new("log_decay", a)),
    };
    let operator = DeltaRule {
        transition,
        decay,
        scale: inputs.scale,
        sequences: sequences.clone(),
    };
    let operands = vec![
        Operand::new("query", inputs.query),
        Operand::new("key", inputs.key),
        Operand::new("value", inputs.value),
        log_decay,
        first,
        second,
    ];
    let [output] = run(operator, operands, &mut [("state", &mut state.memory)])?;
    state.position += sequences.longest(time) as u64;
    Ok(Tensor::from_dispatch(output))
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
            batch: match &self.sequences {
                Sequences::Packed(offsets) => offsets.len().saturating_sub(1),
                Sequences::Equal | Sequences::LeftPadded(_) => key[0],
            },
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

    fn hold(&self, inputs: [Option<FlexTensor>; 6]) -> Held<'_> {
        let [query, key, value, log_decay, first, second] = inputs;
        let (key, value) = (
            RowTensor::new(required(key), 2),
            RowTensor::new(required(value), 2),
        );
        let rank = match self.transition {
            TransitionKind::Delta => 1,
            TransitionKind::LowRank => 2,
        };
        Held {
            problem: self.problem(&key.dims, &value.dims),
            query: RowTensor::new(required(query), 2),
            key,
            value,
            log_decay: log_decay.map(|decay| RowTensor::new(decay, self.decay_rank())),
            first: RowTensor::new(required(first), rank),
            second: second.map(|second| RowTensor::new(second, rank)),
            operator: self,
        }
    }
}

/// The inputs on the CPU.
struct Held<'a> {
    query: RowTensor,
    key: RowTensor,
    value: RowTensor,
    log_decay: Option<RowTensor>,
    /// β, or p.
    first: RowTensor,
    /// Nothing, or b.
    second: Option<RowTensor>,
    problem: kernel::Problem,
    operator: &'a DeltaRule,
}

impl Held<'_> {
    fn view(&self) -> kernel::Inputs<'_> {
        kernel::Inputs {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            transition: match &self.second {
                None => kernel::Transition::Delta {
                    beta: self.first.view(),
                },
                Some(b) => kernel::Transition::LowRank {
                    p: self.first.view(),
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
    fn name(&self) -> &'static str {
        "delta_rule"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        [&inputs[2], &inputs[6]].map(|spec| required(spec.clone())).into()
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let [query, key, value, log_decay, p, b, state] = first(inputs);
        let held = self.hold([query, key, value, log_decay, p, b]);
        let mut state = owned(required(state));
        let mut out = held.value.buffer();
        let memory = state.storage_mut::<f32>();
        flex::validated(match kernel::preferred_chunk_size(&held.problem) {
            None => kernel::sequential(&held.problem, &held.view(), memory, &mut out),
            Some(size) => kernel::chunked(&held.problem, &held.view(), size, memory, &mut out),
        });
        vec![flex::tensor(out, &held.value.dims), state]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let [query, key, value, log_decay, p, b, state] = first(inputs);
        let held = self.hold([query, key, value, log_decay, p, b]);
        let state = contiguous(required(state));
        let [out, after] = first(cotangents);
        let (out, after) = (RowTensor::new(required(out), 2), after.map(contiguous));
        let (mut of_query, mut of_key, mut of_value) =
            (held.query.buffer(), held.key.buffer(), held.value.buffer());
        let (mut of_first, mut of_second) =
            (held.first.buffer(), held.second.as_ref().map(RowTensor::buffer));
        let mut of_decay = held.log_decay.as_ref().map(RowTensor::buffer);
        let mut of_state = flex::buffer(&state);
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
                transition: match &mut of_second {
                    None => kernel::TransitionGradients::Delta { beta: &mut of_first },
                    Some(b) => kernel::TransitionGradients::LowRank { p: &mut of_first, b },
                },
                log_decay: of_decay.as_deref_mut(),
                state: &mut of_state,
            },
        ));
        vec![
            Some(flex::tensor(of_query, &held.query.dims)),
            Some(flex::tensor(of_key, &held.key.dims)),
            Some(flex::tensor(of_value, &held.value.dims)),
            of_decay
                .zip(held.log_decay.as_ref())
                .map(|(values, decay)| flex::tensor(values, &decay.dims)),
            Some(flex::tensor(of_first, &held.first.dims)),
            of_second.map(|values| flex::tensor(values, &held.first.dims)),
            Some(flex::like(of_state, &state)),
        ]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let [query, key, value, log_decay, p, b, state] = first(inputs);
        let state = required(state);
        let (place, state_spec) = (Place::of(&state), cube::spec(&state));
        let (spec, problem, inputs) = self.hold_on_cube([query, key, value, log_decay, p, b]);
        let state = cube::values(state);
        let found = cube::launched(device::forward(&place.client, &problem, &inputs, Some(&state)));
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
        let [query, key, value, log_decay, p, b, state] = first(inputs);
        let state = required(state);
        let place = Place::of(&state);
        let (spec, problem, inputs) = self.hold_on_cube([query, key, value, log_decay, p, b]);
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
        let (p, b) = match found.transition {
            device::DeviceTransitionGradients::Delta { beta } => (beta, None),
            device::DeviceTransitionGradients::LowRank { p, b } => (p, Some(b)),
        };
        let gradients = [
            Some(found.query),
            Some(found.key),
            Some(found.value),
            found.log_decay,
            Some(p),
            b,
            Some(found.state),
        ];
        place.tensors(gradients, specs)
    }
}

#[cfg(feature = "cube")]
impl DeltaRule {
    /// The inputs as the kernels take them, and what the output is like.
    fn hold_on_cube(
        &self,
        inputs: [Option<CubeTensor>; 6],
    ) -> (Spec, kernel::Problem, device::DeviceInputs<'_>) {
        let [query, key, value, log_decay, first, second] = inputs;
        let (key, value, first) = (required(key), required(value), required(first));
        let (spec, dtype) = (cube::spec(&value), value.dtype);
        let problem = self.problem(&cube::spec(&key).shape, &spec.shape);
        // β and the log decays have one type.
        let gates = match &log_decay {
            Some(decay) => decay.dtype,
            None => first.dtype,
        };
        let transition = match second {
            None => device::DeviceTransition::Delta {
                beta: cube::rows_as(first, 1, gates),
            },
            Some(b) => device::DeviceTransition::LowRank {
                p: cube::rows_as(first, 2, dtype),
                b: cube::rows_as(b, 2, dtype),
            },
        };
        let inputs = device::DeviceInputs {
            query: cube::rows_as(required(query), 2, dtype),
            key: cube::rows_as(key, 2, dtype),
            value: cube::rows(value, 2),
            transition,
            log_decay: log_decay.map(|decay| cube::rows(decay, self.decay_rank())),
            scale: self.scale,
            sequences: self.sequences.view(),
        };
        (spec, problem, inputs)
    }
}
