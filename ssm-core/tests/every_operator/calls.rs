//! Operators as maps from flat inputs to flat outputs, one call of each, and what is drawn for them.

use super::devices::tensor;
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::causal_conv1d::Activation;
use spillway_ssm_core::operators::linear_state_space::{LinearSystem, Rule, Spectrum, linear_state_space};
use spillway_ssm_core::operators::long_convolution::{Later, Method};
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::operators::pointwise::gelu;
use spillway_ssm_core::operators::taylor_attention::Expansion;
use spillway_ssm_core::operators::vandermonde::{Discretization, ModeSet};
use spillway_ssm_core::operators::{
    AxisKernel, DiagonalPlan, DiagonalSystem, LongConvolutionInputs, LowRankSystem, Pairing, RotaryPlan,
    ScanInputs, TaylorInputs, TaylorPlan, TaylorPrefix, add_rms_norm, cauchy_kernel, cauchy_response,
    causal_conv1d, cross_entropy, gated_norm, long_convolution, long_convolution_nd, long_convolution_piece,
    rotary, selective_scan, split, split_to_heads, step_size, taylor_attention, vandermonde_kernel,
    vandermonde_response, wkv4, wkv4_state,
};
use spillway_ssm_core::{
    Chunking, Erase, Gates, Linear, LogDecay, Sequences, State, recurrence, recurrence_of_sequences,
};

/// Reproducible values in [−1, 1).
pub struct Values(pub u64);

impl Values {
    pub fn list(&mut self, len: usize) -> Vec<f32> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }
}

/// The inputs of one call, flat, in the order in which an operator asks for them.
pub struct Leaves {
    pub device: Device,
    /// What there is of them; further ones are drawn.
    pub given: Vec<Vec<f32>>,
    /// Those that were asked for.
    pub leaves: Vec<Tensor<1>>,
    random: Values,
}

impl Leaves {
    pub fn new(given: Vec<Vec<f32>>, device: Device) -> Self {
        Self {
            device,
            given,
            leaves: Vec::new(),
            random: Values(11),
        }
    }

    fn next<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        let len = shape.iter().product();
        let index = self.leaves.len();
        if index == self.given.len() {
            self.given.push(self.random.list(len));
        }
        let leaf = tensor(&self.given[index], [len], &self.device);
        let leaf = match self.device.is_autodiff() {
            true => leaf.require_grad(),
            false => leaf,
        };
        self.leaves.push(leaf.clone());
        leaf.reshape(shape)
    }
}

/// An operator as a map from leaves to its outputs, each flattened.
pub type Call = fn(&mut Leaves) -> Vec<Tensor<1>>;

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let len = tensor.shape().num_elements();
    tensor.reshape([len])
}

const SEQUENCES: [usize; 4] = [0, 3, 3, 8];

fn packed() -> Sequences {
    Sequences::packed(SEQUENCES)
}

/// Rates that decay, `[copies, modes, 2]`.
fn rates(leaves: &mut Leaves) -> Tensor<3> {
    let damping = leaves.next([2, 3, 1]).abs().add_scalar(0.5).neg();
    let frequency = leaves.next([2, 3, 1]).mul_scalar(3.0);
    Tensor::cat(vec![damping, frequency], 2)
}

pub const CALLS: [(&str, Call); 26] = [
    ("linear_state_space", |leaves| {
        let system = LinearSystem {
            step_size: leaves.next([4]).abs().add_scalar(0.2),
            a: rates(leaves),
            b: leaves.next([2, 3, 2]),
            c: leaves.next([2, 4, 3, 2]),
            low_rank: Some(leaves.next([1, 2, 3, 2])),
            skip: Some(leaves.next([2, 4])),
            rule: Rule::Bilinear,
            spectrum: Spectrum::ConjugatePairs,
        };
        let (input, mut state) = (leaves.next([2, 5, 4]), leaves.next([2, 4, 3, 2]));
        let out = linear_state_space(input, &system, &mut state).expect("shapes that fit");
        vec![flat(out), flat(state)]
    }),
    ("linear_state_space of a diagonal", |leaves| {
        let system = LinearSystem {
            step_size: leaves.next([4]).abs().add_scalar(0.2),
            a: rates(leaves),
            b: leaves.next([2, 3, 2]),
            c: leaves.next([1, 4, 3, 2]),
            low_rank: None,
            skip: None,
            rule: Rule::ZeroOrderHold,
            spectrum: Spectrum::Complete,
        };
        let (input, mut state) = (leaves.next([1, 7, 4]), leaves.next([1, 4, 3, 2]));
        let out = linear_state_space(input, &system, &mut state).expect("shapes that fit");
        vec![flat(out), flat(state)]
    }),
    ("vandermonde_kernel", |leaves| {
        let plan = DiagonalPlan {
            length: 9,
            discretization: Discretization::Bilinear,
            mode_set: ModeSet::ConjugatePairs,
        };
        let system = DiagonalSystem {
            step: leaves.next([4, 1]).abs().add_scalar(0.2),
            a: rates(leaves),
            b: leaves.next([2, 3, 2]),
            c: leaves.next([2, 4, 3, 2]),
        };
        vec![flat(vandermonde_kernel(system, &plan).expect("shapes that fit"))]
    }),
    ("vandermonde_response", |leaves| {
        let plan = DiagonalPlan {
            length: 5,
            discretization: Discretization::ZeroOrderHold,
            mode_set: ModeSet::All,
        };
        let system = DiagonalSystem {
            step: leaves.next([4, 3]).abs().add_scalar(0.2),
            a: rates(leaves),
            b: leaves.next([2, 3, 2]),
            c: leaves.next([1, 4, 3, 2]),
        };
        let (state, signal) = (leaves.next([2, 4, 3, 2]), leaves.next([2, 4, 5]));
        let found = vandermonde_response(system, state, signal, &plan).expect("shapes that fit");
        vec![
            flat(found.kernel),
            flat(found.state_kernel),
            flat(found.next_state),
        ]
    }),
    ("cauchy_kernel", |leaves| {
        let system = LowRankSystem {
            step: leaves.next([4]).abs().add_scalar(0.3),
            a: rates(leaves),
            b: leaves.next([2, 3, 2]),
            p: leaves.next([1, 2, 3, 2]),
            c: leaves.next([2, 4, 3, 2]),
            nodes: 10,
        };
        vec![flat(cauchy_kernel(system, 9).expect("shapes that fit"))]
    }),
    ("cauchy_response", |leaves| {
        let system = LowRankSystem {
            step: leaves.next([4]).abs().add_scalar(0.3),
            a: rates(leaves),
            b: leaves.next([2, 3, 2]),
            p: leaves.next([2, 2, 3, 2]),
            c: leaves.next([1, 4, 3, 2]),
            nodes: 7,
        };
        let state = leaves.next([2, 4, 3, 2]);
        let (kernel, response) = cauchy_response(system, state, 7).expect("shapes that fit");
        vec![flat(kernel), flat(response)]
    }),
    ("causal_conv1d", |leaves| {
        let (input, weight) = (leaves.next([1, 8, 5]), leaves.next([5, 4]));
        let (bias, mut state) = (leaves.next([5]), leaves.next([3, 5, 3]));
        let out = causal_conv1d(input, weight, Some(bias), Activation::Silu, &packed(), &mut state);
        vec![flat(out.expect("shapes that fit")), flat(state)]
    }),
    ("long_convolution", |leaves| {
        let inputs = LongConvolutionInputs {
            input: leaves.next([2, 9, 3]),
            kernel: leaves.next([2, 3, 12]),
            later_kernel: Some((Later::Next, leaves.next([2, 3, 12]))),
            skip: Some(leaves.next([2, 3])),
            response: Some(leaves.next([2, 9, 6])),
        };
        vec![flat(
            long_convolution(inputs, Method::Fourier).expect("shapes that fit"),
        )]
    }),
    ("long_convolution_piece", |leaves| {
        let inputs = LongConvolutionInputs {
            input: leaves.next([2, 5, 3]),
            kernel: leaves.next([1, 3, 7]),
            later_kernel: None,
            skip: Some(leaves.next([1, 3])),
            response: None,
        };
        let mut tail = leaves.next([2, 6, 3]);
        let out = long_convolution_piece(inputs, Method::Auto, &mut tail).expect("shapes that fit");
        vec![flat(out), flat(tail)]
    }),
    ("long_convolution_nd", |leaves| {
        let input = leaves.next([2, 15, 3]);
        let axis = |size, kernel, later_kernel| AxisKernel {
            size,
            kernel,
            later_kernel,
        };
        let axes = vec![
            axis(5, leaves.next([2, 2, 3, 4]), Some(leaves.next([2, 2, 3, 6]))),
            axis(3, leaves.next([2, 2, 3, 3]), None),
        ];
        let skip = Some(leaves.next([2, 3]));
        let found = long_convolution_nd(input, axes, skip, Default::default());
        vec![flat(found.expect("shapes that fit"))]
    }),
    ("gated RMSNorm", |leaves| {
        let plan = NormPlan {
            statistic: Statistic::MeanSquare,
            eps: 1e-3,
            group_size: 3,
            order: GateOrder::NormAfterGate,
        };
        let input = leaves.next([2, 3, 6]);
        let weights = NormWeights {
            gate: Some(leaves.next([2, 3, 6])),
            weight: Some(leaves.next([6])),
            bias: None,
        };
        vec![flat(gated_norm(input, weights, plan).expect("shapes that fit"))]
    }),
    ("LayerNorm of heads", |leaves| {
        let plan = NormPlan {
            statistic: Statistic::Variance,
            eps: 1e-2,
            group_size: 4,
            order: GateOrder::NormBeforeGate,
        };
        let input = leaves.next([1, 3, 8]);
        let weights = NormWeights {
            gate: None,
            weight: Some(leaves.next([8])),
            bias: Some(leaves.next([8])),
        };
        vec![flat(gated_norm(input, weights, plan).expect("shapes that fit"))]
    }),
    ("add_rms_norm", |leaves| {
        let (residual, x) = (leaves.next([2, 3, 6]), leaves.next([2, 3, 6]));
        let (sum, normed) = add_rms_norm(residual, Some(x), leaves.next([6]), 1e-3).expect("shapes that fit");
        vec![flat(sum), flat(normed)]
    }),
    ("step_size", |leaves| {
        let (raw, bias, a_log) = (leaves.next([2, 4, 3]), leaves.next([3]), leaves.next([3]));
        let (step, decay) = step_size(raw, bias, a_log, (0.0, 10.0)).expect("shapes that fit");
        vec![flat(step), flat(decay)]
    }),
    ("GELU", |leaves| {
        let input = leaves.next([2, 3, 6]).mul_scalar(3.0);
        vec![flat(gelu(input))]
    }),
    ("rotary", |leaves| {
        let plan = RotaryPlan {
            base: 100.0,
            rotated_dim: 4,
            pairing: Pairing::Halves,
            scaling: None,
        };
        // Heads inside wider rows, as a projection leaves them.
        let heads = leaves.next([2, 3, 4, 6]).narrow(2, 1, 2);
        vec![flat(rotary(heads, &[5, 0], &plan).expect("shapes that fit"))]
    }),
    ("selective_scan", |leaves| {
        let inputs = ScanInputs {
            input: leaves.next([2, 6, 4]),
            step_size: leaves.next([2, 6, 4]).abs(),
            a: leaves.next([4, 3]).abs().neg(),
            b: leaves.next([2, 6, 2, 3]),
            c: leaves.next([2, 6, 2, 3]),
            skip: Some(leaves.next([4])),
            gate: Some(leaves.next([2, 6, 4])),
        };
        let mut state = leaves.next([2, 4, 3]);
        let padded = Sequences::left_padded([2, 0]);
        let out = selective_scan(inputs, &padded, &mut state).expect("shapes that fit");
        vec![flat(out), flat(state)]
    }),
    ("wkv4", |leaves| {
        let (decay, bonus) = (leaves.next([5]).abs().neg(), leaves.next([5]));
        let (key, value) = (leaves.next([2, 6, 5]), leaves.next([2, 6, 5]));
        let mut state = wkv4_state(2, 5, &leaves.device);
        let out = wkv4(decay, bonus, key, value, &Sequences::Equal, &mut state).expect("shapes that fit");
        vec![flat(out)]
    }),
    ("delta rule", |leaves| {
        let (query, key) = (
            leaves.next([2, 6, 1, 4]),
            leaves.next([2, 6, 1, 4]).mul_scalar(0.5),
        );
        let gates = Gates {
            erase: Erase::Delta(leaves.next([2, 6, 2]).abs()),
            log_decay: LogDecay::PerHeadToken(leaves.next([2, 6, 2]).abs().neg()),
            scale: 0.5,
            ..Gates::new(query, key, leaves.next([2, 6, 2, 3]))
        };
        let mut state = State {
            memory: leaves.next([2, 2, 4, 3]),
            position: 0,
        };
        let out = recurrence(gates, &mut state, Chunking::Fastest).expect("shapes that fit");
        vec![flat(out), flat(state.memory)]
    }),
    ("low-rank delta rule", |leaves| {
        let (query, key) = (leaves.next([1, 8, 2, 4]), leaves.next([1, 8, 2, 4]));
        let gates = Gates {
            erase: Erase::LowRank {
                p: leaves.next([1, 8, 2, 4]).mul_scalar(0.5),
                b: leaves.next([1, 8, 2, 4]).mul_scalar(0.5),
            },
            log_decay: LogDecay::PerKeyToken(leaves.next([1, 8, 2, 4]).abs().neg()),
            ..Gates::new(query, key, leaves.next([1, 8, 2, 3]))
        };
        let mut state = State {
            memory: leaves.next([3, 2, 4, 3]),
            position: 0,
        };
        let out = recurrence_of_sequences(gates, &packed(), &mut state, Chunking::Fastest);
        vec![flat(out.expect("shapes that fit")), flat(state.memory)]
    }),
    ("Taylor attention", |leaves| {
        let plan = TaylorPlan {
            scale: 0.5,
            expansion: Expansion::Taylor,
            normalizer: Some(1e-3),
        };
        let (query, key) = (leaves.next([2, 6, 2, 3]), leaves.next([2, 6, 2, 3]));
        let value = leaves.next([2, 6, 2, 4]);
        let [features, columns] = plan.state_shape(3, 4);
        let mut state = State {
            memory: leaves.next([2, 2, features, columns]).abs(),
            position: 0,
        };
        let padded = Sequences::left_padded([0, 2]);
        let inputs = TaylorInputs::new(query, key, value);
        let out = taylor_attention(inputs, plan, &padded, &mut state);
        vec![flat(out.expect("shapes that fit")), flat(state.memory)]
    }),
    ("Taylor attention behind a prefix", |leaves| {
        let plan = TaylorPlan {
            scale: 0.5,
            expansion: Expansion::Taylor,
            normalizer: Some(1e-3),
        };
        let (query, key) = (leaves.next([2, 6, 2, 3]), leaves.next([2, 6, 2, 3]));
        let inputs = TaylorInputs {
            prefix: Some(TaylorPrefix {
                key: leaves.next([2, 5, 2, 3]),
                value: leaves.next([2, 5, 2, 4]),
                padding: Some([0, 2].into()),
            }),
            log_decay: Some(-leaves.next([2]).abs()),
            ..TaylorInputs::new(query, key, leaves.next([2, 6, 2, 4]))
        };
        let [features, columns] = plan.state_shape(3, 4);
        let mut state = State {
            memory: leaves.next([2, 2, features, columns]).abs(),
            position: 0,
        };
        let out = taylor_attention(inputs, plan, &Sequences::Equal, &mut state);
        vec![flat(out.expect("shapes that fit")), flat(state.memory)]
    }),
    ("cross_entropy", |leaves| {
        let logits = leaves.next([3, 6]);
        let loss = cross_entropy(logits, [1u32, 0, 4].into(), 5).expect("targets that exist");
        vec![loss]
    }),
    ("linear", |leaves| {
        let (weight, bias) = (leaves.next([5, 4]), leaves.next([5]));
        let linear = Linear::new(weight, Some(bias)).expect("shapes that fit");
        vec![flat(
            linear.forward(leaves.next([2, 3, 4])).expect("shapes that fit"),
        )]
    }),
    ("split", |leaves| {
        // Squares, because the gradient of a sum would not tell where its values came from.
        let parts = split(leaves.next([2, 3, 7]), [2, 4, 1]).expect("widths that fit");
        parts.map(|part| flat(part.clone() * part)).into()
    }),
    ("split to heads", |leaves| {
        let parts = split_to_heads(leaves.next([2, 3, 10]), [(2, 3), (1, 4)]).expect("widths that fit");
        // Heads before tokens, so that the cotangents are not rows one after the other.
        let parts = parts.map(|part| part.swap_dims(1, 2));
        parts.map(|part| flat(part.clone() * part)).into()
    }),
];
