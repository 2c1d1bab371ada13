//! The CPU: `kernel-dsl` on the slices of Burn's flex tensors, without copies where rows already lie contiguously.

use super::{Chunks, Maybe, NormPlan, Plan, RecurrenceInputs, RecurrentBackend};
use burn::backend::Flex;
use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};
use kernel_dsl::causal_conv1d::{self, Activation};
use kernel_dsl::cross_entropy;
use kernel_dsl::gated_norm::{self, Statistic};
use kernel_dsl::linear::{self, PackedMatrix};
use kernel_dsl::recurrence::{self, DecayKind, Inputs, LogDecay, Problem, ReadOut};
use kernel_dsl::step_size;
use kernel_dsl::{Rows, Sequences};
use std::fmt::Display;
use std::sync::Arc;

/// The callers of a backend operation have validated every shape, so a kernel's error here is a defect of this crate.
fn validated<T, E: Display>(result: std::result::Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => unreachable!("shapes were validated before the kernel was called: {error}"),
    }
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(Shape::from(shape.to_vec())),
        DType::F32,
    )
}

fn shape(tensor: &FlexTensor) -> Vec<usize> {
    tensor.layout().shape().iter().copied().collect()
}

/// A tensor whose trailing dimensions form contiguous rows at one stride: itself where that holds, else a copy.
struct RowTensor {
    tensor: FlexTensor,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl RowTensor {
    /// Rows are the last `trailing` dimensions, flattened; all dimensions before them count rows.
    fn new(tensor: FlexTensor, trailing: usize) -> Self {
        let dims = shape(&tensor);
        let split = dims.len() - trailing;
        let (rows, cols) = (dims[..split].iter().product(), dims[split..].iter().product());
        match row_stride(&dims, tensor.layout().strides(), split) {
            Some(stride) => Self {
                tensor,
                rows,
                cols,
                stride,
            },
            None => Self {
                tensor: tensor.to_contiguous(),
                rows,
                cols,
                stride: cols,
            },
        }
    }

    fn view(&self) -> Rows<'_> {
        let values = self.tensor.storage::<f32>();
        let data = values
            .get(self.tensor.layout().start_offset()..)
            .unwrap_or_default();
        validated(Rows::new(data, self.rows, self.cols, self.stride.max(self.cols)))
    }
}

/// The one distance between neighbouring rows, if there is one and the rows themselves are contiguous.
fn row_stride(dims: &[usize], strides: &[isize], split: usize) -> Option<usize> {
    let mut expected = 1isize;
    for axis in (split..dims.len()).rev() {
        if dims[axis] != 1 && strides[axis] != expected {
            return None;
        }
        expected *= dims[axis] as isize;
    }
    let cols = expected;
    let mut stride = None;
    let mut step = 0isize;
    for axis in (0..split).rev().filter(|&axis| dims[axis] != 1) {
        match stride {
            None => {
                stride = Some(strides[axis]);
                step = strides[axis] * dims[axis] as isize;
            }
            Some(_) if strides[axis] == step => step *= dims[axis] as isize,
            Some(_) => return None,
        }
    }
    let stride = stride.unwrap_or(cols);
    (stride >= cols).then_some(stride as usize)
}

fn given(tensor: Maybe<Flex>) -> Option<FlexTensor> {
    match tensor {
        Maybe::Given(tensor) => Some(tensor),
        Maybe::Absent => None,
    }
}

/// All values of a small tensor in order.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

fn slice(tensor: &FlexTensor) -> &[f32] {
    let start = tensor.layout().start_offset();
    &tensor.storage::<f32>()[start..start + tensor.layout().num_elements()]
}

/// A tensor that owns exactly its values, so that a kernel may update them in place: itself when nobody shares it.
fn owned(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.is_contiguous()
        && tensor.layout().start_offset() == 0
        && tensor.bytes().len() == 4 * tensor.layout().num_elements();
    if whole {
        return tensor;
    }
    let dims = shape(&tensor);
    let copy = contiguous(tensor);
    self::tensor(slice(&copy).to_vec(), &dims)
}

/// The inputs of a recurrence, held so that views of them can be handed to a kernel.
struct Held {
    query: RowTensor,
    key: RowTensor,
    value: RowTensor,
    log_decay: Option<HeldDecay>,
    step_size: Option<RowTensor>,
    bonus: Option<FlexTensor>,
    skip: Option<FlexTensor>,
    problem: Problem,
    scale: f32,
}

enum HeldDecay {
    Constant(FlexTensor),
    Token(RowTensor),
}

impl Held {
    fn new(inputs: RecurrenceInputs<Flex>, plan: Plan) -> Self {
        let RecurrenceInputs {
            query,
            key,
            value,
            log_decay,
            step_size,
            bonus,
            skip,
        } = inputs;
        let bonus = given(bonus).map(contiguous);
        let (keys, values) = (shape(&key), shape(&value));
        let problem = Problem {
            batch: keys[0],
            time: keys[1],
            groups: keys[2],
            key_dim: keys[3],
            heads: values[2],
            value_dim: values[3],
            decay: plan.decay,
            read_out: if bonus.is_some() {
                ReadOut::Bonus
            } else {
                ReadOut::Inclusive
            },
        };
        let log_decay = given(log_decay).map(|decay| match plan.decay {
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
            step_size: given(step_size).map(|step| RowTensor::new(step, 1)),
            bonus,
            skip: given(skip).map(contiguous),
            problem,
            scale: plan.scale,
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            log_decay: match &self.log_decay {
                None => LogDecay::None,
                Some(HeldDecay::Constant(decay)) => LogDecay::Constant(slice(decay)),
                Some(HeldDecay::Token(decay)) => LogDecay::Token(decay.view()),
            },
            step_size: self.step_size.as_ref().map(RowTensor::view),
            bonus: self.bonus.as_ref().map(slice),
            skip: self.skip.as_ref().map(slice),
            scale: self.scale,
            sequences: Sequences::Equal,
        }
    }

    fn out_shape(&self) -> [usize; 4] {
        [
            self.problem.batch,
            self.problem.time,
            self.problem.heads,
            self.problem.value_dim,
        ]
    }

    fn out_buffer(&self) -> Vec<f32> {
        vec![0.0; self.out_shape().iter().product()]
    }
}

impl RecurrentBackend for Flex {
    fn recurrence(inputs: RecurrenceInputs<Self>, state: FlexTensor, plan: Plan) -> (FlexTensor, FlexTensor) {
        let held = Held::new(inputs, plan);
        let mut state = owned(state);
        let mut out = held.out_buffer();
        let memory = state.storage_mut::<f32>();
        let chunk_size = match plan.chunks {
            Chunks::Fastest => recurrence::preferred_chunk_size(&held.problem),
            Chunks::None => None,
            Chunks::Of(size) => Some(size),
        };
        validated(match chunk_size {
            None => recurrence::sequential(&held.problem, &held.inputs(), memory, &mut out),
            Some(size) => recurrence::chunked(&held.problem, &held.inputs(), size, memory, &mut out),
        });
        (tensor(out, &held.out_shape()), state)
    }

    fn recurrence_bounded(
        inputs: RecurrenceInputs<Self>,
        state: FlexTensor,
        bound: FlexTensor,
        plan: Plan,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let held = Held::new(inputs, plan);
        let (mut state, bound) = (owned(state), contiguous(bound));
        let mut out = held.out_buffer();
        let memory = state.storage_mut::<f32>();
        let clipped = validated(recurrence::sequential_bounded(
            &held.problem,
            &held.inputs(),
            slice(&bound),
            memory,
            &mut out,
        ));
        (
            tensor(out, &held.out_shape()),
            state,
            tensor(vec![clipped as f32], &[1]),
        )
    }

    fn element(inputs: RecurrenceInputs<Self>, plan: Plan) -> (FlexTensor, FlexTensor) {
        let held = Held::new(inputs, plan);
        let p = &held.problem;
        let decay_rows = match p.decay {
            DecayKind::PerKey | DecayKind::PerKeyToken => p.key_dim,
            DecayKind::None | DecayKind::PerHead | DecayKind::PerHeadToken => 1,
        };
        let mut sums = vec![0.0; p.batch * p.heads * decay_rows];
        let mut update = vec![0.0; p.batch * p.heads * p.key_dim * p.value_dim];
        let chunk_size = match plan.chunks {
            Chunks::Of(size) => size,
            Chunks::Fastest | Chunks::None => recurrence::DEFAULT_CHUNK_SIZE,
        };
        validated(recurrence::element(
            p,
            &held.inputs(),
            chunk_size,
            &mut sums,
            &mut update,
        ));
        (
            tensor(sums, &[p.batch, p.heads, decay_rows]),
            tensor(update, &[p.batch, p.heads, p.key_dim, p.value_dim]),
        )
    }

    fn linear(input: FlexTensor, weight: Arc<PackedMatrix>, bias: Maybe<Self>) -> FlexTensor {
        let mut dims = shape(&input);
        let input = RowTensor::new(input, 1);
        let bias = given(bias).map(contiguous);
        let mut out = vec![0.0; input.rows * weight.out_features()];
        validated(linear::linear(
            input.view(),
            &weight,
            bias.as_ref().map(slice),
            &mut out,
        ));
        if let Some(last) = dims.last_mut() {
            *last = weight.out_features();
        }
        tensor(out, &dims)
    }

    fn causal_conv1d(
        input: FlexTensor,
        weight: FlexTensor,
        bias: Maybe<Self>,
        state: FlexTensor,
        activation: Activation,
    ) -> (FlexTensor, FlexTensor) {
        let (dims, taps) = (shape(&input), shape(&weight));
        let problem = causal_conv1d::Problem {
            batch: dims[0],
            time: dims[1],
            channels: dims[2],
            width: taps[1],
            activation,
        };
        let (input, weight, bias) = (
            RowTensor::new(input, 1),
            contiguous(weight),
            given(bias).map(contiguous),
        );
        let mut state = owned(state);
        let mut out = vec![0.0; dims.iter().product()];
        let inputs = causal_conv1d::Inputs {
            input: input.view(),
            weight: slice(&weight),
            bias: bias.as_ref().map(slice),
            sequences: Sequences::Equal,
        };
        validated(causal_conv1d::causal_conv1d(
            &problem,
            &inputs,
            state.storage_mut::<f32>(),
            &mut out,
        ));
        (tensor(out, &dims), state)
    }

    fn gated_rms_norm(
        input: FlexTensor,
        gate: Maybe<Self>,
        weight: Maybe<Self>,
        plan: NormPlan,
    ) -> FlexTensor {
        let dims = shape(&input);
        let (input, gate) = (
            RowTensor::new(input, 1),
            given(gate).map(|gate| RowTensor::new(gate, 1)),
        );
        let weight = given(weight).map(contiguous);
        let problem = gated_norm::Problem {
            rows: input.rows,
            features: input.cols,
            group_size: plan.group_size,
            eps: plan.eps,
            statistic: Statistic::MeanSquare,
            order: plan.order,
        };
        let inputs = gated_norm::Inputs {
            input: input.view(),
            gate: gate.as_ref().map(RowTensor::view),
            weight: weight.as_ref().map(slice),
            bias: None,
        };
        let mut out = vec![0.0; dims.iter().product()];
        validated(gated_norm::gated_norm(&problem, &inputs, &mut out));
        tensor(out, &dims)
    }

    fn add_rms_norm(
        residual: FlexTensor,
        input: Maybe<Self>,
        weight: FlexTensor,
        eps: f32,
    ) -> (FlexTensor, FlexTensor) {
        let dims = shape(&residual);
        let mut residual = owned(residual);
        let (input, weight) = (given(input).map(contiguous), contiguous(weight));
        let mut out = vec![0.0; dims.iter().product()];
        validated(gated_norm::add_rms_norm(
            residual.storage_mut::<f32>(),
            input.as_ref().map(slice),
            slice(&weight),
            eps,
            &mut out,
        ));
        (residual, tensor(out, &dims))
    }

    fn step_size(
        raw: FlexTensor,
        bias: FlexTensor,
        a_log: FlexTensor,
        limit: (f32, f32),
    ) -> (FlexTensor, FlexTensor) {
        let dims = shape(&raw);
        let (raw, bias, a_log) = (RowTensor::new(raw, 1), contiguous(bias), contiguous(a_log));
        let count = raw.rows * raw.cols;
        let (mut step, mut log_decay) = (vec![0.0; count], vec![0.0; count]);
        validated(step_size::step_size(
            raw.view(),
            slice(&bias),
            slice(&a_log),
            limit,
            &mut step,
            &mut log_decay,
        ));
        (tensor(step, &dims), tensor(log_decay, &dims))
    }

    fn split_heads(input: FlexTensor, start: usize, heads: usize, dim: usize) -> FlexTensor {
        let dims = shape(&input);
        let strides = input.layout().strides();
        let split = [strides[0], strides[1], strides[2] * dim as isize, strides[2]];
        let offset = input.layout().start_offset() + start * strides[2].unsigned_abs();
        let layout = Layout::new(
            Shape::from(vec![dims[0], dims[1], heads, dim]),
            split.to_vec(),
            offset,
        );
        input.with_layout(layout)
    }

    fn cross_entropy(logits: FlexTensor, targets: Arc<[u32]>, classes: usize) -> FlexTensor {
        let logits = RowTensor::new(logits, 1);
        let mut loss = vec![0.0; logits.rows];
        let columns = validated(Rows::new(
            logits.view().data(),
            logits.rows,
            classes,
            logits.stride,
        ));
        validated(cross_entropy::cross_entropy(columns, &targets, &mut loss));
        tensor(loss, &[logits.rows])
    }
}
