//! A model of leaves is the model of the packed weights, and its gradients are those of its loss, in every layout.
//!
//! A layout added to the registry is tested here without another line.

#[path = "../../ssm-core/tests/support/mod.rs"]
mod devices;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use models::checkpoint::{Checkpoint, WriteDtype};
use models::init::{layouts, write_random};
use models::layout::Layout;
use models::tokenizer::Tokenizer;
use models::train::{Batch, Leaves, Parameters, Precision};
use models::{LoadOptions, Model, ModelError, Which};
use serde_json::{Map, Value, json};
use ssm_core::Chain;
use tempfile::TempDir;

const SEED: u64 = 2407;
const SEQUENCES: usize = 2;
const TIME: usize = 24;

/// A model to be trained, and what to call it.
struct Case {
    name: String,
    layout: &'static Layout,
    config: Map<String, Value>,
}

impl Case {
    fn new(layout: &'static Layout, size: &str, config: &str) -> Self {
        Self {
            name: format!("{} ({}) {size}", layout.architecture, layout.name),
            layout,
            config: serde_json::from_str(config).unwrap(),
        }
    }

    fn parameters(&self) -> Parameters {
        Parameters::random(self.layout, &self.config, SEED, &Device::flex())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// Every tiny size of every layout.
fn tiny() -> Vec<Case> {
    let sizes = layouts().iter().flat_map(|layout| {
        let tiny = layout
            .presets
            .iter()
            .filter(|preset| preset.size.starts_with("tiny"));
        tiny.map(|preset| Case::new(layout, preset.size, preset.config))
    });
    sizes.collect()
}

fn layout(architecture: &str, name: &str) -> &'static Layout {
    layouts()
        .iter()
        .find(|layout| layout.architecture == architecture && layout.name.starts_with(name))
        .unwrap_or_else(|| panic!("no layout {architecture} ({name})"))
}

/// What configurations may switch on beyond the tiny sizes.
fn variants() -> Vec<Case> {
    let edits: [(&str, &str, Value); 10] = [
        (
            "mamba2",
            "original",
            json!({"ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 16, "ngroups": 2, "bias": true, "D_has_hdim": true,
            "norm_before_gate": true, "dt_limit": [0.002, 0.2]}, "tie_embeddings": false}),
        ),
        (
            "mamba2",
            "original",
            json!({"ssm_cfg": {"layer": "Mamba2", "d_state": 8, "rmsnorm": false, "conv_bias": false}}),
        ),
        ("mamba1", "original", json!({"rms_norm": false})),
        (
            "llama",
            "Hugging Face",
            json!({"model_type": "mistral", "sliding_window": 7, "attention_bias": true, "mlp_bias": true,
            "tie_word_embeddings": false}),
        ),
        (
            "gla",
            "flash",
            json!({"use_short_conv": true, "conv_bias": true, "num_kv_heads": 1, "feature_map": "relu",
            "attn": {"layers": [1], "num_heads": 2, "window_size": 9}}),
        ),
        ("linear_attn", "flash", json!({"feature_map": "hedgehog"})),
        (
            "linear_attn",
            "flash",
            json!({"feature_map": "dpfp", "norm_q": true, "norm_feature_map": true}),
        ),
        (
            "hgrn",
            "flash",
            json!({"num_hidden_layers": 4, "use_short_conv": true}),
        ),
        (
            "delta_net",
            "flash",
            json!({"use_gate": true, "qk_norm": "sum", "qk_activation": "elu"}),
        ),
        ("gsa", "flash", json!({"feature_map": "t2r", "num_kv_heads": 1})),
    ];
    let variant = |(architecture, name, edit): (&str, &str, Value)| {
        let layout = layout(architecture, name);
        let mut case = Case::new(layout, &edit.to_string(), layout.presets[0].config);
        let edit = edit.as_object().unwrap().clone();
        case.config.extend(edit);
        case
    };
    edits.into_iter().map(variant).collect()
}

fn every_case() -> Vec<Case> {
    tiny().into_iter().chain(variants()).collect()
}

fn batch(vocabulary: u32) -> Batch {
    let ids = |salt: u64| -> Vec<u32> {
        (0..(SEQUENCES * TIME) as u64)
            .map(|i| ((salt ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 33) as u32 % vocabulary)
            .collect()
    };
    Batch {
        sequences: SEQUENCES,
        time: TIME,
        ids: ids(7),
        targets: ids(11),
        weights: None,
        continues: vec![false; SEQUENCES],
    }
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// ‖found − expected‖ / ‖expected‖; NaN does not compare as small.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    match norm(expected) {
        0.0 => norm(&difference),
        expected => norm(&difference) / expected,
    }
}

fn packed(parameters: &Parameters) -> Model {
    parameters.model(Tokenizer::bytes()).unwrap()
}

/// Logits of a model for the batch, `[sequences, time, padded_vocab_size]`.
fn logits(model: &Model, batch: &Batch) -> Vec<f32> {
    let mut state = model.start(&Chain::default(), batch.sequences).unwrap();
    values(&model.logits_batched(&batch.ids, &mut state, Which::All).unwrap())
}

/// Losses of all targets, sequence by sequence, by the packed model.
fn losses(parameters: &Parameters, batch: &Batch) -> Vec<f64> {
    let model = packed(parameters);
    let rows = batch
        .ids
        .chunks_exact(batch.time)
        .zip(batch.targets.chunks_exact(batch.time));
    rows.flat_map(|(ids, targets)| {
        let mut state = model.start(&Chain::default(), 1).unwrap();
        model.losses(ids, targets, &mut state).unwrap()
    })
    .map(f64::from)
    .collect()
}

fn leaves(parameters: &Parameters, device: &Device) -> Leaves {
    parameters.leaves(&device.clone().autodiff(), Precision::F32)
}

/// The loss summed over segments of this length, and the gradient of every parameter.
fn gradients(
    parameters: &Parameters,
    batch: &Batch,
    segment: usize,
    device: &Device,
) -> (f64, Vec<Option<Vec<f32>>>) {
    let leaves = leaves(parameters, device);
    let network = leaves.network().unwrap();
    let mut state = network.start(batch.sequences);
    let losses = batch
        .segments(segment)
        .map(|segment| network.loss(&segment, &mut state).unwrap().0);
    let loss = losses.reduce(|sum, loss| sum + loss).unwrap();
    let value = f64::from(values(&loss)[0]);
    let found = leaves.gradients(&mut loss.backward());
    assert_eq!(found.len(), parameters.list().len());
    let found = found.iter().map(|gradient| gradient.as_ref().map(values));
    (value, found.collect())
}

mod network {
    use super::*;

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
                let (Some(found), Some(expected)) = (found, expected) else {
                    panic!("{}: {} got no gradient", case.name, parameter.name);
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
}

mod finite_differences {
    use super::*;

    /// Directions per tensor.
    const DIRECTIONS: u64 = 2;
    /// What a step should change the loss by: large against the rounding of the loss, small against the 266 nats of it.
    const CHANGE: f64 = 0.1;
    /// The rounding of one token's loss in f32, in units of the last place. The losses of a model of leaves and of the packed one
    /// differ by up to 25.
    const ROUNDING: f64 = 32.0 / (1 << 24) as f64;

    /// Tensors that the loss does not depend on, by the ends of their names, and why.
    const WITHOUT_INFLUENCE: [(&str, &str); 0] = [];

    fn without_influence(name: &str) -> bool {
        WITHOUT_INFLUENCE.iter().any(|(end, _)| name.ends_with(end))
    }

    /// The model with fresh gates that show within a few tokens.
    ///
    /// RetNet divides the read-out of every head by its length, and that of a first token is a value times one score: where the
    /// score passes 0 the output turns over within √ε, which no difference resolves at 1e-6. Mamba's steps are so small at first
    /// that they hardly matter to a short text.
    fn visible(mut case: Case) -> Case {
        let edit = match (case.layout.architecture, case.layout.name) {
            ("retnet", _) => json!({"norm_eps": 1e-3}),
            ("mamba1", "Hugging Face") => json!({"time_step_min": 0.3, "time_step_max": 3.0}),
            ("mamba1", _) => json!({"ssm_cfg": {"dt_min": 0.3, "dt_max": 3.0}}),
            _ => json!({}),
        };
        case.config.extend(edit.as_object().unwrap().clone());
        case
    }

    /// ±1 for every element.
    fn direction(length: usize, salt: u64) -> Vec<f32> {
        let mut word = salt | 1;
        let sign = |_| {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            if word & 1 == 0 { 1.0 } else { -1.0 }
        };
        (0..length).map(sign).collect()
    }

    /// Losses with parameter `index` moved by `step` along `direction`.
    fn moved(
        parameters: &mut Parameters,
        index: usize,
        direction: &[f32],
        step: f64,
        batch: &Batch,
    ) -> Vec<f64> {
        let parameter = &mut parameters.list_mut()[index];
        let kept = parameter.value.clone();
        let moved: Vec<f32> = values(&kept)
            .iter()
            .zip(direction)
            .map(|(value, sign)| (f64::from(*value) + step * f64::from(*sign)) as f32)
            .collect();
        parameter.value = Tensor::from_data(TensorData::new(moved, [direction.len()]), &Device::flex());
        let losses = losses(parameters, batch);
        parameters.list_mut()[index].value = kept;
        losses
    }

    /// Central differences at a step and at twice the step, joined so that the error is of the fourth order (Richardson).
    fn derivative(
        parameters: &mut Parameters,
        index: usize,
        direction: &[f32],
        step: f64,
        batch: &Batch,
    ) -> f64 {
        let mut central = |step: f64| {
            let up = moved(parameters, index, direction, step, batch);
            let down = moved(parameters, index, direction, -step, batch);
            let differences = up.iter().zip(&down).map(|(up, down)| up - down);
            differences.sum::<f64>() / (2.0 * step)
        };
        (4.0 * central(step) - central(2.0 * step)) / 3.0
    }

    /// How far to go: CHANGE of the loss if the derivative is `slope`, yet not beyond 0.6 of what the values are.
    fn step(values: &[f32], slope: f64) -> f64 {
        let scale = norm(values) / (values.len() as f64).sqrt();
        let most = 0.6 * if scale > 0.0 { scale } else { 1.0 };
        (CHANGE / slope.abs().max(f64::MIN_POSITIVE)).min(most)
    }

    /// How far the gradient of a parameter is from the differences along directions of signs: the root of the mean square.
    fn error(
        parameters: &mut Parameters,
        (index, gradient): (usize, &[f32]),
        step: f64,
        batch: &Batch,
    ) -> f64 {
        let mut sum = 0.0;
        for salt in 0..DIRECTIONS {
            let direction = direction(gradient.len(), SEED + 97 * salt + 1009 * index as u64);
            let expected: f64 = gradient
                .iter()
                .zip(&direction)
                .map(|(g, sign)| f64::from(g * sign))
                .sum();
            let numeric = derivative(parameters, index, &direction, step, batch);
            sum += (numeric - expected).powi(2);
        }
        (sum / DIRECTIONS as f64).sqrt()
    }

    /// The bound on an error is that of rounding, over the step, and 1 % for what is left of curvature. Long steps are tried first,
    /// as kinks (a ReLU that opens) and curvature show in them, and rounding in short ones. Half the gradient is the most that
    /// rounding may come to.
    #[test]
    fn gradients_are_directional_derivatives_of_the_packed_models_loss() {
        let (mut wrong, mut weak) = (Vec::new(), Vec::new());
        for case in every_case().into_iter().map(visible) {
            let (mut parameters, batch) = (case.parameters(), batch(200));
            let base = losses(&parameters, &batch);
            let rounding = ROUNDING * base.iter().map(|loss| loss * loss).sum::<f64>().sqrt();
            let (_, found) = gradients(&parameters, &batch, TIME, &Device::flex());
            for (index, gradient) in found.into_iter().enumerate() {
                let parameter = parameters.list()[index].clone();
                let name = format!("{}: {}", case.name, parameter.name);
                if without_influence(&parameter.name) {
                    assert!(gradient.is_none_or(|gradient| norm(&gradient) == 0.0), "{name}");
                    continue;
                }
                let gradient = gradient.unwrap_or_else(|| panic!("{name} got no gradient"));
                assert_eq!(
                    gradient.len(),
                    parameter.shape.iter().product::<usize>(),
                    "{name}"
                );
                // The derivative along a direction of signs is about as large as the gradient is long.
                let size = norm(&gradient);
                let first = step(&values(&parameter.value), size);
                let mut tried = Vec::new();
                for step in [first, first / 3.0, first / 9.0, first / 27.0, first / 81.0] {
                    let error = error(&mut parameters, (index, &gradient), step, &batch);
                    let bound = 0.01 * size + rounding / step;
                    tried.push((step, error / size, bound / size));
                    if error <= bound {
                        break;
                    }
                }
                let (step, error, bound) = tried[tried.len() - 1];
                if error > bound || error.is_nan() {
                    wrong.push(format!(
                        "{name}: gradient of {size:e}, (step, error, bound): {tried:?}"
                    ));
                } else if rounding / step > 0.5 * size {
                    weak.push(name);
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(weak.is_empty(), "too small to be told from rounding: {weak:#?}");
    }
}

mod files {
    use super::*;

    fn saved(parameters: &Parameters, folder: &TempDir, name: &str) -> PathBuf {
        let path = folder.path().join(name);
        parameters.save(&path, WriteDtype::F32, Some(128)).unwrap();
        path
    }

    /// Name, shape, bits of the values, and second name.
    type Bits = (String, Vec<usize>, Vec<u32>, Option<String>);

    fn bits(parameters: &Parameters) -> Vec<Bits> {
        let one = |parameter: &models::train::Parameter| {
            (
                parameter.name.clone(),
                parameter.shape.clone(),
                values(&parameter.value).iter().map(|v| v.to_bits()).collect(),
                parameter.twin.clone(),
            )
        };
        parameters.list().iter().map(one).collect()
    }

    #[test]
    fn what_was_saved_is_loaded_to_the_bit_and_gives_the_same_logits() {
        let folder = TempDir::new().unwrap();
        for (index, case) in every_case().iter().enumerate() {
            let parameters = case.parameters();
            let path = saved(&parameters, &folder, &index.to_string());
            let loaded = Parameters::load(&path, &Device::flex()).unwrap();
            assert_eq!(bits(&loaded), bits(&parameters), "{}", case.name);
            assert_eq!(loaded.layout().name, case.layout.name);
            let model = Model::load(&path, &LoadOptions::default()).unwrap();
            assert_eq!(model.info().train_length, Some(128));
            let (batch, memory) = (batch(200), packed(&parameters));
            assert_eq!(logits(&model, &batch), logits(&memory, &batch), "{}", case.name);
            assert_eq!(model.fingerprint(), memory.fingerprint(), "{}", case.name);
        }
    }

    #[test]
    fn random_parameters_are_those_of_a_random_checkpoint() {
        let folder = TempDir::new().unwrap();
        for (index, case) in tiny().iter().enumerate() {
            let path = folder.path().join(index.to_string());
            let config = Value::Object(case.config.clone()).to_string();
            write_random(&path, case.layout, &config, WriteDtype::F32, SEED).unwrap();
            let loaded = Parameters::load(&path, &Device::flex()).unwrap();
            assert_eq!(bits(&loaded), bits(&case.parameters()), "{}", case.name);
        }
    }

    #[test]
    fn a_head_that_is_tied_yet_stored_is_one_parameter_and_two_tensors() {
        let layout = layout("mamba2", "original");
        let case = Case::new(layout, "tiny", layout.presets[0].config);
        let (parameters, folder) = (case.parameters(), TempDir::new().unwrap());
        let embedding = &parameters.list()[0];
        assert_eq!(embedding.twin.as_deref(), Some("lm_head.weight"));
        assert!(parameters.list().iter().all(|p| p.name != "lm_head.weight"));
        let checkpoint = Checkpoint::open(saved(&parameters, &folder, "model")).unwrap();
        let stored = |name: &str| checkpoint.stored(name).unwrap().bytes.to_vec();
        assert_eq!(stored(&embedding.name), stored("lm_head.weight"));
    }

    /// Checkpoints that other people's code wrote, in every layout.
    #[test]
    fn published_checkpoints_are_loaded_as_they_run() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
        let mut compared = 0;
        for entry in std::fs::read_dir(models).unwrap() {
            let path = entry.unwrap().path();
            let model = Model::load(&path, &LoadOptions::default()).unwrap();
            let parameters = Parameters::load(&path, &Device::flex()).unwrap();
            let batch = batch(model.info().vocab_size as u32);
            let network = leaves(&parameters, &Device::flex()).network().unwrap();
            let found = values(&network.logits(&batch.ids, &mut network.start(SEQUENCES)).unwrap());
            let error = relative_error(&found, &logits(&model, &batch));
            assert!(error < 1e-5, "{}: {error:e}", path.display());
            compared += 1;
        }
        assert!(compared > 0);
    }

    #[test]
    fn nothing_is_replaced_unless_asked() {
        let layout = layout("mamba2", "original");
        let case = Case::new(layout, "tiny", layout.presets[0].config);
        let (mut parameters, folder) = (case.parameters(), TempDir::new().unwrap());
        let path = saved(&parameters, &folder, "model");
        assert!(parameters.save(&path, WriteDtype::F32, None).is_err());
        let first = &mut parameters.list_mut()[0];
        first.value = first.value.clone() * 2.0;
        parameters.save_over(&path, WriteDtype::F32, None).unwrap();
        let loaded = Parameters::load(&path, &Device::flex()).unwrap();
        assert_eq!(bits(&loaded), bits(&parameters));
        let halves = folder.path().join("halves");
        parameters.save(&halves, WriteDtype::Bf16, None).unwrap();
        let rounded = Parameters::load(&halves, &Device::flex()).unwrap();
        let error = relative_error(
            &values(&rounded.list()[0].value),
            &values(&parameters.list()[0].value),
        );
        assert!(error > 0.0 && error < 4e-3, "{error:e}");
    }
}

mod loss {
    use super::*;

    fn network() -> models::train::Differentiable {
        let layout = layout("mamba2", "original");
        let case = Case::new(layout, "tiny", layout.presets[0].config);
        leaves(&case.parameters(), &Device::flex()).network().unwrap()
    }

    fn loss(network: &models::train::Differentiable, batch: &Batch) -> (f64, f64) {
        let (loss, weight) = network
            .loss(&batch.whole(), &mut network.start(batch.sequences))
            .unwrap();
        (f64::from(values(&loss)[0]), weight)
    }

    #[test]
    fn weights_multiply_the_losses_of_their_tokens() {
        let (network, mut batch) = (network(), batch(200));
        let count = SEQUENCES * TIME;
        let alone = |network: &models::train::Differentiable, batch: &Batch, token: usize| {
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
}

mod fresh {
    use super::*;

    fn drawn(architecture: &str, name: &str, edit: Value, tensor: &str) -> Vec<f32> {
        let layout = layout(architecture, name);
        let mut config: Map<String, Value> = serde_json::from_str(layout.presets[0].config).unwrap();
        config.extend(edit.as_object().unwrap().clone());
        let parameters = Parameters::random(layout, &config, SEED, &Device::flex()).unwrap();
        let parameter = parameters
            .list()
            .iter()
            .find(|p| p.name.ends_with(tensor))
            .unwrap();
        values(&parameter.value)
    }

    fn softplus(x: f32) -> f64 {
        f64::from(x).exp().ln_1p()
    }

    fn within(found: impl IntoIterator<Item = f64>, low: f64, high: f64) {
        let found: Vec<f64> = found.into_iter().collect();
        let slack = 1e-6 * high;
        assert!(
            found.iter().all(|v| (low - slack..=high + slack).contains(v)),
            "{found:?}"
        );
        assert!(found.len() == 1 || found.iter().any(|v| *v != found[0]) || low == high);
    }

    /// A in [1, 2] and Δ in [1e-4, 1e-3] forget slowly.
    #[test]
    fn decay_rates_and_step_sizes_are_drawn_between_the_ends_of_the_configuration() {
        let slow = json!({"ssm_cfg": {"layer": "Mamba2", "headdim": 8, "A_init_range": [1, 2], "dt_min": 1e-4, "dt_max": 1e-3,
            "dt_init_floor": 1e-5}});
        let rates = drawn("mamba2", "original", slow.clone(), ".A_log");
        within(rates.iter().map(|rate| f64::from(*rate).exp()), 1.0, 2.0);
        let steps = drawn("mamba2", "original", slow, ".dt_bias");
        within(steps.iter().map(|bias| softplus(*bias)), 1e-4, 1e-3);
        let steps = json!({"time_step_min": 2e-3, "time_step_max": 3e-3});
        let found = drawn("mamba2", "Hugging Face", steps.clone(), ".dt_bias");
        within(found.iter().map(|bias| softplus(*bias)), 2e-3, 3e-3);
        let found = drawn("mamba1", "Hugging Face", steps, ".dt_proj.bias");
        within(found.iter().map(|bias| softplus(*bias)), 2e-3, 3e-3);
        let floor = json!({"ssm_cfg": {"dt_min": 1e-3, "dt_max": 2e-3, "dt_init_floor": 0.5}});
        let found = drawn("mamba1", "original", floor, ".dt_proj.bias");
        within(found.iter().map(|bias| softplus(*bias)), 0.5, 0.5);
    }

    #[test]
    fn ends_out_of_order_are_refused_with_their_names() {
        let wrong = [
            (json!({"layer": "Mamba2", "A_init_range": [2, 1]}), "A_init_range"),
            (json!({"layer": "Mamba2", "A_init_range": 3}), "A_init_range"),
            (json!({"layer": "Mamba2", "dt_min": 0.2}), "dt_min"),
            (json!({"layer": "Mamba2", "dt_max": "long"}), "dt_max"),
            (json!({"layer": "Mamba2", "dt_init_floor": -1.0}), "dt_init_floor"),
        ];
        let layout = layout("mamba2", "original");
        for (ssm, field) in wrong {
            let mut config: Map<String, Value> = serde_json::from_str(layout.presets[0].config).unwrap();
            config.insert("ssm_cfg".into(), ssm);
            let error = Parameters::random(layout, &config, SEED, &Device::flex()).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
