//! A model of leaves beside that of the packed weights: logits, gradients of segments, adapters, bf16.

use burn::tensor::Device;
use spillway_models::train::Precision;

use super::cases::{Case, every_case, layout};
use super::finite_differences::without_influence;
use super::{SEQUENCES, TIME, batch, devices, gradients, leaves, logits, packed, relative_error, values};

/// The largest over all cases is 1.1e-6.
#[test]
fn logits_are_those_of_the_packed_model() {
    for case in every_case() {
        let parameters = case.parameters();
        let batch = batch(200);
        let network = leaves(&parameters, &Device::flex()).network().unwrap();
        let mut state = network.start(SEQUENCES);
        let found = values(&network.logits(&batch.ids, &mut state).unwrap());
        assert_eq!(state.positions(), [TIME as u64; SEQUENCES]);
        let error = relative_error(&found, &logits(&packed(&parameters), &batch));
        assert!(error < 1e-5, "{}: {error:e}", case.name);
    }
}

#[test]
fn segments_that_pass_their_state_on_give_the_gradients_of_the_whole() {
    for case in every_case() {
        let (parameters, batch) = (case.parameters(), batch(200));
        let (expected_loss, expected) = gradients(&parameters, &batch, TIME, &Device::flex());
        let (loss, found) = gradients(&parameters, &batch, 7, &Device::flex());
        assert!((loss / expected_loss - 1.0).abs() < 1e-5, "{}", case.name);
        for ((parameter, found), expected) in parameters.list().iter().zip(found).zip(expected) {
            let (found, expected) = match (found, expected) {
                (Some(found), Some(expected)) => (found, expected),
                (None, None) if without_influence(&parameter.name) => continue,
                _ => panic!("{}: {} got no gradient", case.name, parameter.name),
            };
            let error = relative_error(&found, &expected);
            assert!(error < 2e-3, "{}: {}: {error:e}", case.name, parameter.name);
        }
    }
}

/// Software rasterisers take minutes for more.
#[test]
fn gradients_on_an_adapter_are_those_of_the_cpu() {
    let cases = [
        ("mamba2", "original"),
        ("rwkv7", "BlinkDL"),
        ("llama", "Hugging Face"),
    ];
    for (architecture, name) in cases {
        let layout = layout(architecture, name);
        let case = Case::new(layout, layout.presets[0].size, layout.presets[0].config);
        let (parameters, batch) = (case.parameters(), batch(200));
        let (expected_loss, expected) = gradients(&parameters, &batch, TIME, &Device::flex());
        for (adapter, device) in devices::adapters() {
            let (loss, found) = gradients(&parameters, &batch, TIME, &device);
            let name = format!("{} on {adapter}", case.name);
            assert!((loss / expected_loss - 1.0).abs() < 1e-5, "{name}");
            for ((parameter, found), expected) in parameters.list().iter().zip(found).zip(&expected) {
                let (Some(found), Some(expected)) = (found, expected) else {
                    panic!("{name}: {} got no gradient", parameter.name);
                };
                let error = relative_error(&found, expected);
                assert!(error < 1e-3, "{name}: {}: {error:e}", parameter.name);
            }
        }
    }
}

#[test]
fn bf16_is_f32_with_rounded_matrices() {
    let layout = layout("mamba2", "original");
    let case = Case::new(layout, "tiny", layout.presets[0].config);
    let (parameters, batch) = (case.parameters(), batch(200));
    let loss = |precision| {
        let leaves = parameters.leaves(&Device::flex().autodiff(), precision);
        let network = leaves.network().unwrap();
        let (loss, _) = network
            .loss(&batch.whole(), &mut network.start(SEQUENCES))
            .unwrap();
        let gradients = leaves.gradients(&mut loss.backward());
        let gradients: Vec<Vec<f32>> = gradients
            .iter()
            .map(|gradient| values(gradient.as_ref().unwrap()))
            .collect();
        (values(&loss)[0], gradients)
    };
    let ((single, exact), (half, rounded)) = (loss(Precision::F32), loss(Precision::Bf16));
    assert_ne!(single, half);
    assert!((single / half - 1.0).abs() < 1e-3, "{single} {half}");
    for ((parameter, exact), rounded) in parameters.list().iter().zip(exact).zip(rounded) {
        let error = relative_error(&rounded, &exact);
        assert!(error > 0.0 && error < 0.1, "{}: {error:e}", parameter.name);
    }
}
