//! Moments in parts on the ranks, beside one optimiser that has all of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_models::parallel::Communicator;
use spillway_models::parallel::collectives::{all_sum, broadcast, share};
use spillway_models::parallel::reduction::{Parts, all_gather, reduce_scatter};
use spillway_models::train::data::Source;
use spillway_models::train::{
    Accumulator, Optimizer, Parameters, Precision, Snapshot, StepEvent, TrainConfig, Trainer, Update,
};

/// Clips in every step, and decays some parameters.
const TRAINING: &str = "\
steps = 12
sequences = 5
length = 12
accumulation = 2
snapshot_every = 3
data = { kind = \"copy\", vocab_size = 6 }
optimizer = { learning_rate = 4e-3, weight_decay = 0.01, clip_norm = 0.05 }
model = { arch = \"mamba2\", size = \"tiny\" }
";

/// The configuration of the trainings here.
pub fn config() -> TrainConfig {
    TrainConfig::parse(Path::new("test.toml"), TRAINING).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Parts of equal and of very unequal lengths, in one bucket and in many.
pub fn parts_of_sums(ranks: &dyn Communicator) {
    let (rank, size) = (ranks.rank(), ranks.size());
    for (count, piece) in [
        (0, 4),
        (1, 4),
        (3, 1),
        (7, 2),
        (1000, 1 << 20),
        (1000, 64),
        (1003, 7),
    ] {
        let of = |rank: usize| -> Vec<f32> {
            let mut random = StdRng::seed_from_u64(10 * count as u64 + rank as u64);
            (0..count).map(|_| random.random_range(-1.0f32..1.0)).collect()
        };
        let mut sums = of(0);
        for rank in 1..size {
            sums.iter_mut()
                .zip(of(rank))
                .for_each(|(sum, value)| *sum += value);
        }
        let first_alone = (0..size).map(|_| count);
        let growing = (0..size).map(|rank| count * (rank + 1) * (rank + 1) / (size * size));
        for parts in [
            Parts::equal(count, size),
            Parts::ending_at(first_alone),
            Parts::ending_at(growing),
        ] {
            let parts = parts.in_pieces_of(piece);
            let (mut found, own) = (of(rank), parts.part(rank));
            let mut expected = of(rank);
            expected[own.clone()].copy_from_slice(&sums[own]);
            reduce_scatter(ranks, &parts, &mut found[..]).unwrap();
            assert_eq!(bits(&found), bits(&expected), "{parts:?}");
            all_gather(ranks, &parts, &mut found[..]).unwrap();
            assert_eq!(bits(&found), bits(&sums), "{parts:?}");
        }
    }
}

/// A training whose optimiser has all moments: the gradients of each rank's rows, added in the order of the ranks.
pub struct Whole {
    config: TrainConfig,
    parameters: Parameters,
    optimizer: Optimizer,
    source: Box<dyn Source>,
    step: u64,
}

impl Whole {
    /// At its beginning.
    pub fn new() -> Self {
        let config = config();
        let alone = Trainer::new(config.clone()).unwrap();
        let parameters = alone.parameters().clone();
        let data = config.data.as_ref().expect("data");
        let (sequences, length) = (config.sequences, config.length);
        let source = data.open(Path::new("."), sequences, length, alone.tokenizer(), config.seed);
        Self {
            optimizer: Optimizer::new(&config.optimizer, parameters.list(), config.steps).unwrap(),
            source: source.unwrap(),
            parameters,
            config,
            step: 0,
        }
    }

    /// A step as `size` ranks make it.
    pub fn step(&mut self, size: usize) -> Update {
        let accumulation = self.config.accumulation;
        let batches: Vec<_> = (0..accumulation).map(|_| self.source.next().unwrap()).collect();
        let device = Device::flex().autodiff();
        let (mut sums, mut total) = (Vec::new(), 0.0);
        for rank in 0..size {
            let mut of_rank: Vec<Tensor<1>> = Vec::new();
            let mut weight_of_rank = 0.0;
            for batch in &batches {
                let rows = batch.rows(share(batch.sequences, rank, size));
                let leaves = self.parameters.leaves(&device, Precision::F32);
                let network = leaves.network().unwrap();
                let mut state = network.start(rows.sequences);
                let (loss, weight) = network.loss(&rows.whole(), &mut state).unwrap();
                let gradients = leaves.gradients(&mut loss.backward());
                let gradients = gradients.into_iter().map(|gradient| gradient.expect("used"));
                weight_of_rank += weight;
                of_rank = match of_rank.is_empty() {
                    true => gradients.collect(),
                    false => of_rank.into_iter().zip(gradients).map(|(a, b)| a + b).collect(),
                };
            }
            total += weight_of_rank;
            let of_rank: Vec<Vec<f32>> = of_rank
                .iter()
                .map(|gradient| gradient.to_data().iter::<f32>().collect())
                .collect();
            match rank {
                0 => sums = of_rank,
                _ => {
                    let (sums, values) = (sums.iter_mut().flatten(), of_rank.iter().flatten());
                    sums.zip(values).for_each(|(sum, value)| *sum += value);
                }
            }
        }
        let tensor = |values: Vec<f32>| {
            let count = values.len();
            Some(Tensor::from_data(
                TensorData::new(values, [count]),
                &Device::flex(),
            ))
        };
        let mut accumulator = Accumulator::default();
        accumulator
            .add(sums.into_iter().map(tensor).collect(), total)
            .unwrap();
        let gradients = accumulator.mean().unwrap();
        let update = self
            .optimizer
            .step(self.parameters.list_mut(), gradients, self.step);
        self.step += 1;
        update.unwrap()
    }

    /// Refuses a snapshot with other weights or moments.
    pub fn expect_same(&self, found: &Snapshot, label: &str) {
        assert_eq!(found.step, self.step, "{label}");
        let expected = Snapshot::masters(self.parameters.list());
        for ((name, expected), (_, found)) in expected.iter().zip(&found.parameters) {
            assert!(expected.as_bytes() == found.as_bytes(), "{label}: {name} differs");
        }
        let expected: BTreeMap<String, TensorData> = self.optimizer.tensors();
        assert!(!expected.is_empty(), "{label}: nothing is saved");
        let names = |entries: &BTreeMap<String, TensorData>| entries.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&expected), names(&found.optimizer), "{label}");
        for (name, expected) in &expected {
            assert!(found.optimizer[name] == *expected, "{label}: {name} differs");
        }
    }
}

/// A training on these ranks; what rank 0 does with it, while the others follow.
pub fn led<T>(
    ranks: &Arc<dyn Communicator>,
    from: Option<&Snapshot>,
    lead: impl FnOnce(&mut Trainer) -> T,
) -> (Trainer, Option<T>) {
    let mut trainer = Trainer::new_on(Arc::clone(ranks), config()).unwrap();
    if ranks.rank() > 0 {
        trainer.share_snapshot(None).unwrap();
        trainer.follow().unwrap();
        return (trainer, None);
    }
    if let Some(snapshot) = from {
        trainer.restore(snapshot, Path::new("snapshot")).unwrap();
    }
    trainer.share_snapshot(from).unwrap();
    let result = lead(&mut trainer);
    trainer.end().unwrap();
    (trainer, Some(result))
}

/// Steps, and then the snapshot of all ranks.
pub fn stepped(trainer: &mut Trainer, steps: u64) -> (Vec<StepEvent>, Snapshot) {
    let steps: Vec<StepEvent> = (0..steps).map(|_| trainer.step().unwrap()).collect();
    (steps, trainer.snapshot().unwrap())
}

/// Weights and moments after several steps have the bits of one optimiser with all moments, the norm by which gradients are
/// clipped too; each rank has its part of the moments and no more, and all have the same weights.
pub fn steps(ranks: &Arc<dyn Communicator>) {
    let size = ranks.size();
    let (trainer, led) = led(ranks, None, |trainer| stepped(trainer, 4));
    if let Some((events, snapshot)) = led {
        let mut whole = Whole::new();
        for event in events {
            let update = whole.step(size);
            let found = (event.gradient_norm, event.clipped);
            assert_eq!(found, (update.gradient_norm, true), "{size} ranks: {update:?}");
        }
        whole.expect_same(&snapshot, &format!("{size} ranks"));
    }
    let counts = trainer.parameters().list().iter();
    let all: usize = counts.map(|parameter| parameter.value.dims()[0]).sum();
    let held = trainer.optimizer().held();
    assert!(
        held <= all.div_ceil(size) + 7,
        "{held} of {all} values on one of {size} ranks"
    );
    let mut sum = [held as f64];
    all_sum(ranks.as_ref(), &mut sum).unwrap();
    assert_eq!(sum, [all as f64], "{size} ranks");
    let masters = Snapshot::masters(trainer.parameters().list());
    let mine: Vec<u8> = masters
        .iter()
        .flat_map(|(_, data)| data.as_bytes())
        .copied()
        .collect();
    let first = broadcast(ranks.as_ref(), 0, mine.clone()).unwrap();
    assert!(first == mine, "rank {} of {size} has other weights", ranks.rank());
}
