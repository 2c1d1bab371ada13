//! The recurrence as an operator: `kernel_dsl::recurrence` on every device.

use crate::backend::flex::{self, RowTensor, contiguous, owned, required, slice};
use crate::backend::host::host;
use crate::backend::{List, Operand, Operator, Spec, first, run};
use crate::error::Result;
use crate::gates::{Gates, LogDecay, ReadOut};
use crate::sequences::Sequences;
use crate::state::State;
use burn::tensor::Tensor;
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

/// The read-out; `state` is left after the last token of every sequence. Shapes have been validated.
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
        ReadOut::Inclusive => None,
        ReadOut::Bonus(bonus) => Some(bonus),
    };
    let log_decay = match gates.log_decay {
        LogDecay::None => None,
        LogDecay::PerHead(a) => Operand::new("log_decay", a),
        LogDecay::PerKey(a) => Operand::new("log_decay", a),
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
            LogDecay::PerKey(_) => DecayKind::PerKey,
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
            LogDecay::PerKey(a) => Some(host(a)),
            LogDecay::PerHeadToken(a) => Some(host(a)),
            LogDecay::PerKeyToken(a) => Some(host(a)),
        };
        let bonus = match gates.read_out {
            ReadOut::Inclusive => None,
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
}
