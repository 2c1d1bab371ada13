//! What must hold on any number of ranks, whatever carries their messages.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::time::Duration;

use burn::tensor::Tensor;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use spillway_mitigations::Mitigation;
use spillway_models::checkpoint::WriteDtype;
use spillway_models::evaluation::diagnosis::loss::Grid;
use spillway_models::evaluation::diagnosis::stream::Reading;
use spillway_models::evaluation::diagnosis::text::{StreamOptions, Text, streams};
use spillway_models::evaluation::diagnosis::treatment::Treatment;
use spillway_models::evaluation::diagnosis::{self, probe};
use spillway_models::init::{preset, write_random};
use spillway_models::layout::Layout;
use spillway_models::parallel::collectives::{
    Carried, all_sum, barrier, broadcast, exclusive_scan, gather, join, share,
};
use spillway_models::parallel::reduction::all_reduce_sum;
use spillway_models::parallel::ring::Ring;
use spillway_models::parallel::scan::recurrence_by_scan;
use spillway_models::parallel::{Communicator, ParallelError, Tag};
use spillway_models::registry::language_layouts;
use spillway_models::{LoadOptions, Logits, Model, ModelState};
use spillway_ssm_core::{Chain, Chunking, recurrence};
use tempfile::TempDir;

use crate::kinds::{all_gates, initial_state, numbers};

const FIRST: Tag = Tag::new(101, "numbers");
const SECOND: Tag = Tag::new(102, "other numbers");

/// Every rank to every rank, itself included, and one message of more than a piece.
pub fn messages(ranks: &dyn Communicator) {
    let (rank, size) = (ranks.rank(), ranks.size());
    let message = |from: usize, number: u8| vec![from as u8, number];
    for to in 0..size {
        for number in 0..20 {
            ranks.send(to, FIRST, message(rank, number)).unwrap();
            ranks.send(to, SECOND, message(rank, 100 + number)).unwrap();
        }
    }
    for from in (0..size).rev() {
        for tag in [SECOND, FIRST] {
            for number in 0..20 {
                let number = if tag == SECOND { 100 + number } else { number };
                assert_eq!(ranks.receive(from, tag).unwrap(), message(from, number));
            }
        }
    }
    assert_eq!(ranks.poll(FIRST, Duration::ZERO).unwrap(), None);
    let long: Vec<u8> = (0..40_000_001u32).map(|byte| (byte % 251) as u8).collect();
    ranks.send((rank + 1) % size, FIRST, long.clone()).unwrap();
    assert!(
        ranks.receive((rank + size - 1) % size, FIRST).unwrap() == long,
        "a long message"
    );
}

/// Broadcasts from every rank, gathering, sharing.
pub fn collectives(ranks: &dyn Communicator) {
    let (rank, size) = (ranks.rank(), ranks.size());
    for root in 0..size {
        let own = format!("rank {rank} at {root}").into_bytes();
        let found = broadcast(ranks, root, own).unwrap();
        assert_eq!(
            String::from_utf8(found).unwrap(),
            format!("rank {root} at {root}")
        );
    }
    let found = gather(ranks, vec![rank as u8; rank]).unwrap();
    let expected = (rank == 0).then(|| (0..size).map(|rank| vec![rank as u8; rank]).collect::<Vec<_>>());
    assert_eq!(found, expected);
    let found = join(ranks, vec![rank as u8; rank]).unwrap();
    let expected: Vec<u8> = (0..size).flat_map(|rank| vec![rank as u8; rank]).collect();
    assert_eq!(found, expected);
    for _ in 0..3 {
        barrier(ranks).unwrap();
    }
    for count in [0, 1, 4, 17] {
        let mut end = 0;
        for rank in 0..size {
            let mine = share(count, rank, size);
            assert_eq!(mine.start, end);
            assert!(mine.len().abs_diff(count / size) <= 1);
            end = mine.end;
        }
        assert_eq!(end, count);
    }
}

/// The bits of sums added up one rank after another, of any number of values.
pub fn sums(ranks: &dyn Communicator) {
    for count in [0, 1, 2, 3, 4, 7, 1000] {
        let of = |rank: usize| numbers(10 * count as u64 + rank as u64, count);
        let mut expected = of(0);
        for rank in 1..ranks.size() {
            expected
                .iter_mut()
                .zip(of(rank))
                .for_each(|(sum, value)| *sum += value);
        }
        let mut found = of(ranks.rank());
        all_reduce_sum(ranks, &mut found).unwrap();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&expected), "{count} values");
    }
    let mut found = [ranks.rank() as f64, 0.5];
    all_sum(ranks, &mut found).unwrap();
    let size = ranks.size() as f64;
    assert_eq!(found, [size * (size - 1.0) / 2.0, size / 2.0]);
}

/// Words, whose joining does not commute.
struct Word(String);

impl Carried for Word {
    fn to_bytes(&self) -> Vec<u8> {
        self.0.clone().into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, (String, String)> {
        Ok(Self(String::from_utf8_lossy(bytes).into_owned()))
    }
}

/// The words of all earlier ranks, in their order.
pub fn scans(ranks: &dyn Communicator) {
    let word = |rank: usize| format!("<{rank}>");
    let joined = |a: &Word, b: &Word| Ok::<_, ParallelError>(Word(format!("{}{}", a.0, b.0)));
    let found = exclusive_scan(ranks, Word(word(ranks.rank())), joined).unwrap();
    let expected: String = (0..ranks.rank()).map(word).collect();
    assert_eq!(found.map(|word| word.0).unwrap_or_default(), expected);
}

/// One of every way of carrying something from token to token.
const ARCHITECTURES: [&str; 9] = [
    "mamba1",
    "mamba2",
    "rwkv4",
    "rwkv6",
    "rwkv7",
    "based",
    "gla",
    "llama",
    "gated_deltanet",
];
const SPECS: [&str; 7] = [
    "none",
    "rri:0.99,0.75",
    "state-norm:1.5",
    "window:300",
    "window-exact:300,chunk=100",
    "reset:600",
    "reset-overlap:600,200",
];

fn model(layout: &Layout) -> Option<Model> {
    let tiny = preset(layout, "tiny")?;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model");
    write_random(&path, layout, tiny.config, WriteDtype::F32, 7).unwrap();
    Some(Model::load(&path, &LoadOptions::default()).unwrap())
}

fn models() -> &'static [Model] {
    static MODELS: OnceLock<Vec<Model>> = OnceLock::new();
    MODELS.get_or_init(|| {
        let of = |name: &&str| {
            language_layouts()
                .find(|layout| layout.architecture == *name)
                .and_then(model)
        };
        let models: Vec<Model> = ARCHITECTURES.iter().filter_map(of).collect();
        assert_eq!(models.len(), ARCHITECTURES.len(), "a tiny model of each");
        models
    })
}

fn ids(model: &Model, seed: u64, count: usize) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    let vocab_size = model.info().vocab_size as u32;
    (0..count).map(|_| random.random_range(0..vocab_size)).collect()
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// Everything that a state holds.
fn contents(state: &ModelState) -> Vec<(String, Vec<u8>)> {
    let layers = state.layers.iter().enumerate();
    let saved = layers.flat_map(|(layer, state)| {
        [("mixer", state.mixer.save()), ("channel", state.channel.save())]
            .into_iter()
            .flat_map(move |(part, saved)| {
                saved
                    .into_iter()
                    .map(move |(name, data)| (format!("{layer}.{part}.{name}"), data.as_bytes().to_vec()))
            })
    });
    saved.collect()
}

/// Losses of a text in a ring, then of the one that follows, and the state after both, beside those of this process alone.
fn same_losses(ranks: &dyn Communicator, model: &Model, chain: &Chain, lengths: [usize; 2], segments: usize) {
    let label = || {
        let (rank, size) = (ranks.rank(), ranks.size());
        format!(
            "{} under {} over {lengths:?} tokens on rank {rank} of {size}",
            model.info().architecture,
            chain.text()
        )
    };
    let ring = Ring::new(ranks).with_segments(NonZeroUsize::new(segments).unwrap());
    let mut state = model.start(chain, 1).unwrap();
    let mut alone = model.start(chain, 1).unwrap();
    for (seed, length) in lengths.into_iter().enumerate() {
        let all = ids(model, seed as u64, length + 1);
        let (read, targets) = (&all[..length], &all[1..]);
        let found = ring.losses(model, read, targets, &mut state).unwrap();
        assert_eq!(found.is_some(), ranks.rank() == 0, "{}", label());
        assert_eq!(state.positions().len(), 1);
        let Some(found) = found else { continue };
        let expected = model.losses(read, targets, &mut alone).unwrap();
        assert!(bits(found) == bits(expected), "other losses: {}", label());
        assert_eq!(state.positions(), alone.positions(), "{}", label());
        assert!(contents(&state) == contents(&alone), "another state: {}", label());
    }
}

/// Any number of ranks and tokens, ranks without a token, many stretches for each, mitigations; and logits.
pub fn rings(ranks: &dyn Communicator) {
    for model in models() {
        same_losses(ranks, model, &Chain::default(), [1500, 300], 1);
    }
    let rest = [0, 1, 2];
    for model in rest.map(|index| &models()[index]) {
        for length in [0, 1, 256, 257, 1024] {
            same_losses(ranks, model, &Chain::default(), [length, 100], 16);
        }
        for spec in SPECS {
            let chain = spec.parse::<Mitigation>().unwrap().chain();
            if model.start(&chain, 1).is_ok() {
                same_losses(ranks, model, &chain, [1300, 10], 2);
            }
        }
        same_logits(ranks, model);
    }
}

/// Logits after the last and after all tokens of two sequences side by side.
fn same_logits(ranks: &dyn Communicator, model: &Model) {
    let ids = ids(model, 5, 2 * 700);
    for which in [Logits::Last, Logits::All] {
        let ring = Ring::new(ranks).with_segments(NonZeroUsize::MIN);
        let found = ring.logits(
            model,
            &ids,
            &mut model.start(&Chain::default(), 2).unwrap(),
            which,
        );
        let Some(found) = found.unwrap() else { continue };
        let mut alone = model.start(&Chain::default(), 2).unwrap();
        let expected = model.logits_batched(&ids, &mut alone, which).unwrap();
        assert_eq!(found.dims(), expected.dims());
        let values = |tensor: Tensor<3>| bits(tensor.into_data().iter::<f32>());
        assert!(
            values(found) == values(expected),
            "{} {which:?}",
            model.info().architecture
        );
    }
}

/// Every language model there is.
pub fn every_layout_in_a_ring(ranks: &dyn Communicator) {
    for model in language_layouts().filter_map(model) {
        same_losses(ranks, &model, &Chain::default(), [1030, 40], 1);
    }
}

/// Two orders of f32 additions of a few hundred tokens.
const REORDERED: f64 = 3e-6;

pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let difference: f64 = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let norm: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    (difference / norm.max(1e-30)).sqrt()
}

/// Read-outs of this rank's tokens, and the final state on the last rank, beside the definition over all tokens in one process.
pub fn recurrences(ranks: &dyn Communicator) {
    let values = |tensor: Tensor<4>| -> Vec<f32> { tensor.into_data().iter::<f32>().collect() };
    // With as few tokens some ranks have none.
    for time in [1usize, 4, 130] {
        for (name, gates) in all_gates(time, 31) {
            let start = || initial_state(&gates);
            let mut expected_state = start();
            let expected = recurrence(gates.clone(), &mut expected_state, Chunking::Sequential).unwrap();
            let mine = share(time, ranks.rank(), ranks.size());
            let mut state = start();
            let found =
                recurrence_by_scan(ranks, gates.slice(mine.clone()).unwrap(), &mut state, 16).unwrap();
            let label = format!("{name}, {time} tokens, rank {} of {}", ranks.rank(), ranks.size());
            if !mine.is_empty() {
                let expected = expected.narrow(1, mine.start, mine.len());
                let error = relative_error(&values(found), &values(expected));
                assert!(error < REORDERED, "{label}: read-outs differ by {error:e}");
            }
            if ranks.rank() + 1 == ranks.size() {
                assert_eq!(state.position, expected_state.position, "{label}");
                let error = relative_error(&values(state.memory), &values(expected_state.memory));
                assert!(error < REORDERED, "{label}: states differ by {error:e}");
            }
        }
    }
}

/// Diagnoses of the shipped model, left off once, beside the same in this process alone: losses, states and all that the
/// probe saw.
pub fn diagnoses(ranks: &dyn Communicator) {
    let model = Model::shipped(&LoadOptions::default()).unwrap();
    let ids = model.tokenizer().encode(spillway_models::shipped_text()).unwrap();
    let text = Text::new("the shipped text", ids).unwrap();
    let (train_length, length) = (64, 2000);
    let grid = Grid::new(train_length, length);
    let options = StreamOptions {
        length,
        train_length,
        long: Some(2),
        operations_per_token: model.info().flops_per_token,
        seed: None,
    };
    let streams = streams(&text, &options);
    let of = |spec: &str| Treatment::of(spec.parse::<Mitigation>().unwrap().chain());
    let treatments = [
        (Treatment::default(), Some(probe(train_length, length))),
        (Treatment::restart(64), None),
        (Treatment::restart(300), None),
        (of("window:64"), None),
    ];
    let reading = Reading {
        model: &model,
        text: &text,
        grid: &grid,
        threads: 1,
        ranks: None,
        watch: &|_| ControlFlow::Continue(()),
    };
    let breaking = |tokens: u64| match tokens {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    for (number, (treatment, probe)) in treatments.into_iter().enumerate() {
        let new = || diagnosis::run::Run::new("run", treatment.clone(), &streams, &grid, probe.clone());
        let tallies = |run: &diagnosis::run::Run| {
            let tallies = run.streams.iter().map(|stream| &stream.tally);
            tallies
                .map(|tally| serde_json::to_string(tally).unwrap())
                .collect::<Vec<_>>()
        };
        let mut found = new();
        let together = Reading {
            ranks: Some(ranks),
            ..reading
        };
        let left_off = Reading {
            watch: &breaking,
            ..together
        };
        found.go_on(&left_off).unwrap();
        found.go_on(&together).unwrap();
        if ranks.rank() > 0 {
            continue;
        }
        assert!(found.is_done(), "treatment {number}");
        let mut alone = new();
        alone.go_on(&reading).unwrap();
        for (found, expected) in tallies(&found).iter().zip(&tallies(&alone)) {
            assert!(
                found == expected,
                "treatment {number} on {} ranks:\n{found}\n{expected}",
                ranks.size()
            );
        }
    }
}
