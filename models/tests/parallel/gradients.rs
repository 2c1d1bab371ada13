//! Gradients through sequences that are cut over ranks, beside those of one process.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_models::init::preset;
use spillway_models::layout::Layout;
use spillway_models::parallel::collectives::share;
use spillway_models::parallel::reduction::all_reduce_sum;
use spillway_models::parallel::scan::Scanned;
use spillway_models::parallel::{Communicator, Threads};
use spillway_models::registry::{language_layouts, layouts_of};
use spillway_models::train::{
    Batch, Differentiable, Leaves, ParallelConfig, Parameters, Precision, SequenceParallel, TrainError,
};
use spillway_ssm_core::tensor_map::on_device;
use spillway_ssm_core::{Chunking, Gates, State, TensorMap, recurrence};

use crate::checks::relative_error;
use crate::definition::{Cotangents, Values, loss};
use crate::kinds::{all_gates, initial_state, numbers};

/// Two orders of f32 additions, forward and back.
const REORDERED: f64 = 1e-5;
/// How far rounding may move a gradient, in units of what [`NUDGE`]s of all parameters do to it: a few, since what rounds is not the
/// parameters alone.
const NUDGES: f64 = 8.0;
/// One part of this many is added to each parameter, or taken away: what f32 can just tell.
const NUDGE: f32 = 1.0 / (1 << 22) as f32;
/// f32 gradients beside derivatives in f64, in units of the norms of gradient and direction.
const F32: f64 = 1e-5;
/// A step of central differences in f64: what they miss is below 1e-9.
const STEP: f64 = 1e-5;

/// A tensor of gates as a flat leaf.
struct Leaf {
    values: Tensor<1>,
    /// Dimensions; the second one is time where there are three or more.
    shape: Vec<usize>,
}

impl Leaf {
    fn of_tokens(&self) -> bool {
        self.shape.len() > 2
    }

    fn gradient(&self, gradients: &Gradients) -> Vec<f32> {
        let count = self.shape.iter().product();
        match self.values.grad(gradients) {
            Some(gradient) => gradient.into_data().iter::<f32>().collect(),
            None => vec![0.0; count],
        }
    }
}

/// Makes leaves of gates.
struct MakeLeaves(Vec<Leaf>);

impl TensorMap for MakeLeaves {
    fn map<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        let device = Device::flex().autodiff();
        let shape = tensor.dims();
        let count: usize = shape.iter().product();
        if count == 0 {
            let values = Tensor::<1>::zeros([1], &device);
            self.0.push(Leaf {
                values,
                shape: shape.to_vec(),
            });
            return on_device(tensor, &device);
        }
        let values = on_device(tensor.reshape([count]), &device).require_grad();
        self.0.push(Leaf {
            values: values.clone(),
            shape: shape.to_vec(),
        });
        values.reshape(shape)
    }
}

fn with_leaves(gates: &Gates) -> (Gates, Vec<Leaf>) {
    let mut leaves = MakeLeaves(Vec::new());
    (gates.map(&mut leaves), leaves.0)
}

fn values(tensor: &Tensor<4>) -> Vec<f32> {
    tensor.clone().inner().into_data().iter::<f32>().collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// A recurrence, and what a loss wants of it.
struct Case {
    name: String,
    gates: Gates,
    start: State,
    of_read_outs: Tensor<4>,
    of_final: Tensor<4>,
}

impl Case {
    fn new(name: &str, gates: Gates, seed: u64) -> Self {
        let (dims, start) = (gates.dims(), initial_state(&gates));
        let tensor = |seed: u64, shape: [usize; 4]| {
            let values = numbers(seed, shape.iter().product());
            Tensor::<4>::from_data(TensorData::new(values, shape), &Device::flex())
        };
        let shape = [dims.batch, dims.time, dims.heads, dims.value_dim];
        Self {
            name: format!("{name}, {} tokens, seed {seed}", dims.time),
            of_read_outs: tensor(seed + 2000, shape),
            of_final: tensor(seed + 2001, start.memory.dims()),
            start,
            gates,
        }
    }

    /// Gradients by all tensors of the gates and by the initial state, in one process.
    fn alone(&self) -> Vec<Vec<f32>> {
        let device = Device::flex().autodiff();
        let (gates, leaves) = with_leaves(&self.gates);
        let leaf = on_device(self.start.memory.clone(), &device).require_grad();
        let mut state = State {
            memory: leaf.clone(),
            position: 0,
        };
        let out = recurrence(gates, &mut state, Chunking::Chunked { chunk_size: 16 }).unwrap();
        let of_final = (state.memory * on_device(self.of_final.clone(), &device)).sum();
        let total = (out * on_device(self.of_read_outs.clone(), &device)).sum() + of_final;
        let gradients = total.backward();
        let of_state = leaf.grad(&gradients).map(|gradient| values(&gradient));
        let of_gates = leaves.iter().map(|leaf| leaf.gradient(&gradients));
        of_gates.chain([of_state.unwrap()]).collect()
    }

    /// The same by all ranks, each of which gets the gradients of all tokens.
    fn together(&self, ranks: &dyn Communicator) -> Vec<Vec<f32>> {
        let mine = share(self.gates.dims().time, ranks.rank(), ranks.size());
        let (gates, leaves) = with_leaves(&self.gates.slice(mine.clone()).unwrap());
        let mut state = self.start.clone();
        let scanned = Scanned::forward(ranks, gates, &mut state, 16).unwrap();
        let cotangent = match mine.is_empty() {
            true => scanned.output().zeros_like().inner(),
            false => self.of_read_outs.clone().narrow(1, mine.start, mine.len()),
        };
        let found = scanned
            .backward(ranks, cotangent, Some(self.of_final.clone()))
            .unwrap();
        let (_, whole) = with_leaves(&self.gates);
        let of_gates = leaves.iter().zip(&whole).map(|(leaf, whole)| {
            // Each rank's tokens in their places among zeros, so that the sum over the ranks is the whole.
            let own = leaf.gradient(&found.gradients);
            let mut all = match leaf.of_tokens() {
                true => placed(whole, &own, mine.clone()),
                false => own,
            };
            all_reduce_sum(ranks, &mut all).unwrap();
            all
        });
        let of_gates: Vec<Vec<f32>> = of_gates.collect();
        let mut of_state = values(&found.incoming);
        if ranks.rank() > 0 {
            of_state.fill(0.0);
        }
        all_reduce_sum(ranks, &mut of_state).unwrap();
        of_gates.into_iter().chain([of_state]).collect()
    }

    /// Refuses gradients whose products with a random direction of each tensor are not the derivatives in that direction.
    fn expect_derivatives(&self, found: &[Vec<f32>], label: &str) {
        let (_, leaves) = with_leaves(&self.gates);
        let gates = leaves.iter().map(|leaf| leaf.values.clone().inner().into_data());
        let gates = gates.map(|data| wide(&data.iter::<f32>().collect::<Vec<_>>()));
        let at: Values = gates.chain([wide(&values(&self.start.memory))]).collect();
        let cotangents = Cotangents {
            read_outs: wide(&values(&self.of_read_outs)),
            final_state: wide(&values(&self.of_final)),
        };
        for (index, gradient) in found.iter().enumerate() {
            let direction = wide(&numbers(3000 + index as u64, gradient.len()));
            let moved = |step: f64| {
                let mut moved = at.clone();
                let pairs = moved[index].iter_mut().zip(&direction);
                pairs.for_each(|(value, by)| *value += step * by);
                loss(&self.gates, &moved, &cotangents)
            };
            let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let gradient = wide(gradient);
            let along: f64 = gradient.iter().zip(&direction).map(|(a, b)| a * b).sum();
            let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
            let scale = norm(&gradient) * norm(&direction);
            assert!(
                (along - expected).abs() <= F32 * scale + 1e-9,
                "{label}: tensor {index}: {along} along the gradient, {expected} by differences"
            );
        }
    }
}

fn placed(whole: &Leaf, own: &[f32], mine: Range<usize>) -> Vec<f32> {
    let mut all = vec![0.0; whole.shape.iter().product()];
    let inner: usize = whole.shape[2..].iter().product();
    let rows = all.chunks_mut(whole.shape[1] * inner);
    if !mine.is_empty() {
        for (row, own) in rows.zip(own.chunks(mine.len() * inner)) {
            row[mine.start * inner..mine.end * inner].copy_from_slice(own);
        }
    }
    all
}

/// Gradients of every kind of recurrence, of `time` tokens drawn from `seed`, beside those of one process and beside derivatives in f64.
pub fn recurrence_gradients(ranks: &dyn Communicator, time: usize, seed: u64) {
    for (name, gates) in all_gates(time, seed) {
        let case = Case::new(name, gates, seed);
        let label = format!("{}, rank {} of {}", case.name, ranks.rank(), ranks.size());
        let (found, expected) = (case.together(ranks), case.alone());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = relative_error(found, expected);
            // A gradient that is 0 by itself, such as that by queries that nobody reads.
            let nothing = expected.iter().chain(found).all(|value| value.abs() < 1e-12);
            assert!(
                nothing || error < REORDERED,
                "{label}: tensor {index} differs by {error:e}"
            );
        }
        case.expect_derivatives(&found, &label);
    }
}

/// As [`recurrence_gradients`], with fewer tokens than ranks, and more.
pub fn recurrences(ranks: &dyn Communicator) {
    for (time, seed) in [(1, 5), (3, 6), (70, 7)] {
        recurrence_gradients(ranks, time, seed);
    }
}

/// Architectures and sizes: a matrix with one decay, with a decay per row, the delta rule with and without a transition of low rank, a
/// weighted mean, a selective scan; attention with and without a window among recurrences, and alone.
const KINDS: [(&str, &str); 11] = [
    ("mamba2", "tiny"),
    ("gla", "tiny"),
    ("gated_deltanet", "tiny"),
    ("rwkv7", "tiny"),
    ("rwkv6", "tiny"),
    ("rwkv4", "tiny"),
    ("mamba1", "tiny"),
    ("mamba2", "tiny-hybrid"),
    ("based", "tiny"),
    ("falcon_h1", "tiny"),
    ("llama", "tiny"),
];

fn ids(seed: u64, count: usize, vocab_size: usize) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|_| random.random_range(0..vocab_size as u32))
        .collect()
}

/// Sequences of a model's tokens, a third of whose targets do not count.
fn batch(vocab_size: usize, time: usize, seed: u64) -> Batch {
    let (sequences, count) = (2, 2 * time);
    let weights = (0..count).map(|token| {
        if token % 3 == 1 {
            0.0
        } else {
            0.5 + (token % 2) as f32
        }
    });
    Batch {
        sequences,
        time,
        ids: ids(seed, count, vocab_size),
        targets: ids(seed + 1, count, vocab_size),
        weights: Some(weights.collect()),
        continues: vec![false; sequences],
    }
}

fn graph(parameters: &Parameters) -> Result<(Leaves, Differentiable), TrainError> {
    let leaves = parameters.leaves(&Device::flex().autodiff(), Precision::F32);
    let network = leaves.network()?;
    Ok((leaves, network))
}

fn read(gradients: Vec<Option<Tensor<1>>>) -> Vec<Option<Vec<f32>>> {
    let read = |gradient: Tensor<1>| gradient.into_data().iter::<f32>().collect();
    gradients.into_iter().map(|gradient| gradient.map(read)).collect()
}

/// Loss, weight and gradients of the summed loss of a whole batch, in this process alone.
fn alone(parameters: &Parameters, batch: &Batch) -> (f64, f64, Vec<Option<Vec<f32>>>) {
    let (leaves, network) = graph(parameters).unwrap();
    let (loss, weight) = network
        .loss(&batch.whole(), &mut network.start(batch.sequences))
        .unwrap();
    let gradients = read(leaves.gradients(&mut loss.backward()));
    (f64::from(loss.inner().into_scalar::<f32>()), weight, gradients)
}

/// The same parameters but for what f32 can just tell. Where a gradient is what is left of terms that cancel, that moves it as far as the
/// order of additions does, and much further than one part in 10⁵.
fn nudged(parameters: &Parameters) -> Parameters {
    let mut nudged = parameters.clone();
    let mut random = StdRng::seed_from_u64(23);
    for parameter in nudged.list_mut() {
        let mut nudge = |value: f32| value * if random.random() { 1.0 + NUDGE } else { 1.0 - NUDGE };
        let values: Vec<f32> = parameter.value.to_data().iter::<f32>().map(&mut nudge).collect();
        let data = TensorData::new(values, parameter.value.dims());
        parameter.value = Tensor::from_data(data, &parameter.value.device());
    }
    nudged
}

/// Loss and gradients of a batch by all ranks under `config`, beside those of the whole batch in this process alone.
fn same_gradients(
    ranks: &Arc<dyn Communicator>,
    (name, parameters): (&str, &Parameters),
    time: usize,
    config: &ParallelConfig,
) {
    let label = format!(
        "{name}, {time} tokens, {config:?}, rank {} of {}",
        ranks.rank(),
        ranks.size()
    );
    let graph = || graph(parameters);
    let batch = batch(graph().unwrap().1.outline().vocab_size, time, 17);
    let together = SequenceParallel::new(Arc::clone(ranks), config);
    let (loss, sums) = together.gradients(&graph, &batch, parameters.list()).unwrap();
    let (expected_loss, weight, expected) = alone(parameters, &batch);
    let (_, _, moved) = alone(&nudged(parameters), &batch);
    assert!(
        (loss / expected_loss - 1.0).abs() < REORDERED,
        "{label}: a loss of {loss}, not {expected_loss}"
    );
    assert_eq!(sums.weight(), weight, "{label}");
    let found = read(sums.mean().unwrap());
    let gradients = found.into_iter().zip(expected.into_iter().zip(moved));
    for (parameter, (found, (expected, moved))) in parameters.list().iter().zip(gradients) {
        let name = &parameter.name;
        assert_eq!(found.is_some(), expected.is_some(), "{label}: {name}");
        if let (Some(mut found), Some(expected), Some(moved)) = (found, expected, moved) {
            found.iter_mut().for_each(|value| *value *= weight as f32);
            let error = relative_error(&found, &expected);
            let rounding = relative_error(&moved, &expected);
            assert!(
                error < REORDERED.max(NUDGES * rounding),
                "{label}: {name} differs by {error:e}, where the last digits of the parameters move it by {rounding:e}"
            );
        }
    }
}

fn random(layout: &'static Layout, size: &str) -> Option<Parameters> {
    let config = serde_json::from_str(preset(layout, size)?.config).unwrap();
    Some(Parameters::random(layout, &config, 8, &Device::flex()).unwrap())
}

fn config(stretch: Option<usize>, recompute: bool) -> ParallelConfig {
    ParallelConfig {
        sequence: true,
        stretch,
        recompute,
    }
}

/// Models of every kind of state: one stretch for each rank and several, graphs kept and made again, ranks without a token.
pub fn models(ranks: &Arc<dyn Communicator>) {
    for (architecture, size) in KINDS {
        let parameters = layouts_of(architecture)
            .find_map(|layout| random(layout, size))
            .unwrap();
        let model = (&*format!("{architecture} {size}"), &parameters);
        same_gradients(ranks, model, 23, &config(None, false));
        same_gradients(ranks, model, 23, &config(Some(4), true));
        same_gradients(ranks, model, 2, &config(None, true));
    }
}

/// Every language model there is.
pub fn every_layout(ranks: &Arc<dyn Communicator>) {
    for layout in language_layouts() {
        if let Some(parameters) = random(layout, "tiny") {
            let model = (layout.architecture, &parameters);
            same_gradients(ranks, model, 11, &config(Some(3), false));
        }
    }
}

/// Why a model is refused whose layers see later tokens.
pub fn refusal_of_both_ways() -> String {
    let parameters = layouts_of("bigs")
        .find_map(|layout| random(layout, "tiny"))
        .unwrap();
    let graph = || graph(&parameters);
    let batch = batch(6, 4, 1);
    let alone = SequenceParallel::new(Arc::new(Threads::alone()), &config(None, false));
    let refused = alone.gradients(&graph, &batch, parameters.list());
    refused
        .map(|(loss, _)| loss)
        .expect_err("a model that reads both ways")
        .to_string()
}
