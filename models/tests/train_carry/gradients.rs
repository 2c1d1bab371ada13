//! Gradients through the states between segments: all of them, or none.

use burn::tensor::{Device, Tensor};
use spillway_models::ModelState;
use spillway_models::layout::{Layout, Preset};
use spillway_models::train::carry::Backpropagation;
use spillway_models::train::{Batch, Carry, CarryConfig, Differentiable, Leaves, Parameters, Precision};

use super::support::{batches, kinds, relative_error};

/// Gradients of a long sequence against those of its segments: the same sums in another order. The largest error found in any
/// tensor of these models is 1.4e-6, some twenty roundings; a state whose gradient is lost changes them by 5e-2 at least.
const REORDERED: f64 = 1e-5;

/// Gradients by name, 0 where none arrived.
type Gradients = Vec<(String, Vec<f32>)>;

fn parameters(layout: &'static Layout, preset: &Preset) -> Parameters {
    let config = serde_json::from_str(preset.config).unwrap();
    Parameters::random(layout, &config, 8, &Device::flex()).unwrap()
}

fn graph(parameters: &Parameters) -> (Leaves, Differentiable) {
    let leaves = parameters.leaves(&Device::flex().autodiff(), Precision::F32);
    let network = leaves.network().unwrap();
    (leaves, network)
}

fn gradients(parameters: &Parameters, leaves: &Leaves, loss: Tensor<1>) -> Gradients {
    let found = leaves.gradients(&mut loss.backward());
    let named = parameters.list().iter().zip(found);
    named
        .map(|(parameter, gradient)| {
            let values = match gradient {
                Some(gradient) => gradient.into_data().iter::<f32>().collect(),
                None => vec![0.0; parameter.shape.iter().product()],
            };
            (parameter.name.clone(), values)
        })
        .collect()
}

/// The summed loss of the batch, segment by segment.
fn of_segments(network: &Differentiable, carry: &Carry, batch: &Batch, mut state: ModelState) -> Tensor<1> {
    let mut losses = Vec::new();
    for segment in batch.segments(carry.segment(batch)) {
        losses.push(network.loss(&segment, &mut state).unwrap().0);
        state = carry.between(state).unwrap();
    }
    Tensor::cat(losses, 0).sum()
}

fn carry(network: &Differentiable, segment: Option<usize>, backpropagation: Backpropagation) -> Carry {
    let config = CarryConfig {
        carry: true,
        segment,
        backpropagation,
        ..CarryConfig::default()
    };
    Carry::new(&config, 0, network.sites()).unwrap()
}

fn expect_close(found: &Gradients, expected: &Gradients, bound: f64, what: &str) {
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        let error = relative_error(found, expected);
        assert!(error < bound, "{what}: {name}: {error:e}");
    }
}

/// ‖found − expected‖ / ‖expected‖ over all parameters together.
fn distance(found: &Gradients, expected: &Gradients) -> f64 {
    let all = |gradients: &Gradients| {
        gradients
            .iter()
            .flat_map(|(_, values)| values.clone())
            .collect::<Vec<_>>()
    };
    relative_error(&all(found), &all(expected))
}

#[test]
fn gradients_of_segments_with_full_backpropagation_are_those_of_the_whole() {
    for (name, layout, preset) in kinds() {
        let parameters = parameters(layout, preset);
        let batch = batches(6, 1, 2, 24).remove(0);
        let of = |segment, backpropagation| {
            let (leaves, network) = graph(&parameters);
            let carry = carry(&network, segment, backpropagation);
            let loss = of_segments(&network, &carry, &batch, network.start(2));
            gradients(&parameters, &leaves, loss)
        };
        let whole = of(None, Backpropagation::Full);
        assert!(
            whole
                .iter()
                .any(|(_, values)| values.iter().any(|value| *value != 0.0)),
            "{name}"
        );
        expect_close(&of(Some(7), Backpropagation::Full), &whole, REORDERED, &name);
        let cut = distance(&of(Some(7), Backpropagation::Truncated), &whole);
        assert!(cut > 1000.0 * REORDERED, "{name}: cutting changes only {cut:e}");
    }
}

#[test]
fn a_detached_state_is_a_constant() {
    for (name, layout, preset) in kinds() {
        let parameters = parameters(layout, preset);
        let batch = batches(9, 1, 2, 20).remove(0);
        let segments: Vec<_> = batch.segments(10).collect();

        // The second segment's loss alone, the first one's graph cut off or not.
        let second = |backpropagation| {
            let (leaves, network) = graph(&parameters);
            let carry = carry(&network, Some(10), backpropagation);
            let mut state = network.start(2);
            network.loss(&segments[0], &mut state).unwrap();
            let mut state = carry.between(state).unwrap();
            let loss = network.loss(&segments[1], &mut state).unwrap().0;
            gradients(&parameters, &leaves, loss)
        };
        let (cut, full) = (second(Backpropagation::Truncated), second(Backpropagation::Full));

        // The same values, taken through plain numbers.
        let (_, network) = graph(&parameters);
        let mut first = carry(&network, None, Backpropagation::Full);
        let mut state = network.start(2);
        network.loss(&segments[0], &mut state).unwrap();
        first.end(state).unwrap();
        let (leaves, network) = graph(&parameters);
        let mut restored = carry(&network, None, Backpropagation::Full);
        restored.restore(&first.save(), network.start(2)).unwrap();
        let next = Batch {
            continues: vec![true; 2],
            ..batch.clone()
        };
        let mut state = restored.begin(network.start(2), &next, 1).unwrap();
        let loss = network.loss(&segments[1], &mut state).unwrap().0;
        let constant = gradients(&parameters, &leaves, loss);

        assert!(
            cut == constant,
            "{name}: not to the bit, at {:e}",
            distance(&cut, &constant)
        );
        let difference = distance(&full, &constant);
        assert!(
            difference > 1e-2,
            "{name}: the first segment adds only {difference:e}"
        );
    }
}

#[test]
fn a_state_that_was_carried_lets_no_gradient_through() {
    for (name, layout, preset) in kinds() {
        let parameters = parameters(layout, preset);
        let all = batches(4, 2, 2, 12);
        let (first, network) = graph(&parameters);
        let mut carry = carry(&network, None, Backpropagation::Full);
        let mut state = carry.begin(network.start(2), &all[0], 0).unwrap();
        network.loss(&all[0].whole(), &mut state).unwrap();
        carry.end(state).unwrap();

        let (second, network) = graph(&parameters);
        let mut state = carry.begin(network.start(2), &all[1], 1).unwrap();
        let mut backward = network.loss(&all[1].whole(), &mut state).unwrap().0.backward();
        assert!(
            first.gradients(&mut backward).iter().all(Option::is_none),
            "{name}: of the batch before"
        );
        assert!(
            second.gradients(&mut backward).iter().any(Option::is_some),
            "{name}: of this batch"
        );
    }
}
