//! The loss of a batch: weights of tokens, batches of nothing, and what is refused.

use burn::tensor::Device;
use spillway_models::ModelError;
use spillway_models::train::{Batch, Differentiable};

use super::cases::{Case, layout};
use super::{SEQUENCES, TIME, batch, leaves, values};

fn network() -> Differentiable {
    let layout = layout("mamba2", "original");
    let case = Case::new(layout, "tiny", layout.presets[0].config);
    leaves(&case.parameters(), &Device::flex()).network().unwrap()
}

fn loss(network: &Differentiable, batch: &Batch) -> (f64, f64) {
    let (loss, weight) = network
        .loss(&batch.whole(), &mut network.start(batch.sequences))
        .unwrap();
    (f64::from(values(&loss)[0]), weight)
}

#[test]
fn weights_multiply_the_losses_of_their_tokens() {
    let (network, mut batch) = (network(), batch(200));
    let count = SEQUENCES * TIME;
    let alone = |network: &Differentiable, batch: &Batch, token: usize| {
        let mut weights = vec![0.0; count];
        weights[token] = 1.0;
        loss(
            network,
            &Batch {
                weights: Some(weights),
                ..batch.clone()
            },
        )
    };
    let (third, last) = (alone(&network, &batch, 3), alone(&network, &batch, count - 1));
    assert_eq!((third.1, last.1), (1.0, 1.0));
    let mut weights = vec![0.0; count];
    (weights[3], weights[count - 1]) = (0.5, 3.0);
    // A target of weight 0 may be anything.
    batch.targets[4] = u32::MAX;
    batch.weights = Some(weights);
    let (found, weight) = loss(&network, &batch);
    assert_eq!(weight, 3.5);
    let expected = 0.5 * third.0 + 3.0 * last.0;
    assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
    batch.weights = Some(vec![0.0; count]);
    assert_eq!(loss(&network, &batch), (0.0, 0.0));
}

#[test]
fn no_tokens_and_no_sequences_are_no_loss() {
    let network = network();
    let empty = |sequences, time| Batch {
        sequences,
        time,
        ids: vec![],
        targets: vec![],
        weights: None,
        continues: vec![false; sequences],
    };
    for (sequences, time) in [(2, 0), (0, 5), (0, 0)] {
        let mut state = network.start(sequences);
        let (loss, weight) = network.loss(&empty(sequences, time).whole(), &mut state).unwrap();
        assert_eq!((values(&loss), weight), (vec![0.0], 0.0));
        assert_eq!(state.position(), 0);
    }
}

#[test]
fn what_is_wrong_with_a_batch_is_said() {
    let (network, whole) = (network(), batch(200));
    let refused = |batch: &Batch, sequences: usize| {
        network
            .loss(&batch.whole(), &mut network.start(sequences))
            .unwrap_err()
    };
    let mut wrong = whole.clone();
    wrong.ids[5] = 256;
    assert!(matches!(
        refused(&wrong, SEQUENCES),
        ModelError::Id {
            index: 5,
            id: 256,
            vocab_size: 256
        }
    ));
    let mut wrong = whole.clone();
    wrong.targets[7] = 300;
    assert!(matches!(
        refused(&wrong, SEQUENCES),
        ModelError::Id {
            index: 7,
            id: 300,
            ..
        }
    ));
    let mut wrong = whole.clone();
    wrong.weights = Some(vec![f32::NAN; SEQUENCES * TIME]);
    assert!(matches!(refused(&wrong, SEQUENCES), ModelError::Option { .. }));
    let mut wrong = whole.clone();
    wrong.weights = Some(vec![1.0; TIME]);
    assert!(matches!(
        refused(&wrong, SEQUENCES),
        ModelError::Count { what: "weights", .. }
    ));
    assert!(matches!(refused(&whole, 3), ModelError::State { .. }));
}
