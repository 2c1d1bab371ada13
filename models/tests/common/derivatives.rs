//! Gradients of a checkpoint's model, in f32, against derivatives of its equations, in f64.
//!
//! In f64 a difference quotient may take steps so small that neither curvature nor rounding is left in it: what it is off by is
//! below 1e-7 of the gradient, where differences of f32 losses leave a percent.

use std::path::Path;

use burn::tensor::Device;
use spillway_models::train::{Batch, Parameters, Precision};

use super::rounding::{DRAWS, DRAWS_APART, drawn};

/// A model's equations and its weights, in f64.
pub trait Equations {
    /// The values of a tensor of the checkpoint, if there is one of this name.
    fn values_mut(&mut self, name: &str) -> Option<&mut Vec<f64>>;

    /// Logits after every token; what is beyond the vocabulary is not read.
    fn logits(&self, ids: &[u32]) -> Vec<Vec<f64>>;
}

/// Share of a gradient that it may be off by where it is well conditioned: the largest that was found there is 1.7e-5.
const TOLERANCE: f64 = 1e-4;
/// Share of the gradient of the whole model that one tensor's may be off by: terms that cancel leave their rounding.
const CANCELLED: f64 = 1e-6;
/// Directions of signs per tensor.
const DIRECTIONS: u64 = 2;
/// Step of the differences, as a share of what the values of a tensor are.
const STEP: f64 = 1e-5;

/// A sequence of which every token but the first is a target.
struct Text<'a> {
    ids: &'a [u32],
    targets: &'a [u32],
    vocabulary: usize,
}

impl Text<'_> {
    /// Σ −log p(target).
    fn loss(&self, equations: &impl Equations) -> f64 {
        let rows = equations.logits(self.ids);
        let surprise = |(row, target): (&Vec<f64>, &u32)| {
            let sum: f64 = row[..self.vocabulary].iter().map(|logit| logit.exp()).sum();
            sum.ln() - row[*target as usize]
        };
        rows.iter().zip(self.targets).map(surprise).sum()
    }

    /// The loss with tensors moved by `by` along `direction`.
    fn loss_at(&self, equations: &mut impl Equations, names: &[&str], direction: &[f64], by: f64) -> f64 {
        shift(equations, names, direction, by);
        let loss = self.loss(equations);
        shift(equations, names, direction, -by);
        loss
    }

    /// Gradients of the model of leaves, in the order of the parameters; zeros where none has arrived.
    fn gradients(&self, parameters: &Parameters) -> Vec<Vec<f64>> {
        let batch = Batch {
            sequences: 1,
            time: self.ids.len(),
            ids: self.ids.to_vec(),
            targets: self.targets.to_vec(),
            weights: None,
            continues: vec![false],
        };
        let leaves = parameters.leaves(&Device::flex().autodiff(), Precision::F32);
        let network = leaves.network().unwrap();
        let (loss, _) = network.loss(&batch.whole(), &mut network.start(1)).unwrap();
        let found = leaves.gradients(&mut loss.backward());
        let gradients = parameters.list().iter().zip(found);
        gradients
            .map(|(parameter, gradient)| match gradient {
                Some(gradient) => gradient.into_data().iter::<f64>().collect(),
                None => vec![0.0; parameter.shape.iter().product()],
            })
            .collect()
    }
}

/// As [`worst`] at [`STEP`], in words if it is more than may be.
pub fn check(
    folder: &Path,
    equations: &mut impl Equations,
    vocabulary: usize,
    sequence: &[u32],
) -> Result<(), String> {
    let (off, message) = worst(folder, equations, vocabulary, sequence, STEP);
    match off <= 1.0 {
        true => Ok(()),
        // NaN is off as well.
        false => Err(message),
    }
}

/// The gradient of a checkpoint's tensors that is furthest off along random signs, for a sequence of at least two tokens: by how
/// many times of what it may be off by, and in words. `step` is that of the differences, as a share of a tensor's values.
///
/// Where roundings to f32 in the equations move a derivative further than the tolerance, it may be off by as much.
pub fn worst(
    folder: &Path,
    equations: &mut impl Equations,
    vocabulary: usize,
    sequence: &[u32],
    step: f64,
) -> (f64, String) {
    let text = Text {
        ids: &sequence[..sequence.len() - 1],
        targets: &sequence[1..],
        vocabulary,
    };
    let parameters = Parameters::load(folder, &Device::flex()).unwrap();
    let gradients = text.gradients(&parameters);
    let whole = norm(&gradients.concat());
    let mut worst = (0.0, String::new());
    for (index, (parameter, gradient)) in parameters.list().iter().zip(&gradients).enumerate() {
        // A tied head that is stored has a second name.
        let names = [Some(&parameter.name), parameter.twin.as_ref()];
        let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
        let values = equations.values_mut(names[0]);
        let step = step * scale(values.unwrap_or_else(|| panic!("no tensor {}", names[0])));
        for salt in 0..DIRECTIONS {
            let direction = signs(gradient.len(), DIRECTIONS * index as u64 + salt);
            let mut derivative = |draw: Option<u64>| {
                let mut loss = |by: f64| match draw {
                    None => text.loss_at(equations, &names, &direction, by),
                    Some(draw) => drawn(draw, || text.loss_at(equations, &names, &direction, by)),
                };
                let mut central = |by: f64| (loss(by) - loss(-by)) / (2.0 * by);
                // Richardson: the error is of the fourth order.
                (4.0 * central(step) - central(2.0 * step)) / 3.0
            };
            let expected = derivative(None);
            let found: f64 = gradient.iter().zip(&direction).map(|(g, sign)| g * sign).sum();
            let mut allowed = TOLERANCE * norm(gradient) + CANCELLED * whole;
            if (found - expected).abs() > allowed {
                let moved = (0..DRAWS).map(|draw| (derivative(Some(draw)) - expected).abs());
                allowed = allowed.max(DRAWS_APART * moved.fold(0.0, f64::max));
            }
            let off = (found - expected).abs() / allowed;
            if off > worst.0 || off.is_nan() {
                let name = &parameter.name;
                let message = format!("{name}: derivative {expected:e}, found {found:e}, off {off:.1} times");
                worst = (off, message);
            }
            if off.is_nan() {
                return worst;
            }
        }
    }
    worst
}

/// Moves the tensors of these names.
fn shift(equations: &mut impl Equations, names: &[&str], direction: &[f64], by: f64) {
    for name in names {
        if let Some(values) = equations.values_mut(name) {
            values
                .iter_mut()
                .zip(direction)
                .for_each(|(x, sign)| *x += by * sign);
        }
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// What the values of a tensor are, 1 where they are all 0.
fn scale(values: &[f64]) -> f64 {
    match norm(values) / (values.len() as f64).sqrt() {
        0.0 => 1.0,
        scale => scale,
    }
}

/// ±1 for every element.
fn signs(length: usize, salt: u64) -> Vec<f64> {
    let mut word = 0x9e37_79b9_7f4a_7c15 ^ (salt + 1);
    let sign = |_| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        if word & 1 == 0 { 1.0 } else { -1.0 }
    };
    (0..length).map(sign).collect()
}
