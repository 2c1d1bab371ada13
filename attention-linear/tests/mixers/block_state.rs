//! The layer of the Block-State Transformer against its equations in f64, in any pieces, with structured kernels and free ones.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_attention_linear::block_attention::{BlockAttention, BlockAttentionConfig};
use spillway_attention_linear::block_state::{BlockState, BlockStateConfig, Contexts};
use spillway_attention_linear::mlp::{Mlp, MlpActivation, MlpConfig};
use spillway_ssm_core::channel_filter::FilterKind;
use spillway_ssm_core::operators::gated_norm;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::state_space::init::StepRange;
use spillway_ssm_core::{
    Chain, Chunking, Context, Error, Init, Linear, Mixer, MixerState, Result, Shared, WeightMap, WeightSource,
};

use super::devices::devices;
use super::support::{Case, cases};
use super::tape::Tape;

/// The inputs of a case as weights that gradients are wanted of.
struct Weights<'t, 'c>(&'t mut Tape<'c>);

impl WeightSource for Weights<'_, '_> {
    type Error = Error;

    fn linear_with(&mut self, name: &str, shape: [usize; 2], bias: bool, _: Init) -> Result<Linear> {
        self.stacked(&[(name, shape[0])], shape[1], bias)
    }

    fn stacked(&mut self, parts: &[(&str, usize)], in_features: usize, bias: bool) -> Result<Linear> {
        let rows = parts
            .iter()
            .map(|(name, rows)| self.0.input::<2>(&format!("{name}.weight"), [*rows, in_features]));
        let rows = Tensor::cat(rows.collect(), 0);
        let biases = parts
            .iter()
            .filter(|_| bias)
            .map(|(name, rows)| self.0.input::<1>(&format!("{name}.bias"), [*rows]));
        let biases: Vec<Tensor<1>> = biases.collect();
        Linear::new(rows, bias.then(|| Tensor::cat(biases, 0)))
    }

    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D], _: Init) -> Result<Tensor<D>> {
        Ok(self.0.input(name, shape))
    }
}

fn config(case: &Case) -> BlockStateConfig {
    let count = case.scalar("S") as usize;
    BlockStateConfig {
        model_dim: case.dim("D"),
        num_heads: case.scalar("heads") as usize,
        window: case.scalar("window") as usize,
        contexts: match case.text("kind") {
            Some("SH") => Contexts::SingleHead,
            Some("MH") => Contexts::MultiHead(count),
            Some("MF") => Contexts::MultiFilter(count),
            other => panic!("{}: {other:?}", case.name),
        },
        filter: FilterKind::StateSpace {
            state_dim: case.dim("N"),
            steps: StepRange::default(),
        },
    }
}

fn norm<S: WeightSource<Error = Error>>(name: &str, x: Tensor<3>, source: &mut S) -> Tensor<3> {
    let width = x.dims()[2];
    let plan = NormPlan {
        statistic: Statistic::Variance,
        eps: 1e-5,
        group_size: width,
        order: GateOrder::NormAfterGate,
    };
    let mut vector = |part: &str| source.vector(&format!("{name}.{part}"), width, Init::Ones);
    let weights = NormWeights {
        gate: None,
        weight: Some(vector("weight").expect("a weight")),
        bias: Some(vector("bias").expect("a bias")),
    };
    gated_norm(x, weights, plan).expect("it fits")
}

/// `[batch, time, width]` through a mixer in pieces of these lengths.
fn run(mixer: &dyn Mixer, input: &Tensor<3>, pieces: &[usize]) -> (Tensor<3>, MixerState) {
    let [batch, ..] = input.dims();
    let mut state = mixer.start(0, batch, &Chain::default(), &input.device());
    let found = go_on(mixer, input, &mut state, &vec![0; batch], pieces);
    (found, state)
}

fn go_on(
    mixer: &dyn Mixer,
    input: &Tensor<3>,
    state: &mut MixerState,
    positions: &[u64],
    pieces: &[usize],
) -> Tensor<3> {
    let (chain, mut shared) = (Chain::default(), Shared::default());
    let (mut first, mut found) = (0, Vec::new());
    for &length in pieces {
        let positions: Vec<u64> = positions.iter().map(|position| position + first as u64).collect();
        let mut context = Context {
            chain: &chain,
            layer: 0,
            chunking: Chunking::Fastest,
            positions: &positions,
            lengths: None,
            prefix: None,
            shared: &mut shared,
        };
        let piece = input.clone().narrow(1, first, length);
        found.push(mixer.forward(piece, state, &mut context).expect("it fits"));
        first += length;
    }
    Tensor::cat(found, 1)
}

/// The whole layer: x + mixer(norm(x)), and an MLP after it.
fn layer<S: WeightSource<Error = Error>>(
    case: &Case,
    x: Tensor<3>,
    pieces: &[usize],
    source: &mut S,
) -> Tensor<3> {
    let width = case.dim("D");
    let normed = norm("ln1", x.clone(), source);
    let mixer = BlockState::read(config(case), source).expect("the weights fit");
    let x = x + run(&mixer, &normed, pieces).0;
    let mlp = MlpConfig {
        model_dim: width,
        hidden_dim: 4 * width,
        activation: MlpActivation::Gelu,
        bias: true,
    };
    let normed = norm("ln2", x.clone(), source);
    let mlp = Mlp::read(mlp, source).expect("the weights fit");
    x + mlp.apply(normed).expect("it fits")
}

/// On devices one case, as a whole: kernels for further shapes take a software adapter a minute.
#[test]
fn golden_block_state_layers_in_any_pieces_with_gradients() {
    for (name, device) in devices() {
        let on_the_host = name == "flex";
        let compared = if on_the_host { usize::MAX } else { 1 };
        for case in cases("bst_layer").into_iter().take(compared) {
            let [batch, time, width] = ["B", "L", "D"].map(|name| case.dim(name));
            let mut pieces = vec![vec![time]];
            if on_the_host {
                pieces.extend([vec![1; time], vec![3, time - 4, 1], vec![1, 7, time - 8]]);
            }
            for pieces in pieces {
                let mut tape = Tape::new(&case, &format!("{pieces:?} on {name}"), &device);
                let x = tape.input("x", [batch, time, width]);
                let found = layer(&case, x, &pieces, &mut Weights(&mut tape));
                tape.output("y", found);
                tape.finish();
            }
        }
    }
}

/// Reproducible values in [−1, 1).
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A source that draws what it is asked for.
struct Drawn(u64);

impl WeightSource for Drawn {
    type Error = Error;

    fn linear_with(&mut self, name: &str, shape: [usize; 2], bias: bool, _: Init) -> Result<Linear> {
        self.stacked(&[(name, shape[0])], shape[1], bias)
    }

    fn stacked(&mut self, parts: &[(&str, usize)], in_features: usize, _bias: bool) -> Result<Linear> {
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        let weight: Tensor<2> = self.tensor("", [rows, in_features], Init::Zeros)?;
        Linear::new(weight, None)
    }

    fn tensor<const D: usize>(&mut self, _: &str, shape: [usize; D], _: Init) -> Result<Tensor<D>> {
        self.0 += 1;
        let values = numbers(self.0, shape.iter().product());
        Ok(Tensor::from_data(TensorData::new(values, shape), &Device::flex()))
    }
}

const WIDTH: usize = 6;
const HEADS: usize = 2;
const WINDOW: usize = 4;
const TIME: usize = 19;

fn mixers() -> Vec<(String, Box<dyn Mixer>)> {
    let state_space = FilterKind::StateSpace {
        state_dim: 4,
        steps: StepRange::default(),
    };
    let kinds = [
        (Contexts::SingleHead, state_space),
        (Contexts::SingleHead, FilterKind::Free(7)),
        (Contexts::MultiHead(3), FilterKind::Free(1)),
        (Contexts::MultiHead(2), state_space),
        (Contexts::MultiFilter(3), FilterKind::Free(5)),
        (Contexts::MultiFilter(2), state_space),
    ];
    let of_states = kinds.map(|(contexts, filter)| {
        let config = BlockStateConfig {
            model_dim: WIDTH,
            num_heads: HEADS,
            window: WINDOW,
            contexts,
            filter,
        };
        let mixer: Box<dyn Mixer> = Box::new(BlockState::read(config, &mut Drawn(1)).expect("it fits"));
        (format!("{contexts:?} {filter:?}"), mixer)
    });
    let config = BlockAttentionConfig {
        model_dim: WIDTH,
        num_heads: HEADS,
        window: WINDOW,
        rotary: None,
    };
    let plain: Box<dyn Mixer> = Box::new(BlockAttention::read(config, &mut Drawn(2)).expect("it fits"));
    of_states
        .into_iter()
        .chain([("attention".to_string(), plain)])
        .collect()
}

fn input(seed: u64, batch: usize, time: usize) -> Tensor<3> {
    let data = TensorData::new(numbers(seed, batch * time * WIDTH), [batch, time, WIDTH]);
    Tensor::from_data(data, &Device::flex())
}

fn values(tensor: Tensor<3>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn close(what: &str, found: Tensor<3>, expected: Tensor<3>) {
    let (found, expected) = (values(found), values(expected));
    assert_eq!(found.len(), expected.len(), "{what}");
    let off = found
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    let size = expected.iter().map(|value| value.abs()).fold(1.0, f32::max);
    assert!(off < 3e-6 * size, "{what}: off by {off:e} of {size}");
}

#[test]
fn pieces_of_any_lengths_give_the_whole() {
    for (name, mixer) in mixers() {
        let x = input(5, 2, TIME);
        let (expected, _) = run(mixer.as_ref(), &x, &[TIME]);
        for pieces in [
            vec![1; TIME],
            vec![4, 4, 11],
            vec![2, 1, 9, 7],
            vec![13, 6],
            vec![3, 1, 15],
        ] {
            let (found, _) = run(mixer.as_ref(), &x, &pieces);
            close(&format!("{name} {pieces:?}"), found, expected.clone());
        }
    }
}

#[test]
fn a_token_reads_nothing_that_comes_later_and_its_own_block_only_where_nothing_else_is_carried() {
    for (name, mixer) in mixers() {
        let x = input(5, 1, TIME);
        let (expected, _) = run(mixer.as_ref(), &x, &[TIME]);
        for changed in [0, 5, 9, TIME - 1] {
            let before = x.clone().narrow(1, 0, TIME);
            let other = input(6, 1, 1);
            let x = before.slice_assign([0..1, changed..changed + 1, 0..WIDTH], other);
            let (found, _) = run(mixer.as_ref(), &x, &[TIME]);
            let off = values((found - expected.clone()).abs().max_dim(2));
            for (t, off) in off.into_iter().enumerate() {
                let same_block = t / WINDOW == changed / WINDOW && t >= changed;
                if same_block {
                    assert!(off > 1e-6, "{name}: {t} does not see {changed}");
                } else if t < changed || name == "attention" {
                    assert!(off < 1e-6, "{name}: {t} sees {changed}: {off:e}");
                }
            }
        }
    }
}

#[test]
fn sequences_at_different_places_of_their_blocks_go_on_as_if_alone() {
    for (name, mixer) in mixers() {
        let (read, lengths) = (input(7, 3, 9), [9, 5, 6]);
        let alone: Vec<(Tensor<3>, MixerState)> = lengths
            .iter()
            .enumerate()
            .map(|(row, length)| {
                let own = read.clone().narrow(0, row, 1).narrow(1, 0, *length);
                run(mixer.as_ref(), &own, &[*length])
            })
            .collect();
        let states: Vec<&MixerState> = alone.iter().map(|(_, state)| state).collect();
        let mut joined = MixerState::cat(&states).expect("of one mixer");
        let positions = lengths.map(|length| length as u64);
        let next = input(8, 3, 6);
        let found = go_on(mixer.as_ref(), &next, &mut joined, &positions, &[1, 5]);
        for (row, (_, mut state)) in alone.into_iter().enumerate() {
            let own = next.clone().narrow(0, row, 1);
            let expected = go_on(mixer.as_ref(), &own, &mut state, &positions[row..=row], &[6]);
            close(
                &format!("{name}, sequence {row}"),
                found.clone().narrow(0, row, 1),
                expected,
            );
        }
    }
}

#[test]
fn a_layer_is_read_by_name_and_shape_and_refuses_what_does_not_fit() {
    let good = BlockStateConfig {
        model_dim: WIDTH,
        num_heads: HEADS,
        window: WINDOW,
        contexts: Contexts::MultiFilter(2),
        filter: FilterKind::Free(3),
    };
    let refused = |config: BlockStateConfig| {
        let mut nothing = WeightMap::new(BTreeMap::new(), Device::flex());
        let error = BlockState::read(config, &mut nothing).expect_err("refused");
        error.to_string()
    };
    assert!(refused(good).contains("q.weight is missing"));
    let wrong = [
        BlockStateConfig { num_heads: 4, ..good },
        BlockStateConfig { window: 0, ..good },
        BlockStateConfig {
            contexts: Contexts::MultiHead(0),
            ..good
        },
        BlockStateConfig {
            model_dim: 3,
            num_heads: 1,
            ..good
        },
    ];
    for config in wrong {
        let error = refused(config);
        assert!(error.contains("block-state layer"), "{config:?}: {error}");
    }
}
