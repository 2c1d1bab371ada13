//! The recurrence as an operator: `kernel_dsl::recurrence` on every device.

use crate::backend::flex::{self, RowTensor, contiguous, owned, required, slice};
use crate::backend::host::host;
use crate::backend::{List, Operand, Operator, Spec, first, run};
use crate::error::Result;
use crate::gates::{Gates, LogDecay, ReadOut};
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use kernel_dsl::recurrence::{self, Cotangents, DecayKind, GradientBuffers, Inputs, Problem};

/// How the tokens of a call are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunks {
    /// As is fastest for the problem.
    Fastest,
    /// Token by token.
    None,
    /// In chunks of this many tokens.
    Of(usize),
}

/// What of a recurrence is not a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Recurrence {
    pub(crate) decay: DecayKind,
    pub(crate) scale: f32,
    pub(crate) chunks: Chunks,
    pub(crate) sequences: Sequences,
}

/// The read-out of a weighted sum whose decays are stored; `state` is left after the last token of every sequence. Shapes have
/// been validated.
pub(crate) fn recurrence_over(
    gates: Gates,
    sequences: &Sequences,
    state: &mut State,
    chunks: Chunks,
) -> Result<Tensor<4>> {
    let operator = Recurrence::of(&gates, sequences, chunks);
    let [output] = run(operator, operands(gates), &mut [("state", &mut state.memory)])?;
    Ok(Tensor::from_dispatch(output))
}

/// The tensors in the order in which [`Recurrence`] takes them; the state follows.
fn operands(gates: Gates) -> Vec<Option<Operand>> {
    let bonus = match gates.read_out {
        ReadOut::Inclusive | ReadOut::Mean(_) => None,
        ReadOut::Bonus(bonus) => Some(bonus),
    };
    let log_decay = match gates.log_decay {
        LogDecay::None => None,
        LogDecay::PerHead(a) => Operand::new("log_decay", a),
        LogDecay::PerKey(a) | LogDecay::PerStep(a) => Operand::new("log_decay", a),
        LogDecay::PerHeadToken(a) => Operand::new("log_decay", a),
        LogDecay::PerKeyToken(a) => Operand::new("log_decay", a),
    };
    vec![
        Operand::new("query", gates.query),
        Operand::new("key", gates.key),
        Operand::new("value", gates.value),
        log_decay,
        Operand::optional("step_size", gates.step_size),
        Operand::optional("bonus", bonus),
        Operand::optional("skip", gates.skip),
    ]
}

impl Recurrence {
    /// What of `gates` is not a tensor.
    pub(crate) fn of(gates: &Gates, sequences: &Sequences, chunks: Chunks) -> Self {
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
            chunks,
            sequences: sequences.clone(),
        }
    }

    /// The kernel's problem from the shapes of key `[batch, time, groups, key_dim]` and value.
    fn problem(&self, key: &[usize], value: &[usize], bonus: bool) -> Problem {
        let (batch, time) = match &self.sequences {
            Sequences::Packed(offsets) => (offsets.len().saturating_sub(1), key[1]),
            Sequences::Equal | Sequences::LeftPadded(_) => (key[0], key[1]),
        };
        Problem {
            batch,
            time,
            groups: key[2],
            key_dim: key[3],
            heads: value[2],
            value_dim: value[3],
            decay: self.decay,
            read_out: match bonus {
                true => recurrence::ReadOut::Bonus,
                false => recurrence::ReadOut::Inclusive,
            },
        }
    }
}

/// The inputs of a recurrence on the CPU, held so that views of them can be handed to a kernel.
pub(crate) struct Held<'a> {
    query: RowTensor,
    key: RowTensor,
    value: RowTensor,
    log_decay: Option<HeldDecay>,
    step_size: Option<RowTensor>,
    bonus: Option<FlexTensor>,
    skip: Option<FlexTensor>,
    pub(crate) problem: Problem,
    operator: &'a Recurrence,
}

enum HeldDecay {
    Constant(FlexTensor),
    Token(RowTensor),
}

impl<'a> Held<'a> {
    /// Everything but the state, from tensors in the order of [`operands`].
    fn new(operator: &'a Recurrence, inputs: [Option<FlexTensor>; 7]) -> Self {
        let [query, key, value, log_decay, step_size, bonus, skip] = inputs;
        let (query, key, value) = (required(query), required(key), required(value));
        let problem = operator.problem(&flex::shape(&key), &flex::shape(&value), bonus.is_some());
        let log_decay = log_decay.map(|decay| match operator.decay {
            DecayKind::PerHeadToken => HeldDecay::Token(RowTensor::new(decay, 1)),
            DecayKind::PerKeyToken => HeldDecay::Token(RowTensor::new(decay, 2)),
            DecayKind::None | DecayKind::PerHead | DecayKind::PerKey => {
                HeldDecay::Constant(contiguous(decay))
            }
        });
        Self {
            query: RowTensor::new(query, 2),
            key: RowTensor::new(key, 2),
            value: RowTensor::new(value, 2),
            log_decay,
            step_size: step_size.map(|step| RowTensor::new(step, 1)),
            bonus: bonus.map(contiguous),
            skip: skip.map(contiguous),
            problem,
            operator,
        }
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
        let inputs = [
            Some(host(gates.query)),
            Some(host(gates.key)),
            Some(host(gates.value)),
            log_decay,
            gates.step_size.map(host),
            bonus,
            gates.skip.map(host),
        ];
        Self::new(operator, inputs)
    }

    pub(crate) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            log_decay: match &self.log_decay {
                None => recurrence::LogDecay::None,
                Some(HeldDecay::Constant(decay)) => recurrence::LogDecay::Constant(slice(decay)),
                Some(HeldDecay::Token(decay)) => recurrence::LogDecay::Token(decay.view()),
            },
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
        match self.operator.chunks {
            Chunks::Fastest => recurrence::preferred_chunk_size(&self.problem),
            Chunks::None => None,
            Chunks::Of(size) => Some(size),
        }
    }
}

impl Operator for Recurrence {
    fn name(&self) -> &'static str {
        "the recurrence"
    }

    fn outputs(&self, inputs: &[Option<Spec>]) -> Vec<Spec> {
        let [value, state] = [&inputs[2], &inputs[7]].map(|spec| required(spec.clone()));
        vec![value, state]
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let [query, key, value, log_decay, step_size, bonus, skip, state] = first(inputs);
        let held = Held::new(self, [query, key, value, log_decay, step_size, bonus, skip]);
        let mut state = owned(required(state));
        let mut out = held.out_buffer();
        let memory = state.storage_mut::<f32>();
        flex::validated(match held.chunk_size() {
            None => recurrence::sequential(&held.problem, &held.inputs(), memory, &mut out),
            Some(size) => recurrence::chunked(&held.problem, &held.inputs(), size, memory, &mut out),
        });
        vec![flex::tensor(out, held.out_shape()), state]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let shapes: Vec<_> = inputs
            .iter()
            .map(|input| input.as_ref().map(flex::shape))
            .collect();
        let [query, key, value, log_decay, step_size, bonus, skip, state] = first(inputs);
        let held = Held::new(self, [query, key, value, log_decay, step_size, bonus, skip]);
        let state = contiguous(required(state));
        let [out, after] = first(cotangents);
        let out = RowTensor::new(required(out), 2);
        let after = after.map(contiguous);
        let cotangents = Cotangents {
            out: out.view(),
            state: after.as_ref().map(slice),
        };
        let inputs = held.inputs();
        let mut found = flex::validated(GradientBuffers::zeros(&held.problem, &inputs));
        let chunk_size = held.chunk_size().unwrap_or(recurrence::DEFAULT_CHUNK_SIZE);
        flex::validated(recurrence::backward(
            &held.problem,
            &inputs,
            chunk_size,
            slice(&state),
            &cotangents,
            &mut found.as_gradients(),
        ));
        let gradients = [
            Some(found.query),
            Some(found.key),
            Some(found.value),
            found.log_decay,
            found.step_size,
            found.bonus,
            found.skip,
            Some(found.state),
        ];
        gradients
            .into_iter()
            .zip(shapes)
            .map(|(values, shape)| Some(flex::tensor(values?, &shape?)))
            .collect()
    }

    #[cfg(feature = "cube")]
    fn admit_cube(
        &self,
        client: &kernel_dsl::cube::Client,
        inputs: &[Option<Spec>],
    ) -> std::result::Result<(), kernel_dsl::cube::Error> {
        self.admit(client, inputs)
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        self.forward_on_cube(inputs)
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        self.backward_on_cube(inputs, cotangents)
    }
}

/// On a CubeCL device.
#[cfg(feature = "cube")]
mod on_cube {
    use super::{Chunks, Recurrence};
    use crate::backend::cube::{self, Place};
    use crate::backend::flex::required;
    use crate::backend::{List, Spec, first};
    use burn::tensor::DType;
    use burn_cubecl::tensor::CubeTensor;
    use kernel_dsl::cube::{Client, Error, Limits};
    use kernel_dsl::recurrence::cube as kernel;
    use kernel_dsl::recurrence::{DecayKind, Problem};

    /// Fewer tokens than the smallest chunk has are taken one by one.
    const SHORTEST_CHUNKED: usize = 16;

    impl Recurrence {
        pub(super) fn admit(&self, client: &Client, inputs: &[Option<Spec>]) -> Result<(), Error> {
            cube::admit(client, inputs.iter().flatten())?;
            let [query, key, value] =
                [0, 1, 2].map(|place: usize| required(inputs.get(place).cloned().flatten()));
            let problem = self.problem(&key.shape, &value.shape, inputs[5].is_some());
            self.plan(client, &problem, query.dtype).map(drop)
        }

        /// The tiles of the chunked form; chunks have 16, 32 or 64 tokens, the most that do not exceed what was asked for.
        fn plan(&self, client: &Client, problem: &Problem, dtype: DType) -> Result<kernel::Plan, Error> {
            match self.chunks {
                Chunks::Fastest | Chunks::None => {
                    kernel::Plan::new(client.properties(), problem, cube::kernel_type(dtype))
                }
                Chunks::Of(size) => {
                    let tokens = [64, 32, 16]
                        .into_iter()
                        .find(|&tokens| tokens <= size)
                        .unwrap_or(16);
                    kernel::Plan::exact(&Limits::of(client), tokens)
                }
            }
        }

        /// The inputs as the kernels take them: query, key and value in the query's type, log decay and step size in one type,
        /// constants in f32.
        fn hold(&self, inputs: [Option<CubeTensor>; 7]) -> (Problem, DType, kernel::DeviceInputs<'_>) {
            let [query, key, value, log_decay, step_size, bonus, skip] = inputs;
            let (query, key, value) = (required(query), required(key), required(value));
            let problem = self.problem(
                &cube::spec(&key).shape,
                &cube::spec(&value).shape,
                bonus.is_some(),
            );
            let dtype = query.dtype;
            let gates = match (&log_decay, &step_size) {
                (Some(decay), Some(step)) if decay.dtype != step.dtype => DType::F32,
                (Some(gate), _) | (None, Some(gate)) => gate.dtype,
                (None, None) => DType::F32,
            };
            let log_decay = match (self.decay, log_decay) {
                (_, None) => kernel::DeviceLogDecay::None,
                (DecayKind::PerHeadToken, Some(decay)) => {
                    kernel::DeviceLogDecay::Token(cube::rows_as(decay, 1, gates))
                }
                (DecayKind::PerKeyToken, Some(decay)) => {
                    kernel::DeviceLogDecay::Token(cube::rows_as(decay, 2, gates))
                }
                (_, Some(decay)) => kernel::DeviceLogDecay::Constant(cube::values_as(decay, gates)),
            };
            let inputs = kernel::DeviceInputs {
                query: cube::rows(query, 2),
                key: cube::rows_as(key, 2, dtype),
                value: cube::rows_as(value, 2, dtype),
                log_decay,
                step_size: step_size.map(|step| cube::rows_as(step, 1, gates)),
                bonus: bonus.map(cube::values),
                skip: skip.map(cube::values),
                scale: self.scale,
                sequences: self.sequences.view(),
            };
            (problem, dtype, inputs)
        }

        pub(super) fn forward_on_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
            let specs: Vec<_> = inputs
                .iter()
                .map(|input| input.as_ref().map(cube::spec))
                .collect();
            let [query, key, value, log_decay, step_size, bonus, skip, state] = first(inputs);
            let state = required(state);
            let place = Place::of(&state);
            let (problem, dtype, inputs) = self.hold([query, key, value, log_decay, step_size, bonus, skip]);
            let state = cube::values(state);
            let one_by_one = match self.chunks {
                Chunks::None => true,
                Chunks::Fastest => self.sequences.longest(problem.time) < SHORTEST_CHUNKED,
                Chunks::Of(_) => false,
            };
            let found = cube::launched(match one_by_one {
                true => kernel::sequential(&place.client, &problem, &inputs, Some(&state)),
                false => self
                    .plan(&place.client, &problem, dtype)
                    .and_then(|plan| kernel::chunked(&place.client, &problem, &inputs, &plan, Some(&state))),
            });
            let [value, state] = [2, 7].map(|place: usize| required(specs[place].clone()));
            vec![place.tensor(found.out, &value), place.tensor(found.state, &state)]
        }

        pub(super) fn backward_on_cube(
            &self,
            inputs: List<CubeTensor>,
            cotangents: List<CubeTensor>,
        ) -> List<CubeTensor> {
            let specs: Vec<_> = inputs
                .iter()
                .map(|input| input.as_ref().map(cube::spec))
                .collect();
            let [query, key, value, log_decay, step_size, bonus, skip, state] = first(inputs);
            let state = required(state);
            let place = Place::of(&state);
            let (problem, dtype, inputs) = self.hold([query, key, value, log_decay, step_size, bonus, skip]);
            let [out, after] = first(cotangents);
            let cotangents = kernel::DeviceCotangents {
                out: cube::rows_as(required(out), 2, dtype),
                state: after.map(cube::values),
            };
            let plan = cube::launched(self.plan(&place.client, &problem, dtype));
            let found = cube::launched(kernel::backward(
                &place.client,
                &problem,
                &inputs,
                &plan,
                Some(&cube::values(state)),
                &cotangents,
            ));
            let gradients = [
                Some(found.query),
                Some(found.key),
                Some(found.value),
                found.log_decay,
                found.step_size,
                found.bonus,
                found.skip,
                Some(found.state),
            ];
            place.tensors(gradients, specs)
        }
    }
}
