//! Weights from a map of tensors: what is missing, of another shape or left over is named, and publishers' names are translated.

use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::mamba2::{FreshGates, GateOrder, GatedNorm, Mamba2, Mamba2Config};
use spillway_ssm_core::{Init, Linear, ShortConvConfig, WeightMap, WeightSource};

fn map(tensors: &[(&str, &[usize])]) -> WeightMap {
    let tensor = |(name, shape): &(&str, &[usize])| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|index| index as f32).collect();
        (name.to_string(), TensorData::new(values, shape.to_vec()))
    };
    WeightMap::new(tensors.iter().map(tensor).collect(), Device::flex())
}

fn config() -> Mamba2Config {
    Mamba2Config {
        model_dim: 3,
        num_heads: 2,
        head_dim: 2,
        state_dim: 1,
        num_groups: 1,
        conv: ShortConvConfig {
            width: 2,
            bias: false,
        },
        projection_bias: false,
        skip_per_channel: false,
        dt_limit: (0.0, f32::INFINITY),
        norm: Some(GatedNorm {
            eps: 1e-5,
            order: GateOrder::NormAfterGate,
        }),
        factors: None,
        fresh: FreshGates::default(),
        num_layers: 1,
    }
}

/// What a mixer of [`config`] reads.
const TENSORS: &[(&str, &[usize])] = &[
    ("in_proj.weight", &[12, 3]),
    ("conv1d.weight", &[6, 1, 2]),
    ("dt_bias", &[2]),
    ("A_log", &[2]),
    ("D", &[2]),
    ("norm.weight", &[4]),
    ("out_proj.weight", &[3, 4]),
];

/// The columns of a projection of three features.
fn applied(linear: &Linear) -> Vec<f32> {
    let output = linear.forward(Tensor::ones([1, 1, 3], &Device::flex())).unwrap();
    output.into_data().iter::<f32>().collect()
}

#[test]
fn a_mixer_reads_all_of_its_map() {
    let mut map = map(TENSORS);
    Mamba2::read(config(), &mut map).unwrap();
    map.expect_all_read().unwrap();
}

#[test]
fn a_missing_tensor_is_named_with_the_shape_that_it_should_have() {
    for (missing, shape) in TENSORS {
        let rest: Vec<_> = TENSORS
            .iter()
            .copied()
            .filter(|(name, _)| name != missing)
            .collect();
        let error = Mamba2::read(config(), &mut map(&rest)).unwrap_err();
        let expected = format!("tensor {missing} is missing: expected shape {shape:?}");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both() {
    for (index, (name, shape)) in TENSORS.iter().enumerate() {
        let mut tensors = TENSORS.to_vec();
        tensors[index] = (name, &[5]);
        let error = Mamba2::read(config(), &mut map(&tensors)).unwrap_err();
        let expected = format!("tensor {name}: expected shape {shape:?}, found [5]");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_tensor_that_is_left_over_is_named() {
    let tensors = [TENSORS, &[("in_proj.bias", &[12])]].concat();
    let mut map = map(&tensors);
    Mamba2::read(config(), &mut map).unwrap();
    let error = map.expect_all_read().unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor in_proj.bias was not expected: nothing reads it"
    );
}

#[test]
fn a_matrix_that_cannot_be_packed_is_named() {
    let error = map(&[("o.weight", &[0, 3])])
        .linear("o", [0, 3], false)
        .unwrap_err();
    assert!(error.to_string().starts_with("tensor o.weight: "), "{error}");
}

#[test]
fn names_are_translated_whole_or_up_to_a_dot_and_stand_below_the_prefix() {
    let mut map = map(&[("a.key.mu", &[1]), ("a.key.linear.bias", &[2]), ("a.keys", &[3])]);
    let mut source = map.below("a", &[("key_shift", "key.mu"), ("key", "key.linear")]);
    source.vector("key_shift", 1, Init::Zeros).unwrap();
    source.vector("key.bias", 2, Init::Zeros).unwrap();
    source.vector("keys", 3, Init::Zeros).unwrap();
    map.expect_all_read().unwrap();
}

#[test]
fn stacked_projections_are_one_product_of_several_tensors_or_of_one() {
    let parts = [("q", 2), ("k", 1)];
    let mut several = map(&[
        ("m.q.weight", &[2, 3]),
        ("m.k.weight", &[1, 3]),
        ("m.q.bias", &[2]),
        ("m.k.bias", &[1]),
    ]);
    let stacked = several.below("m", &[]).stacked(&parts, 3, true).unwrap();
    // Rows (0, 1, 2), (3, 4, 5) and (0, 1, 2); biases 0, 1 and 0.
    assert_eq!(applied(&stacked), [3.0, 13.0, 3.0]);
    several.expect_all_read().unwrap();

    let mut one = map(&[("m.qk.weight", &[3, 3]), ("m.qk.bias", &[3])]);
    let names = [("q", "qk"), ("k", "qk")];
    let stacked = one.below("m", &names).stacked(&parts, 3, true).unwrap();
    // Rows (0, 1, 2), (3, 4, 5) and (6, 7, 8); biases 0, 1 and 2.
    assert_eq!(applied(&stacked), [3.0, 13.0, 23.0]);
    one.expect_all_read().unwrap();
}
