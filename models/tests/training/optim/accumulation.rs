//! Sums of gradients over pieces; masters that keep what bfloat16 weights cannot show.

use burn::tensor::Device;
use proptest::prelude::*;
use spillway_models::init::preset;
use spillway_models::registry::layouts_of;
use spillway_models::train::{
    Accumulator, Batch, Optimizer, OptimizerConfig, OptimizerError, Parameters, Precision,
};

use super::{bits, noise, relative_error, tensor, values};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    /// However a step is cut into pieces, their sum over their weight is the mean over all. One rounding a piece.
    #[test]
    fn pieces_of_a_step_have_the_mean_of_the_whole(
        seed in any::<u32>(),
        weights in prop::collection::vec(0u32..9, 1..40),
    ) {
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let mut sums = Accumulator::default();
        let mut exact = vec![0.0; 50];
        for (piece, weight) in weights.iter().enumerate() {
            let gradient = noise(u64::from(seed) + piece as u64, 50);
            exact.iter_mut().zip(&gradient).for_each(|(sum, g)| *sum += f64::from(*g));
            // Every other piece does not reach the second parameter, and none the third.
            let second = (piece % 2 == 0).then(|| tensor(&gradient[..1]));
            sums.add(vec![Some(tensor(&gradient)), second, None], f64::from(*weight)).unwrap();
        }
        prop_assert_eq!(sums.weight(), f64::from(total));
        let mean = sums.mean().unwrap();
        let found = values(mean[0].as_ref().unwrap());
        // Absolute, by the largest that partial sums can be: terms may cancel.
        let largest = weights.len() as f64;
        for (found, exact) in found.iter().zip(&exact) {
            let error = (f64::from(*found) * f64::from(total) - exact).abs();
            prop_assert!(error <= largest * largest * 2f64.powi(-24) + exact.abs() * 2f64.powi(-22));
        }
        prop_assert!(mean[1].is_some() && mean[2].is_none());
    }
}

#[test]
fn ten_thousand_pieces_lose_no_more_than_f32_additions_do() {
    let mut sums = Accumulator::default();
    let mut exact = vec![0.0; 16];
    for piece in 0..10_000 {
        let gradient: Vec<f32> = noise(piece, 16).iter().map(|value| value + 0.5).collect();
        exact
            .iter_mut()
            .zip(&gradient)
            .for_each(|(sum, g)| *sum += f64::from(*g) / 10_000.0);
        sums.add(vec![Some(tensor(&gradient))], 1.0).unwrap();
    }
    let mean = sums.mean().unwrap();
    // Roundings of 2^-24 each that go either way: √10000 of them, in partial sums of half the size on average.
    let error = relative_error(&values(mean[0].as_ref().unwrap()), &exact);
    assert!(error < 100.0 * 2f64.powi(-24), "{error:e}");
}

#[test]
fn a_mean_over_nothing_is_refused() {
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut sums = Accumulator::default();
        sums.add(vec![Some(tensor(&[1.0]))], weight).unwrap();
        let error = sums.mean().unwrap_err();
        assert!(matches!(error, OptimizerError::Weight { .. }), "{error}");
    }
    assert!(Accumulator::default().mean().is_err());
}

fn tiny() -> Parameters {
    let layout = layouts_of("mamba2").next().unwrap();
    let config = serde_json::from_str(preset(layout, "tiny").unwrap().config).unwrap();
    Parameters::random(layout, &config, 1, &Device::flex()).unwrap()
}

fn logits(parameters: &Parameters, precision: Precision) -> Vec<f32> {
    let leaves = parameters.leaves(&Device::flex().autodiff(), precision);
    let network = leaves.network().unwrap();
    let logits = network.logits(&[1, 2, 3, 4], &mut network.start(1)).unwrap();
    logits.inner().into_data().try_to_vec().unwrap()
}

/// Every value of the embedding is 2^-5 or −2^-5, between neighbours that bfloat16 has at 2^-13 below and 2^-12 above. Steps of
/// 1e-6 are lost in it, each by itself; the masters add them up.
#[test]
fn updates_below_the_resolution_of_bf16_add_up_in_the_masters() {
    let mut parameters = tiny();
    let index = parameters
        .list()
        .iter()
        .position(|p| p.name.contains("embedding"))
        .unwrap();
    let count = parameters.list()[index].value.dims()[0];
    let signs: Vec<f32> = noise(1, count)
        .iter()
        .map(|value| value.signum() / 32.0)
        .collect();
    parameters.list_mut()[index].value = tensor(&signs);
    let config = OptimizerConfig {
        weight_decay: 0.0,
        ..OptimizerConfig::new(1e-6)
    };
    let mut optimizer = Optimizer::new(&config, parameters.list(), 1000).unwrap();
    let start = (
        logits(&parameters, Precision::Bf16),
        logits(&parameters, Precision::F32),
    );
    let mut run = |parameters: &mut Parameters, steps: std::ops::Range<u64>| {
        for step in steps {
            let mut gradients: Vec<_> = parameters.list().iter().map(|_| None).collect();
            // Towards zero, everywhere.
            gradients[index] = Some(tensor(&signs));
            optimizer.step(parameters.list_mut(), gradients, step).unwrap();
        }
    };
    run(&mut parameters, 0..10);
    let masters = values(&parameters.list()[index].value);
    let moved = masters
        .iter()
        .zip(&signs)
        .map(|(now, then)| f64::from((now - then).abs()));
    assert!(
        moved.clone().all(|by| (by / 1e-5 - 1.0).abs() < 0.01),
        "{:?}",
        moved.collect::<Vec<_>>()
    );
    assert_eq!(
        logits(&parameters, Precision::Bf16),
        start.0,
        "ten steps are below bfloat16"
    );
    assert_ne!(logits(&parameters, Precision::F32), start.1);
    run(&mut parameters, 10..100);
    assert_ne!(
        logits(&parameters, Precision::Bf16),
        start.0,
        "a hundred steps are not"
    );
}

/// The gradients of a batch in pieces, added up and applied, are those of the batch as a whole.
#[test]
fn sequences_one_by_one_train_as_all_together() {
    let ids = |from: u32| (0..3 * 8).map(|i| (from + i * 37) % 250).collect::<Vec<u32>>();
    let weights: Vec<f32> = (0..3 * 8).map(|i| (i % 5) as f32 / 2.0).collect();
    let whole = Batch {
        sequences: 3,
        time: 8,
        ids: ids(1),
        targets: ids(38),
        weights: Some(weights.clone()),
        continues: vec![false; 3],
    };
    let pieces: Vec<Batch> = (0..3)
        .map(|row| Batch {
            sequences: 1,
            time: 8,
            ids: whole.ids[row * 8..row * 8 + 8].to_vec(),
            targets: whole.targets[row * 8..row * 8 + 8].to_vec(),
            weights: Some(weights[row * 8..row * 8 + 8].to_vec()),
            continues: vec![false],
        })
        .collect();
    let parameters = tiny();
    let gradients = |batches: &[Batch]| {
        let mut sums = Accumulator::default();
        for batch in batches {
            let leaves = parameters.leaves(&Device::flex().autodiff(), Precision::F32);
            let network = leaves.network().unwrap();
            let (loss, weight) = network
                .loss(&batch.whole(), &mut network.start(batch.sequences))
                .unwrap();
            sums.add(leaves.gradients(&mut loss.backward()), weight).unwrap();
        }
        assert_eq!(sums.weight(), f64::from(weights.iter().sum::<f32>()));
        sums.mean().unwrap()
    };
    let (together, apart) = (gradients(&[whole]), gradients(&pieces));
    for ((parameter, together), apart) in parameters.list().iter().zip(&together).zip(&apart) {
        let (Some(together), Some(apart)) = (together, apart) else {
            panic!("{} has no gradient", parameter.name);
        };
        let expected: Vec<f64> = values(together).into_iter().map(f64::from).collect();
        let error = relative_error(&values(apart), &expected);
        // Sums of 24 tokens in another order.
        assert!(error < 5e-6, "{}: {error:e}", parameter.name);
    }
    assert_ne!(
        bits(apart[0].as_ref().unwrap()),
        vec![0; parameters.list()[0].value.dims()[0]]
    );
}
