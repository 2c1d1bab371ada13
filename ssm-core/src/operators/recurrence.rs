//! The recurrence as an operator: `spillway_kernel_dsl::recurrence` on every device.

#[cfg(feature = "cube")]
use crate::backend::cube;
use crate::backend::flex::{self, RowTensor, contiguous, shape, slice};
use crate::backend::host::host;
use crate::backend::{Input, over_sequences, run};
#[cfg(feature = "cube")]
use crate::backend::{Named, Spec};
use crate::chunking::Chunking;
use crate::error::Result;
use crate::gates::{Gates, LogDecay, ReadOut};
use crate::sequences::Sequences;
use crate::state::State;
#[cfg(feature = "cube")]
use burn::tensor::DType;
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use spillway_kernel_dsl::DecayKind;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cube::{Client, Error, Limits};
#[cfg(feature = "cube")]
use spillway_kernel_dsl::recurrence::cube as device;
use spillway_kernel_dsl::recurrence::{self as kernel, OperandsAndState, Problem};

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
    let found = run(operator, operands(gates, Input::State(&mut state.memory)))?;
    state.memory = Tensor::from_dispatch(found.state);
    Ok(Tensor::from_dispatch(found.out))
}

/// The tensors of gates and a state, as operands of a recurrence.
fn operands<T>(gates: Gates, state: T) -> OperandsAndState<T, T>
where
    T: From<Tensor<1>> + From<Tensor<2>> + From<Tensor<3>> + From<Tensor<4>>,
{
    OperandsAndState {
        query: gates.query.into(),
        key: gates.key.into(),
        value: gates.value.into(),
        log_decay: match gates.log_decay {
            LogDecay::None => spillway_kernel_dsl::LogDecay::None,
            LogDecay::PerHead(a) => spillway_kernel_dsl::LogDecay::Constant(a.into()),
            LogDecay::PerKey(a) | LogDecay::PerStep(a) => spillway_kernel_dsl::LogDecay::Constant(a.into()),
            LogDecay::PerHeadToken(a) => spillway_kernel_dsl::LogDecay::Token(a.into()),
            LogDecay::PerKeyToken(a) => spillway_kernel_dsl::LogDecay::Token(a.into()),
        },
        step_size: gates.step_size.map(|step| step.into()),
        bonus: match gates.read_out {
            ReadOut::Inclusive | ReadOut::Mean(_) => None,
            ReadOut::Bonus(bonus) => Some(bonus.into()),
        },
        skip: gates.skip.map(|skip| skip.into()),
        state,
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

    fn problem(&self, inputs: &OperandsAndState<Vec<usize>, Vec<usize>>) -> Problem {
        let (key, value) = (&inputs.key, &inputs.value);
        Problem {
            batch: self.sequences.count_in(key[0]),
            time: key[1],
            groups: key[2],
            key_dim: key[3],
            heads: value[2],
            value_dim: value[3],
            decay: self.decay,
            read_out: match inputs.bonus {
                Some(_) => kernel::ReadOut::Bonus,
                None => kernel::ReadOut::Inclusive,
            },
        }
    }

    fn chunk_size(&self, problem: &Problem) -> Option<usize> {
        match self.chunking {
            Chunking::Fastest => kernel::preferred_chunk_size(problem),
            Chunking::Sequential => None,
            Chunking::Chunked { chunk_size: size } | Chunking::Scan { chunk_size: size } => Some(size),
        }
    }
}

/// A tensor that lives on the CPU without autodiff.
struct OnHost(FlexTensor);

impl<const D: usize> From<Tensor<D>> for OnHost {
    fn from(tensor: Tensor<D>) -> Self {
        Self(host(tensor))
    }
}

/// The gates of a recurrence on the CPU, held so that views of them can be handed to a kernel.
pub(crate) struct Held<'a> {
    /// The gates as operands, beside a state that holds nothing.
    operands: OperandsAndState<RowTensor, FlexTensor>,
    pub(crate) problem: Problem,
    operator: &'a Recurrence,
}

impl<'a> Held<'a> {
    /// Gates that live on the CPU without autodiff.
    pub(crate) fn on_host(operator: &'a Recurrence, gates: Gates) -> Self {
        let nothing = OnHost(flex::tensor(Vec::new(), &[0]));
        let operands = operands(gates, nothing).map(|_, OnHost(tensor)| tensor, |_, OnHost(tensor)| tensor);
        let shapes = operands
            .as_ref()
            .map(|_, tensor| shape(tensor), |_, tensor| shape(tensor));
        Self {
            operands: operands.map(
                |_, tensor| RowTensor::of_tokens(tensor),
                |_, tensor| contiguous(tensor),
            ),
            problem: operator.problem(&shapes),
            operator,
        }
    }

    pub(crate) fn inputs(&self) -> kernel::Inputs<'_> {
        let views = self
            .operands
            .as_ref()
            .map(|_, rows| rows.view(), |_, values| slice(values));
        let (inputs, _) = views.without_state(self.operator.scale, self.operator.sequences.view());
        inputs
    }

    /// Shape of the read-out.
    pub(crate) fn out_shape(&self) -> &[usize] {
        &self.operands.value.dims
    }

    pub(crate) fn out_buffer(&self) -> Vec<f32> {
        self.operands.value.buffer()
    }
}

over_sequences! {
    Recurrence as recurrence, "the recurrence", kernel;
    settings: [recurrence.scale, recurrence.sequences.view()];
    output like value;
    host: {
        forward: |recurrence: &Self, problem, inputs, state, out| match recurrence.chunk_size(problem) {
            None => kernel::sequential(problem, inputs, state, out),
            Some(size) => kernel::chunked(problem, inputs, size, state, out),
        },
        backward: |recurrence: &Self, problem, inputs, state, cotangents, gradients| {
            let size = recurrence.chunk_size(problem).unwrap_or(kernel::DEFAULT_CHUNK_SIZE);
            kernel::backward(problem, inputs, size, state, cotangents, gradients)
        },
    }
    device: {
        admit: Self::admit,
        forward: Self::forward_on_device,
        backward: |recurrence: &Self, client, problem, inputs: &kernel::DeviceInputs, state, cotangents| {
            let plan = recurrence.plan(client, problem, inputs.query.dtype())?;
            device::backward(client, problem, inputs, &plan, state, cotangents)
        },
    }
}

/// Fewer tokens than the smallest chunk has are taken one by one on devices.
#[cfg(feature = "cube")]
const SHORTEST_CHUNKED: usize = 16;

#[cfg(feature = "cube")]
impl Recurrence {
    /// Query, key and value in the query's type, log decay and step size in one type, constants and state in f32.
    fn types(&self, inputs: &OperandsAndState<Spec, Spec>) -> cube::Types {
        let gates = match (inputs.log_decay.as_ref().either(), &inputs.step_size) {
            (Some(decay), Some(step)) if decay.dtype != step.dtype => DType::F32,
            (Some(gate), _) | (None, Some(gate)) => gate.dtype,
            (None, None) => DType::F32,
        };
        cube::Types {
            tokens: inputs.query.dtype,
            gates,
        }
    }

    fn admit(&self, client: &Client, inputs: OperandsAndState<Spec, Spec>) -> std::result::Result<(), Error> {
        let shapes = inputs
            .as_ref()
            .map(|_, spec| spec.shape.clone(), |_, spec| spec.shape.clone());
        let (problem, dtype) = (self.problem(&shapes), inputs.query.dtype);
        cube::admit(client, inputs.into_list().iter().flatten())?;
        self.plan(client, &problem, cube::kernel_type(dtype)).map(drop)
    }

    /// The tiles of the chunked form; chunks have 16, 32 or 64 tokens, the most that do not exceed what was asked for.
    fn plan(
        &self,
        client: &Client,
        problem: &Problem,
        dtype: spillway_kernel_dsl::cube::DType,
    ) -> std::result::Result<device::Plan, Error> {
        match self.chunking {
            Chunking::Fastest | Chunking::Sequential => {
                device::Plan::new(client.properties(), problem, dtype)
            }
            Chunking::Chunked { chunk_size: size } | Chunking::Scan { chunk_size: size } => {
                let tokens = [64, 32, 16]
                    .into_iter()
                    .find(|&tokens| tokens <= size)
                    .unwrap_or(16);
                device::Plan::exact(&Limits::of(client), tokens)
            }
        }
    }

    fn forward_on_device(
        &self,
        client: &Client,
        problem: &Problem,
        inputs: &kernel::DeviceInputs,
        state: Option<&spillway_kernel_dsl::cube::DeviceBuffer>,
    ) -> std::result::Result<kernel::DeviceOutputs, Error> {
        let one_by_one = match self.chunking {
            Chunking::Sequential => true,
            Chunking::Fastest => self.sequences.longest(problem.time) < SHORTEST_CHUNKED,
            Chunking::Chunked { .. } | Chunking::Scan { .. } => false,
        };
        if one_by_one {
            return device::sequential(client, problem, inputs, state);
        }
        let plan = self.plan(client, problem, inputs.query.dtype())?;
        device::chunked(client, problem, inputs, &plan, state)
    }
}
