//! The recurrence as an operator: `spillway_kernel_dsl::recurrence` on every device.

use crate::backend::flex::{self, RowTensor, contiguous, slice};
use crate::backend::host::host;
use crate::backend::{Input, Operator, OutputAndState, Spec, operands, run};
use crate::error::Result;
use crate::gates::{Gates, LogDecay, ReadOut};
use crate::recurrence::Chunking;
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::recurrence::{self as kernel, Gradients, Problem};

/// What of a recurrence is not a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Recurrence {
    pub(crate) decay: DecayKind,
    pub(crate) scale: f32,
    pub(crate) chunking: Chunking,
    pub(crate) sequences: Sequences,
}

/// The read-out of a weighted sum whose decays are stored; `state` is left after the last token of every sequence. Shapes have
/// been validated.
pub(crate) fn recurrence_over(
    gates: Gates,
    sequences: &Sequences,
    state: &mut State,
    chunking: Chunking,
) -> Result<Tensor<4>> {
    let operator = Recurrence::of(&gates, sequences, chunking);
    let found = run(operator, gates.operands(Input::State(&mut state.memory)))?;
    state.memory = Tensor::from_dispatch(found.state);
    Ok(Tensor::from_dispatch(found.out))
}

operands! {
    /// What a recurrence reads.
    pub(crate) Inputs { query, key, value, state; optional log_decay, step_size, bonus, skip }
}

impl Gates {
    /// The tensors and a state, as operands of a recurrence.
    fn operands(self, state: Input<'_>) -> Inputs<Input<'_>> {
        Inputs {
            query: self.query.into(),
            key: self.key.into(),
            value: self.value.into(),
            state,
            log_decay: match self.log_decay {
                LogDecay::None => None,
                LogDecay::PerHead(a) => Some(a.into()),
                LogDecay::PerKey(a) | LogDecay::PerStep(a) => Some(a.into()),
                LogDecay::PerHeadToken(a) => Some(a.into()),
                LogDecay::PerKeyToken(a) => Some(a.into()),
            },
            step_size: self.step_size.map(Input::from),
            bonus: match self.read_out {
                ReadOut::Inclusive | ReadOut::Mean(_) => None,
                ReadOut::Bonus(bonus) => Some(bonus.into()),
            },
            skip: self.skip.map(Input::from),
        }
    }
}

impl Recurrence {
    /// What of `gates` is not a tensor.
    pub(crate) fn of(gates: &Gates, sequences: &Sequences, chunking: Chunking) -> Self {
        let decay = match gates.log_decay {
            LogDecay::None => DecayKind::None,
            LogDecay::PerHead(_) => DecayKind::PerHead,
            LogDecay::PerKey(_) | LogDecay::PerStep(_) => DecayKind::PerKey,
            LogDecay::PerHeadToken(_) => DecayKind::PerHeadToken,
            LogDecay::PerKeyToken(_) => DecayKind::PerKeyToken,
        };
        Self {
            decay,
            scale: gates.scale,
            chunking,
            sequences: sequences.clone(),
        }
    }

    /// The kernel's problem from the shapes of key `[batch, time, groups, key_dim]` and value.
    fn problem(&self, key: &[usize], value: &[usize], bonus: bool) -> Problem {
        Problem {
            batch: self.sequences.count_in(key[0]),
            time: key[1],
            groups: key[2],
            key_dim: key[3],
            heads: value[2],
            value_dim: value[3],
            decay: self.decay,
            read_out: match bonus {
                true => kernel::ReadOut::Bonus,
                false => kernel::ReadOut::Inclusive,
            },
        }
    }
}

/// Dimensions at the end of a token that log decays of this kind have.
pub(crate) fn decay_rank(decay: DecayKind) -> usize {
    match decay {
        DecayKind::PerKeyToken => 2,
        DecayKind::None | DecayKind::PerHead | DecayKind::PerKey | DecayKind::PerHeadToken => 1,
    }
}

/// The inputs of a recurrence on the CPU, held so that views of them can be handed to a kernel.
pub(crate) struct Held<'a> {
    query: RowTensor,
    key: RowTensor,
    value: RowTensor,
    log_decay: spillway_kernel_dsl::LogDecay<FlexTensor, RowTensor>,
    step_size: Option<RowTensor>,
    bonus: Option<FlexTensor>,
    skip: Option<FlexTensor>,
    pub(crate) problem: Problem,
    operator: &'a Recurrence,
}

impl<'a> Held<'a> {
    /// Everything but the state, and the state.
    fn with_state(operator: &'a Recurrence, inputs: Inputs<FlexTensor>) -> (Self, FlexTensor) {
        let (key, value) = (flex::shape(&inputs.key), flex::shape(&inputs.value));
        let problem = operator.problem(&key, &value, inputs.bonus.is_some());
        let token = |decay| RowTensor::new(decay, decay_rank(operator.decay));
        let log_decay = operator.decay.log_decay(inputs.log_decay, contiguous, token);
        let held = Self {
            query: RowTensor::new(inputs.query, 2),
            key: RowTensor::new(inputs.key, 2),
            value: RowTensor::new(inputs.value, 2),
            log_decay,
            step_size: inputs.step_size.map(|step| RowTensor::new(step, 1)),
            bonus: inputs.bonus.map(contiguous),
            skip: inputs.skip.map(contiguous),
            problem,
            operator,
        };
        (held, inputs.state)
    }

    /// Gates that live on the CPU without autodiff.
    pub(crate) fn on_host(operator: &'a Recurrence, gates: Gates) -> Self {
        let log_decay = match gates.log_decay {
            LogDecay::None => None,
            LogDecay::PerHead(a) => Some(host(a)),
            LogDecay::PerKey(a) | LogDecay::PerStep(a) => Some(host(a)),
            LogDecay::PerHeadToken(a) => Some(host(a)),
            LogDecay::PerKeyToken(a) => Some(host(a)),
        };
        let bonus = match gates.read_out {
            ReadOut::Inclusive | ReadOut::Mean(_) => None,
            ReadOut::Bonus(bonus) => Some(host(bonus)),
        };
        let inputs = Inputs {
            query: host(gates.query),
            key: host(gates.key),
            value: host(gates.value),
            // Whoever holds gates alone has the state elsewhere.
            state: flex::tensor(Vec::new(), &[0]),
            log_decay,
            step_size: gates.step_size.map(host),
            bonus,
            skip: gates.skip.map(host),
        };
        Self::with_state(operator, inputs).0
    }

    pub(crate) fn inputs(&self) -> kernel::Inputs<'_> {
        kernel::Inputs {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            log_decay: self.log_decay.as_ref().map(slice, RowTensor::view),
            step_size: self.step_size.as_ref().map(RowTensor::view),
            bonus: self.bonus.as_ref().map(slice),
            skip: self.skip.as_ref().map(slice),
            scale: self.operator.scale,
            sequences: self.operator.sequences.view(),
        }
    }

    /// Shape of the read-out.
    pub(crate) fn out_shape(&self) -> &[usize] {
        &self.value.dims
    }

    pub(crate) fn out_buffer(&self) -> Vec<f32> {
        self.value.buffer()
    }

    fn chunk_size(&self) -> Option<usize> {
        match self.operator.chunking {
            Chunking::Fastest => kernel::preferred_chunk_size(&self.problem),
            Chunking::Sequential => None,
            Chunking::Chunked { chunk_size: size } | Chunking::Scan { chunk_size: size } => Some(size),
        }
    }
}

impl Operator for Recurrence {
    type Inputs = Inputs<()>;
    type Outputs = OutputAndState<()>;

    fn name(&self) -> &'static str {
        "the recurrence"
    }

    fn outputs(&self, inputs: Inputs<Spec>) -> OutputAndState<Spec> {
        OutputAndState {
            out: inputs.value,
            state: inputs.state,
        }
    }

    fn forward_flex(&self, inputs: Inputs<FlexTensor>) -> OutputAndState<FlexTensor> {
        let (held, state) = Held::with_state(self, inputs);
        flex::with_state(state, held.out_shape(), |state, out| match held.chunk_size() {
            None => kernel::sequential(&held.problem, &held.inputs(), state, out),
            Some(size) => kernel::chunked(&held.problem, &held.inputs(), size, state, out),
        })
    }

    fn backward_flex(
        &self,
        inputs: Inputs<FlexTensor>,
        cotangents: OutputAndState<Option<FlexTensor>>,
    ) -> Inputs<FlexTensor> {
        let shapes = flex::shapes::<Inputs<()>>(&inputs);
        let mut found = flex::buffers::<Inputs<()>>(&inputs);
        let (held, state) = Held::with_state(self, inputs);
        let state = contiguous(state);
        let cotangents = flex::HeldCotangents::new(cotangents, 2);
        flex::validated(kernel::backward(
            &held.problem,
            &held.inputs(),
            held.chunk_size().unwrap_or(kernel::DEFAULT_CHUNK_SIZE),
            slice(&state),
            &cotangents.view(),
            &mut Gradients {
                query: &mut found.query,
                key: &mut found.key,
                value: &mut found.value,
                log_decay: found.log_decay.as_deref_mut(),
                step_size: found.step_size.as_deref_mut(),
                bonus: found.bonus.as_deref_mut(),
                skip: found.skip.as_deref_mut(),
                state: &mut found.state,
            },
        ));
        flex::tensors::<Inputs<()>>(found, shapes)
    }

    #[cfg(feature = "cube")]
    fn admit_cube(
        &self,
        client: &spillway_kernel_dsl::cube::Client,
        inputs: Inputs<Spec>,
    ) -> std::result::Result<(), spillway_kernel_dsl::cube::Error> {
        self.admit(client, inputs)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: Inputs<CubeTensor>) -> OutputAndState<CubeTensor> {
        self.forward_on_cube(inputs)
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: Inputs<CubeTensor>,
        cotangents: OutputAndState<Option<CubeTensor>>,
    ) -> Inputs<CubeTensor> {
        self.backward_on_cube(inputs, cotangents)
    }
}

/// On a CubeCL device.
#[cfg(feature = "cube")]
mod on_cube {
    use super::{Chunking, Inputs, Recurrence, decay_rank};
    use crate::backend::cube::{self, Place};
    use crate::backend::{Named, OutputAndState, Spec};
    use burn::tensor::DType;
    use burn_cubecl::tensor::CubeTensor;
    use spillway_kernel_dsl::cube::{Client, DeviceBuffer, Error, Limits};
    use spillway_kernel_dsl::recurrence::Problem;
    use spillway_kernel_dsl::recurrence::cube as kernel;

    /// Fewer tokens than the smallest chunk has are taken one by one.
    const SHORTEST_CHUNKED: usize = 16;

    impl Recurrence {
        pub(super) fn admit(&self, client: &Client, inputs: Inputs<Spec>) -> Result<(), Error> {
            let problem = self.problem(&inputs.key.shape, &inputs.value.shape, inputs.bonus.is_some());
            let dtype = inputs.query.dtype;
            cube::admit(client, inputs.into_list().iter().flatten())?;
            self.plan(client, &problem, dtype).map(drop)
        }

        /// The tiles of the chunked form; chunks have 16, 32 or 64 tokens, the most that do not exceed what was asked for.
        fn plan(&self, client: &Client, problem: &Problem, dtype: DType) -> Result<kernel::Plan, Error> {
            match self.chunking {
                Chunking::Fastest | Chunking::Sequential => {
                    kernel::Plan::new(client.properties(), problem, cube::kernel_type(dtype))
                }
                Chunking::Chunked { chunk_size: size } | Chunking::Scan { chunk_size: size } => {
                    let tokens = [64, 32, 16]
                        .into_iter()
                        .find(|&tokens| tokens <= size)
                        .unwrap_or(16);
                    kernel::Plan::exact(&Limits::of(client), tokens)
                }
            }
        }

        /// The inputs as the kernels take them: query, key and value in the query's type, log decay and step size in one type,
        /// constants and state in f32.
        fn hold(&self, inputs: Inputs<CubeTensor>) -> (Problem, kernel::DeviceInputs<'_>, DeviceBuffer) {
            let problem = self.problem(
                &cube::spec(&inputs.key).shape,
                &cube::spec(&inputs.value).shape,
                inputs.bonus.is_some(),
            );
            let dtype = inputs.query.dtype;
            let gates = match (&inputs.log_decay, &inputs.step_size) {
                (Some(decay), Some(step)) if decay.dtype != step.dtype => DType::F32,
                (Some(gate), _) | (None, Some(gate)) => gate.dtype,
                (None, None) => DType::F32,
            };
            let constant = |decay| cube::values_as(decay, gates);
            let token = |decay| cube::rows_as(decay, decay_rank(self.decay), gates);
            let log_decay = self.decay.log_decay(inputs.log_decay, constant, token);
            let held = kernel::DeviceInputs {
                query: cube::rows(inputs.query, 2),
                key: cube::rows_as(inputs.key, 2, dtype),
                value: cube::rows_as(inputs.value, 2, dtype),
                log_decay,
                step_size: inputs.step_size.map(|step| cube::rows_as(step, 1, gates)),
                bonus: inputs.bonus.map(cube::values),
                skip: inputs.skip.map(cube::values),
                scale: self.scale,
                sequences: self.sequences.view(),
            };
            (problem, held, cube::values(inputs.state))
        }

        pub(super) fn forward_on_cube(&self, inputs: Inputs<CubeTensor>) -> OutputAndState<CubeTensor> {
            let (place, specs) = (Place::of(&inputs.state), cube::specs::<Inputs<()>>(&inputs));
            let (problem, inputs, state) = self.hold(inputs);
            let one_by_one = match self.chunking {
                Chunking::Sequential => true,
                Chunking::Fastest => self.sequences.longest(problem.time) < SHORTEST_CHUNKED,
                Chunking::Chunked { .. } | Chunking::Scan { .. } => false,
            };
            let found = cube::launched(match one_by_one {
                true => kernel::sequential(&place.client, &problem, &inputs, Some(&state)),
                false => self
                    .plan(&place.client, &problem, specs.query.dtype)
                    .and_then(|plan| kernel::chunked(&place.client, &problem, &inputs, &plan, Some(&state))),
            });
            place.outputs(found, &specs.value, &specs.state)
        }

        pub(super) fn backward_on_cube(
            &self,
            inputs: Inputs<CubeTensor>,
            cotangents: OutputAndState<Option<CubeTensor>>,
        ) -> Inputs<CubeTensor> {
            let (place, specs) = (Place::of(&inputs.state), cube::specs::<Inputs<()>>(&inputs));
            let (problem, inputs, state) = self.hold(inputs);
            let dtype = specs.query.dtype;
            let cotangents = cube::cotangents(cotangents, 2, dtype);
            let plan = cube::launched(self.plan(&place.client, &problem, dtype));
            let found = cube::launched(kernel::backward(
                &place.client,
                &problem,
                &inputs,
                &plan,
                Some(&state),
                &cotangents,
            ));
            let found = Inputs {
                query: found.query,
                key: found.key,
                value: found.value,
                state: found.state,
                log_decay: found.log_decay,
                step_size: found.step_size,
                bonus: found.bonus,
                skip: found.skip,
            };
            place.tensors::<Inputs<()>>(found, specs)
        }
    }
}
