//! Steps against AdamW written out in f64; what is refused, and that nothing has changed then; moments saved and restored.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_models::init::preset;
use spillway_models::registry::written_layouts;
use spillway_models::train::{
    DecayShape, Optimizer, OptimizerConfig, OptimizerError, Parameter, Parameters, ScheduleConfig, decays,
};

use super::{bits, noise, parameter, relative_error, tensor, values};

/// Shapes of a small model: two that decay, two that do not.
const SHAPES: [(&str, &[usize]); 4] = [
    ("embedding.weight", &[13, 8]),
    ("layers.0.mixer.in_proj.weight", &[24, 8]),
    ("layers.0.mixer.A_log", &[6, 4]),
    ("layers.0.norm.weight", &[8]),
];

fn list(seed: u64) -> Vec<Parameter> {
    let make = |(index, (name, shape)): (usize, (&str, &[usize]))| {
        let count = shape.iter().product();
        parameter(name, shape, &noise(seed * 31 + index as u64, count))
    };
    SHAPES.into_iter().enumerate().map(make).collect()
}

/// Gradients of a step, of very different sizes from parameter to parameter.
fn gradients(list: &[Parameter], step: u64) -> Vec<Vec<f32>> {
    let of = |(index, parameter): (usize, &Parameter)| {
        let scale = 10f32.powi(index as i32 - 3);
        let drawn = noise(1000 + step * 7 + index as u64, parameter.value.dims()[0]);
        drawn.into_iter().map(|value| scale * (value + 0.3)).collect()
    };
    list.iter().enumerate().map(of).collect()
}

fn tensors(gradients: &[Vec<f32>]) -> Vec<Option<Tensor<1>>> {
    gradients.iter().map(|values| Some(tensor(values))).collect()
}

fn norm(gradients: &[Vec<f32>]) -> f64 {
    let squares = gradients.iter().flatten().map(|value| f64::from(*value).powi(2));
    squares.sum::<f64>().sqrt()
}

fn config() -> OptimizerConfig {
    OptimizerConfig {
        weight_decay: 0.3,
        clip_norm: Some(2.0),
        schedule: ScheduleConfig::Wsd {
            warmup_steps: 7,
            decay_steps: 20,
            decay: DecayShape::OneMinusSqrt,
            final_fraction: 0.1,
        },
        ..OptimizerConfig::new(0.02)
    }
}

/// AdamW as in the paper, in f64.
struct Plain {
    weights: Vec<Vec<f64>>,
    moments: Vec<Vec<(f64, f64)>>,
}

impl Plain {
    fn new(list: &[Parameter]) -> Self {
        let of = |p: &Parameter| values(&p.value).into_iter().map(f64::from).collect::<Vec<_>>();
        let weights: Vec<Vec<f64>> = list.iter().map(of).collect();
        let moments = weights.iter().map(|w| vec![(0.0, 0.0); w.len()]).collect();
        Self { weights, moments }
    }

    fn step(&mut self, config: &OptimizerConfig, gradients: &[Vec<f32>], time: i32, rate: f64) {
        let scale = config
            .clip_norm
            .map_or(1.0, |limit| (limit / norm(gradients)).min(1.0));
        let [b1, b2] = config.betas;
        for (index, gradients) in gradients.iter().enumerate() {
            // The first two of SHAPES.
            let decay = if index < 2 { config.weight_decay } else { 0.0 };
            let weights = self.weights[index].iter_mut().zip(&mut self.moments[index]);
            for ((weight, (m, v)), g) in weights.zip(gradients) {
                let g = f64::from(*g) * scale;
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                let (m, v) = (*m / (1.0 - b1.powi(time)), *v / (1.0 - b2.powi(time)));
                *weight -= rate * (m / (v.sqrt() + config.eps) + decay * *weight);
            }
        }
    }
}

#[test]
fn fifty_steps_are_those_of_adamw_in_f64() {
    // Every step rounds a weight twice, by 2^-24 each, and has an update of 0.02 at most whose own error, a dozen roundings, is
    // smaller than that. Fifty steps that all err to one side come to this.
    let bound = 50.0 * 2.0 * 2f64.powi(-24);
    let mut list = list(1);
    let (config, mut plain) = (config(), Plain::new(&list));
    let mut optimizer = Optimizer::new(&config, &list, 50).unwrap();
    let mut clipped = 0;
    for step in 0..50 {
        let gradients = gradients(&list, step);
        let update = optimizer.step(&mut list, tensors(&gradients), step).unwrap();
        plain.step(&config, &gradients, step as i32 + 1, config.rate(step, 50));
        assert!((update.gradient_norm / norm(&gradients) - 1.0).abs() < 1e-12);
        assert_eq!(update.learning_rate, config.rate(step, 50));
        assert_eq!(update.clipped, norm(&gradients) > 2.0);
        assert!(update.unused.is_empty());
        clipped += u64::from(update.clipped);
    }
    assert!(
        (1..50).contains(&clipped),
        "{clipped} of 50 steps clipped: the case does not test both"
    );
    for (parameter, expected) in list.iter().zip(&plain.weights) {
        let error = relative_error(&values(&parameter.value), expected);
        assert!(error <= bound, "{}: {error:e}", parameter.name);
    }
}

#[test]
fn decay_is_decoupled_from_gradients_and_leaves_vectors_alone() {
    let mut list = list(2);
    let before: Vec<Vec<f32>> = list.iter().map(|p| values(&p.value)).collect();
    let config = OptimizerConfig {
        weight_decay: 0.5,
        ..OptimizerConfig::new(0.1)
    };
    let mut optimizer = Optimizer::new(&config, &list, 1).unwrap();
    let zeros: Vec<Vec<f32>> = before.iter().map(|values| vec![0.0; values.len()]).collect();
    let update = optimizer.step(&mut list, tensors(&zeros), 0).unwrap();
    assert_eq!((update.gradient_norm, update.clipped), (0.0, false));
    for (parameter, before) in list.iter().zip(&before) {
        let factor = if decays(parameter) { 1.0 - 0.1 * 0.5 } else { 1.0 };
        let expected: Vec<f32> = before.iter().map(|value| value * factor as f32).collect();
        assert_eq!(values(&parameter.value), expected, "{}", parameter.name);
    }
    assert!(decays(&list[0]) && decays(&list[1]) && !decays(&list[2]) && !decays(&list[3]));
}

#[test]
fn further_names_can_be_excepted_from_decay_but_not_ones_that_are_not_there() {
    let mut list = list(3);
    let before = bits(&list[1].value);
    let excepted = |end: &str| OptimizerConfig {
        no_decay: vec![end.into()],
        ..OptimizerConfig::new(0.1)
    };
    let mut optimizer = Optimizer::new(&excepted("in_proj.weight"), &list, 1).unwrap();
    let zeros: Vec<Vec<f32>> = list.iter().map(|p| vec![0.0; p.value.dims()[0]]).collect();
    optimizer.step(&mut list, tensors(&zeros), 0).unwrap();
    assert_eq!(bits(&list[1].value), before);
    for end in ["proj.weight", "in_proj", "nothing", ""] {
        let error = Optimizer::new(&excepted(end), &list, 1).unwrap_err();
        assert!(
            error.to_string().starts_with("no_decay: expected ends of"),
            "{error}"
        );
    }
}

#[test]
fn gradients_are_clipped_by_the_norm_of_all_together() {
    let mut list = vec![parameter("a", &[2], &[1.0, 1.0]), parameter("b", &[1], &[1.0])];
    let config = OptimizerConfig {
        clip_norm: Some(6.5),
        ..OptimizerConfig::new(0.1)
    };
    let mut optimizer = Optimizer::new(&config, &list, 1).unwrap();
    let gradients = vec![Some(tensor(&[3.0, -4.0])), Some(tensor(&[12.0]))];
    let update = optimizer.step(&mut list, gradients, 0).unwrap();
    assert_eq!((update.gradient_norm, update.clipped), (13.0, true));
    let moments = optimizer.tensors();
    let moment = |name: &str| moments[name].try_to_vec::<f32>().unwrap();
    // (1 − β₁) g, after g was halved. 1 − 0.9 is no f32.
    for (name, expected) in [("moment_1.a", vec![0.15, -0.2]), ("moment_1.b", vec![0.6])] {
        assert!(relative_error(&moment(name), &expected) < 1e-6, "{name}");
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_refused_by_name_and_changes_nothing() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut list = list(4);
        let mut optimizer = Optimizer::new(&config(), &list, 50).unwrap();
        let good = gradients(&list, 0);
        optimizer.step(&mut list, tensors(&good), 0).unwrap();
        let (weights, moments) = (snapshot(&list), optimizer.tensors());
        let mut broken = gradients(&list, 1);
        (broken[1][100], broken[2][3]) = (bad, bad);
        let error = optimizer.step(&mut list, tensors(&broken), 1).unwrap_err();
        let expected = OptimizerError::NonFinite {
            step: 1,
            parameter: "layers.0.mixer.in_proj.weight".into(),
        };
        assert_eq!(error, expected);
        assert_eq!((snapshot(&list), optimizer.tensors()), (weights, moments));
    }
}

fn snapshot(list: &[Parameter]) -> Vec<Vec<u32>> {
    list.iter().map(|parameter| bits(&parameter.value)).collect()
}

#[test]
fn gradients_whose_squares_are_infinite_are_refused_unless_clipped() {
    let huge = || vec![Some(tensor(&[2e19, 0.0]))];
    let mut list = vec![parameter("a", &[2], &[1.0, 1.0])];
    let mut optimizer = Optimizer::new(&OptimizerConfig::new(0.1), &list, 9).unwrap();
    let error = optimizer.step(&mut list, huge(), 3).unwrap_err();
    assert!(
        matches!(error, OptimizerError::Overflow { step: 3, .. }),
        "{error}"
    );
    assert_eq!(values(&list[0].value), [1.0, 1.0]);
    let config = OptimizerConfig {
        clip_norm: Some(1.0),
        ..OptimizerConfig::new(0.1)
    };
    let mut optimizer = Optimizer::new(&config, &list, 9).unwrap();
    optimizer.step(&mut list, huge(), 3).unwrap();
    // A first step goes by the learning rate, whatever the gradient.
    assert!((values(&list[0].value)[0] - 0.9).abs() < 1e-6);
}

#[test]
fn parameters_that_are_not_used_stay_and_are_listed() {
    let mut list = list(5);
    let mut optimizer = Optimizer::new(&config(), &list, 50).unwrap();
    let before = snapshot(&list);
    let mut some = tensors(&gradients(&list, 0));
    (some[0], some[3]) = (None, None);
    let update = optimizer.step(&mut list, some, 0).unwrap();
    assert_eq!(update.unused, ["embedding.weight", "layers.0.norm.weight"]);
    let after = snapshot(&list);
    assert_eq!((&after[0], &after[3]), (&before[0], &before[3]));
    assert!(after[1] != before[1] && after[2] != before[2]);
    assert_eq!(optimizer.tensors().len(), 2 * 3);
}

#[test]
fn gradients_of_other_parameters_are_refused() {
    let mut list = list(6);
    let mut optimizer = Optimizer::new(&config(), &list, 50).unwrap();
    let good = gradients(&list, 0);
    let mut refuse = |list: &mut [Parameter], gradients, expected: &str| {
        let error = optimizer.step(list, gradients, 0).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let mut fewer = tensors(&good);
    fewer.pop();
    refuse(&mut list, fewer, "number of gradients: expected 4, found 3");
    let mut longer = tensors(&good);
    longer[3] = Some(tensor(&[0.0; 9]));
    refuse(
        &mut list,
        longer,
        "gradient of layers.0.norm.weight: expected 8 values, found 9",
    );
    list.swap(0, 1);
    refuse(
        &mut list,
        tensors(&good),
        "parameter: expected embedding.weight, found layers.0.mixer.in_proj.weight",
    );
}

#[test]
fn moments_come_back_to_the_bit() {
    let mut straight = list(7);
    let mut optimizer = Optimizer::new(&config(), &straight, 50).unwrap();
    for step in 0..5 {
        let mut gradients = tensors(&gradients(&straight, step));
        // One that is not used in every step, and so is younger than the others.
        gradients[2] = gradients[2].take().filter(|_| step > 2);
        optimizer.step(&mut straight, gradients, step).unwrap();
    }
    let saved = optimizer.tensors();
    let mut resumed = straight.clone();
    let mut other = Optimizer::new(&config(), &resumed, 50).unwrap();
    other.restore(&saved).unwrap();
    assert_eq!(other.tensors(), saved);
    for step in 5..10 {
        let gradients = gradients(&straight, step);
        optimizer.step(&mut straight, tensors(&gradients), step).unwrap();
        other.step(&mut resumed, tensors(&gradients), step).unwrap();
    }
    assert_eq!(snapshot(&straight), snapshot(&resumed));
    // Without the moments it would have been another training.
    let mut fresh = list(7);
    let mut forgetful = Optimizer::new(&config(), &fresh, 50).unwrap();
    forgetful.restore(&BTreeMap::new()).unwrap();
    let first = gradients(&fresh, 5);
    forgetful.step(&mut fresh, tensors(&first), 5).unwrap();
    assert_ne!(forgetful.tensors(), optimizer.tensors());
}

#[test]
fn moments_of_another_optimiser_are_refused_and_change_nothing() {
    let mut list = list(8);
    let mut optimizer = Optimizer::new(&config(), &list, 50).unwrap();
    let first = gradients(&list, 0);
    optimizer.step(&mut list, tensors(&first), 0).unwrap();
    let saved = optimizer.tensors();
    let mut refuse = |change: &dyn Fn(&mut BTreeMap<String, TensorData>), expected: &str| {
        let mut changed = saved.clone();
        change(&mut changed);
        let error = optimizer.restore(&changed).unwrap_err();
        assert_eq!(error.to_string(), format!("saved optimiser: {expected}"));
        assert_eq!(optimizer.tensors(), saved);
    };
    let name = "layers.0.norm.weight";
    refuse(
        &|map| drop(map.remove(&format!("moment_2.{name}"))),
        "moment_2.layers.0.norm.weight: expected an entry, as there are others of this parameter, found none",
    );
    refuse(
        &|map| drop(map.insert(format!("moment_1.{name}"), TensorData::from([1f32, 2.0]))),
        "moment_1.layers.0.norm.weight: expected F32 [8], found F32 [2]",
    );
    refuse(
        &|map| drop(map.insert(format!("moment_1.{name}"), TensorData::from([1f64; 8]))),
        "moment_1.layers.0.norm.weight: expected F32 [8], found F64 [8]",
    );
    refuse(
        &|map| drop(map.insert(format!("time.{name}"), TensorData::from([u64::MAX]))),
        "time.layers.0.norm.weight: expected one U64 number below 2^31, found U64 [1]",
    );
    refuse(
        &|map| drop(map.insert("moment_1.head".into(), TensorData::from([1f32]))),
        "moment_1.head: expected entries of the parameters, found one of none",
    );
}

#[test]
fn every_layout_can_be_optimised_and_decays_where_the_rules_say() {
    for layout in written_layouts() {
        let name = format!("{} ({})", layout.architecture, layout.name);
        let config = serde_json::from_str(preset(layout, "tiny").unwrap().config).unwrap();
        let mut parameters = Parameters::random(layout, &config, 1, &Device::flex()).unwrap();
        let list = parameters.list_mut();
        let before: Vec<Vec<f32>> = list.iter().map(|p| values(&p.value)).collect();
        let mut optimizer = Optimizer::new(&OptimizerConfig::new(0.5), list, 1).unwrap();
        let zeros = list.iter().map(|p| Some(p.value.zeros_like())).collect();
        optimizer.step(list, zeros, 0).unwrap();
        let mut decayed = 0;
        for (parameter, before) in list.iter().zip(&before) {
            let moved = values(&parameter.value) != *before;
            let zero = before.iter().all(|value| *value == 0.0);
            assert_eq!(moved, decays(parameter) && !zero, "{name}: {}", parameter.name);
            decayed += u64::from(moved);
        }
        // The embedding, and more than one matrix a layer.
        assert!(decayed > 4, "{name}: {decayed} decay");
    }
}

#[test]
fn configurations_out_of_range_are_refused_by_field() {
    let good = config();
    good.validate(50).unwrap();
    let refuse = |change: &dyn Fn(&mut OptimizerConfig), option: &str| {
        let mut config = good.clone();
        change(&mut config);
        let error = config.validate(50).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{option}: expected")), "{error}");
        assert_eq!(
            Optimizer::new(&config, &list(9), 50).unwrap_err().to_string(),
            error
        );
    };
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60] {
        refuse(&|c| c.learning_rate = bad, "learning_rate");
        refuse(&|c| c.eps = bad, "eps");
        refuse(&|c| c.clip_norm = Some(bad), "clip_norm");
    }
    for bad in [1.0, -0.1, f64::NAN, 0.999_999_999_9] {
        refuse(&|c| c.betas[0] = bad, "betas[0]");
        refuse(&|c| c.betas[1] = bad, "betas[1]");
    }
    for bad in [-1.0, f64::NAN, 50.0] {
        refuse(&|c| c.weight_decay = bad, "weight_decay");
    }
    refuse(
        &|c| c.schedule = ScheduleConfig::Constant { warmup_steps: 50 },
        "schedule.warmup_steps",
    );
}

#[test]
fn a_configuration_reads_with_defaults_and_refuses_unknown_fields() {
    let config: OptimizerConfig = toml::from_str("learning_rate = 0.001").unwrap();
    assert_eq!(config, OptimizerConfig::new(0.001));
    assert_eq!((config.betas, config.eps), ([0.9, 0.95], 1e-8));
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<OptimizerConfig>(&text).unwrap(), config);
    for (text, expected) in [
        ("", "learning_rate"),
        ("learning_rate = 1\nmomentum = 0.9", "momentum"),
        (
            "learning_rate = 1\n[schedule]\nkind = \"cosine\"\ndecay_steps = 3",
            "decay_steps",
        ),
        ("learning_rate = 1\n[schedule]\nkind = \"wsd\"", "decay_steps"),
        ("learning_rate = 1\n[schedule]\nkind = \"stairs\"", "stairs"),
    ] {
        let error = toml::from_str::<OptimizerConfig>(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}
