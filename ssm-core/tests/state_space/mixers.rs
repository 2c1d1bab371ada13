//! Mixers of golden cases: their weights as constants or as leaves of a graph, runs in pieces, and comparisons.

use std::collections::BTreeMap;

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use spillway_ssm_core::{
    Chain, Chunking, Context, Error, Init, Linear, Mixer, MixerState, Result, Shared, WeightMap, WeightSource,
};

use super::support::Case;

/// How many times the error of the peer's own f32 code is allowed.
const OF_THE_PEER: f64 = 10.0;

pub fn data(case: &Case, name: &str) -> TensorData {
    let values: Vec<f32> = case.tensor(name).iter().map(|x| *x as f32).collect();
    TensorData::new(values, case.shape(name).to_vec())
}

/// The tensors of a case by the names of a mixer: pairs of its name and the case's.
fn tensors(case: &Case, names: &[(&str, &str)]) -> BTreeMap<String, TensorData> {
    let given = names
        .iter()
        .filter(|(_, theirs)| case.if_any(&format!("in.{theirs}")).is_some());
    given
        .map(|(own, theirs)| (own.to_string(), data(case, &format!("in.{theirs}"))))
        .collect()
}

/// The weights of a case as constants.
pub fn weights(case: &Case, names: &[(&str, &str)]) -> WeightMap {
    WeightMap::new(tensors(case, names), Device::flex())
}

/// Weights that gradients are wanted of.
pub struct Leaves {
    tensors: BTreeMap<String, (Vec<usize>, Tensor<1>)>,
}

impl Leaves {
    /// The weights of a case.
    pub fn new(case: &Case, names: &[(&str, &str)]) -> Self {
        Self::of(tensors(case, names))
    }

    pub fn of(tensors: BTreeMap<String, TensorData>) -> Self {
        let leaf = |(name, data): (String, TensorData)| (name, (data.shape().to_vec(), leaf_of(data)));
        Self {
            tensors: tensors.into_iter().map(leaf).collect(),
        }
    }

    /// The gradient of a weight; nothing for one that there is not.
    pub fn gradient(&self, name: &str, gradients: &mut Gradients) -> Option<Vec<f32>> {
        let (_, leaf) = self.tensors.get(name)?;
        Some(gradient(leaf, gradients))
    }
}

/// Values one after another as a leaf of a graph.
pub fn leaf_of(data: TensorData) -> Tensor<1> {
    let values: Vec<f32> = data.iter::<f32>().collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &Device::flex().autodiff()).require_grad()
}

/// The gradient of a leaf; zeros where none has arrived.
pub fn gradient(leaf: &Tensor<1>, gradients: &mut Gradients) -> Vec<f32> {
    match leaf.grad_remove(gradients) {
        Some(gradient) => values(gradient),
        None => vec![0.0; leaf.dims()[0]],
    }
}

impl WeightSource for Leaves {
    type Error = Error;

    fn linear_with(&mut self, name: &str, shape: [usize; 2], bias: bool, init: Init) -> Result<Linear> {
        let weight: Tensor<2> = self.tensor(&format!("{name}.weight"), shape, init)?;
        let bias = match bias {
            true => Some(self.vector(&format!("{name}.bias"), shape[0], Init::Zeros)?),
            false => None,
        };
        Linear::new(weight, bias)
    }

    fn stacked(&mut self, parts: &[(&str, usize)], in_features: usize, bias: bool) -> Result<Linear> {
        let (mut rows, mut biases) = (Vec::new(), Vec::new());
        for (name, count) in parts {
            let shape = [*count, in_features];
            rows.push(self.tensor::<2>(&format!("{name}.weight"), shape, Init::Zeros)?);
            if bias {
                biases.push(self.vector(&format!("{name}.bias"), *count, Init::Zeros)?);
            }
        }
        Linear::new(Tensor::cat(rows, 0), bias.then(|| Tensor::cat(biases, 0)))
    }

    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D], _: Init) -> Result<Tensor<D>> {
        let (stored, leaf) = self
            .tensors
            .get(name)
            .unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(stored[..], shape[..], "{name}");
        Ok(leaf.clone().reshape(shape))
    }
}

/// Runs pieces of these lengths from a state, one after another; `ends` says where sequences end and padding begins.
///
/// # Errors
/// Those of the mixer.
pub fn run(
    mixer: &dyn Mixer,
    input: &Tensor<3>,
    state: &mut MixerState,
    lengths: &[usize],
    ends: Option<&[usize]>,
) -> Result<Tensor<3>> {
    let (chain, mut shared) = (Chain::default(), Shared::default());
    let (mut first, mut found) = (0, Vec::new());
    for &length in lengths {
        let positions = vec![first as u64; input.dims()[0]];
        let mut context = Context {
            chain: &chain,
            layer: 0,
            chunking: Chunking::Fastest,
            positions: &positions,
            lengths: ends,
            prefix: None,
            shared: &mut shared,
        };
        let piece = input.clone().narrow(1, first, length);
        found.push(mixer.forward(piece, state, &mut context)?);
        first += length;
    }
    Ok(Tensor::cat(found, 1))
}

/// ‖found − expected‖ / ‖expected‖ against what the case allows for `name`.
pub fn expect(case: &Case, what: &str, found: &[f32], name: &str) {
    let expected = case.tensor(name);
    assert_eq!(found.len(), expected.len(), "{}: {what}", case.name);
    let square = |x: f64| x * x;
    let difference: f64 = found
        .iter()
        .zip(expected)
        .map(|(a, b)| square(f64::from(*a) - b))
        .sum();
    let size: f64 = expected.iter().map(|x| square(*x)).sum();
    let error = (difference / size).sqrt();
    let peer = case.json["float32_reference_error"][name]["rel_l2"].as_f64();
    let allowed = OF_THE_PEER * peer.expect("the case states the peer's error");
    assert!(
        error <= allowed,
        "{}: {what} is off by {error:e}, {allowed:e} allowed",
        case.name
    );
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
