//! The mixer of Based and of JRT-RNN against its sums written out, with an encoder and without, masked, decaying, and in every form.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_attention_linear::based::{TaylorAttention, TaylorAttentionConfig};
use spillway_ssm_core::{
    Chain, Chunking, Context, Mixer, MixerState, Padding, Prefix, PrefixMask, Shared, WeightMap,
};

const WIDTH: usize = 6;
const HEADS: usize = 2;
const KEYS: usize = 3;
const VALUES: usize = 4;
const BATCH: usize = 2;
const TIME: usize = 70;
const PREFIX: usize = 40;
/// Rows of padding before each prefix.
const PADS: [usize; BATCH] = [11, 0];

/// Reproducible values in [−1, 1).
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// One kind of mixer, and how its prefix is read.
#[derive(Clone, Copy, Debug)]
struct Case {
    encoder: bool,
    padding: Option<Padding>,
    decays: bool,
}

const CASES: [Case; 6] = [
    case(false, None, false),
    case(false, None, true),
    case(true, None, false),
    case(true, Some(Padding::Counted), false),
    case(true, Some(Padding::LeftOut), false),
    case(true, Some(Padding::LeftOut), true),
];

const fn case(encoder: bool, padding: Option<Padding>, decays: bool) -> Case {
    Case {
        encoder,
        padding,
        decays,
    }
}

const LOG_DECAY: [f32; HEADS] = [-0.3, -0.01];

impl Case {
    fn shapes(&self) -> Vec<(&'static str, [usize; 2])> {
        let (keys, values) = ([HEADS * KEYS, WIDTH], [HEADS * VALUES, WIDTH]);
        let mut shapes = vec![
            ("proj_q", keys),
            ("proj_k", keys),
            ("proj_v", values),
            ("out_proj", [WIDTH, HEADS * VALUES]),
        ];
        if self.encoder {
            shapes.extend([("proj_k_enc", keys), ("proj_v_enc", values)]);
        }
        if self.decays {
            shapes.push(("decay_proj", [HEADS, WIDTH]));
        }
        shapes
    }

    fn weights(&self) -> BTreeMap<&'static str, Vec<f32>> {
        let shapes = self.shapes().into_iter().enumerate();
        shapes
            .map(|(seed, (name, [rows, cols]))| (name, values(seed as u64 + 1, rows * cols)))
            .collect()
    }

    fn mixer(&self, device: &Device) -> TaylorAttention {
        let weights = self.weights();
        let tensors = self.shapes().into_iter().map(|(name, shape)| {
            let data = TensorData::new(weights[name].clone(), shape);
            (format!("{name}.weight"), data)
        });
        let mut source = WeightMap::new(tensors.collect(), device.clone());
        let config = TaylorAttentionConfig {
            model_dim: WIDTH,
            num_heads: HEADS,
            feature_dim: KEYS,
            head_dim: VALUES,
            eps: 1e-12,
            encoder_length: self.encoder.then_some(PREFIX),
        };
        let log_decay = self.decays.then(|| Tensor::from_floats(LOG_DECAY, device));
        let mixer = TaylorAttention::read(config, log_decay, &mut source).expect("all weights");
        source.expect_all_read().expect("no other weights");
        mixer
    }

    fn prefix(&self) -> Prefix {
        let Some(padding) = self.padding else {
            return Prefix::new(PREFIX);
        };
        let keep: Vec<bool> = PADS
            .into_iter()
            .flat_map(|pads| (0..PREFIX).map(move |at| at >= pads))
            .collect();
        Prefix::masked(PrefixMask::new(keep, PREFIX, padding).expect("whole rows"))
    }

    /// Whether a token counts as itself (1), with a key of 0 (0) or not at all.
    fn counts(&self, row: usize, at: usize) -> Option<f64> {
        let padded = at < PADS[row] && self.encoder;
        match self.padding {
            Some(Padding::Counted) if padded => Some(0.0),
            Some(Padding::LeftOut) if padded => None,
            _ => Some(1.0),
        }
    }

    /// Σ over pairs of tokens, in f64.
    fn definition(&self, input: &[f32]) -> Vec<f64> {
        let weights = self.weights();
        let project = |name: &str, x: &[f32], rows: usize| -> Vec<f64> {
            let matrix = &weights[name];
            let product = |row: usize| {
                let pairs = matrix[row * WIDTH..][..WIDTH].iter().zip(x);
                pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            (0..rows).map(product).collect()
        };
        let mut out = Vec::new();
        for row in 0..BATCH {
            let token = |at: usize| &input[(row * TIME + at) * WIDTH..][..WIDTH];
            for at in 0..TIME {
                let query = project("proj_q", token(at), HEADS * KEYS);
                let mut read = vec![0.0; HEADS * VALUES];
                for head in 0..HEADS {
                    let rate = if self.decays {
                        f64::from(LOG_DECAY[head])
                    } else {
                        0.0
                    };
                    let (mut sums, mut count) = ([0.0; VALUES], 0.0);
                    let mut add = |names: [&str; 2], other: usize, age: usize| {
                        let Some(scale) = self.counts(row, other) else {
                            return;
                        };
                        let key = project(names[0], token(other), HEADS * KEYS);
                        let value = project(names[1], token(other), HEADS * VALUES);
                        let of_head = head * KEYS..(head + 1) * KEYS;
                        let product: f64 = query[of_head.clone()]
                            .iter()
                            .zip(&key[of_head])
                            .map(|(q, k)| q * k)
                            .sum();
                        let x = scale * product / (KEYS as f64).sqrt();
                        let weight = 1.0 + x + x * x / 2.0;
                        count += weight;
                        let decayed = weight * (rate * age as f64).exp();
                        for (sum, v) in sums.iter_mut().zip(&value[head * VALUES..]) {
                            *sum += decayed * v;
                        }
                    };
                    (0..=at).for_each(|other| add(["proj_k", "proj_v"], other, at - other));
                    if self.encoder {
                        (0..PREFIX).for_each(|other| add(["proj_k_enc", "proj_v_enc"], other, at + 1));
                    }
                    let gain = match self.decays {
                        true => project("decay_proj", token(at), HEADS)[head],
                        false => 1.0,
                    };
                    for (read, sum) in read[head * VALUES..].iter_mut().zip(sums) {
                        *read = gain * sum / (count + 1e-12);
                    }
                }
                let matrix = &weights["out_proj"];
                out.extend((0..WIDTH).map(|channel| {
                    let pairs = matrix[channel * HEADS * VALUES..].iter().zip(&read);
                    pairs.map(|(a, b)| f64::from(*a) * b).sum::<f64>()
                }));
            }
        }
        out
    }
}

/// The mixer's output over calls of these lengths and one of the rest, and the state that it leaves.
fn run(
    case: Case,
    device: &Device,
    input: &[f32],
    chunking: Chunking,
    calls: &[usize],
) -> (Vec<f32>, MixerState) {
    let (mixer, chain) = (case.mixer(device), Chain::default());
    let mut state = mixer.start(0, BATCH, &chain, device);
    let input: Tensor<3> = Tensor::from_data(TensorData::new(input.to_vec(), [BATCH, TIME, WIDTH]), device);
    let prefix = case.prefix();
    let (mut parts, mut at) = (Vec::new(), 0);
    for count in calls.iter().copied().chain([usize::MAX]) {
        let count = count.min(TIME - at);
        let positions = [at as u64; BATCH];
        let mut context = Context {
            chain: &chain,
            layer: 0,
            chunking,
            positions: &positions,
            lengths: None,
            prefix: Some(&prefix).filter(|_| at == 0),
            shared: &mut Shared::default(),
        };
        let part = input.clone().narrow(1, at, count);
        if count > 0 {
            parts.push(mixer.forward(part, &mut state, &mut context).expect("it fits"));
        }
        at += count;
    }
    let out = Tensor::cat(parts, 1).into_data();
    (out.iter::<f32>().collect(), state)
}

fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let off: f64 = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f64::from(*f) - e).powi(2))
        .sum();
    (off / expected.iter().map(|e| e * e).sum::<f64>()).sqrt()
}

#[test]
fn the_taylor_mixer_is_its_sums_over_pairs_of_tokens_in_every_form() {
    let input = values(99, BATCH * TIME * WIDTH);
    for (name, device) in super::devices::devices() {
        for case in CASES {
            let expected = case.definition(&input);
            let forms: &[(Chunking, &[usize])] = &[
                (Chunking::Fastest, &[]),
                (Chunking::Fastest, &[PREFIX, 1, 1, 20]),
                (Chunking::Sequential, &[PREFIX]),
                (Chunking::Chunked { chunk_size: 16 }, &[]),
            ];
            let forms = if name == "flex" { forms } else { &forms[..2] };
            let mut states = Vec::new();
            for (chunking, calls) in forms {
                let (found, state) = run(case, &device, &input, *chunking, calls);
                let error = relative_error(&found, &expected);
                assert!(
                    error <= 1e-5,
                    "{case:?}, {chunking:?}, {calls:?} on {name}: {error:e}"
                );
                let entries = state.save().into_values();
                states.push(
                    entries
                        .flat_map(|data| data.iter::<f32>().collect::<Vec<_>>())
                        .collect::<Vec<_>>(),
                );
            }
            let first: Vec<f64> = states[0].iter().map(|x| f64::from(*x)).collect();
            for state in &states {
                let error = relative_error(state, &first);
                assert!(error <= 1e-5, "{case:?} on {name}: states differ by {error:e}");
            }
        }
    }
}

#[test]
fn an_encoder_that_reads_nothing_is_none() {
    let input = values(99, BATCH * TIME * WIDTH);
    let device = Device::flex();
    let (mixer, chain) = (case(true, None, false).mixer(&device), Chain::default());
    assert_eq!(mixer.encoder_length(), PREFIX);
    let input: Tensor<3> = Tensor::from_data(TensorData::new(input, [BATCH, TIME, WIDTH]), &device);
    let with = |prefix: Option<&Prefix>| {
        let mut state = mixer.start(0, BATCH, &chain, &device);
        let mut context = Context {
            chain: &chain,
            layer: 0,
            chunking: Chunking::Fastest,
            positions: &[0; BATCH],
            lengths: None,
            prefix,
            shared: &mut Shared::default(),
        };
        let out = mixer.forward(input.clone(), &mut state, &mut context);
        out.map(|out| out.into_data().iter::<f32>().collect::<Vec<_>>())
    };
    assert_eq!(
        with(None).expect("causal"),
        with(Some(&Prefix::new(0))).expect("causal")
    );
    let error = with(Some(&Prefix::new(TIME + 1))).expect_err("longer than the call");
    assert!(error.to_string().contains("prefix"), "{error}");
}
