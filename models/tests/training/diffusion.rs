//! A training of diffusion: it learns, it goes on to the same bits, and its samples are of the shape that was asked for.

use spillway_models::tasks::Images;
use spillway_models::train::diffusion::{
    DiffusionConfig, DiffusionNetworkConfig, DiffusionTrainer, SampleOptions, Sampler,
};
use spillway_models::train::optimizer::OptimizerConfig;
use spillway_models::train::snapshot::Snapshots;
use tempfile::TempDir;

const SIZES: DiffusionNetworkConfig = DiffusionNetworkConfig {
    model_dim: 12,
    inner_dim: 8,
    factor: 2,
    layers: 2,
    state_dim: 4,
    condition_dim: 8,
};

fn config() -> DiffusionConfig {
    DiffusionConfig {
        network: SIZES,
        noise: Default::default(),
        noise_steps: 50,
        steps: 60,
        images: 4,
        variance_weight: 1e-3,
        class_dropout: 0.1,
        mean_decay: 0.9,
        optimizer: OptimizerConfig {
            clip_norm: Some(1.0),
            weight_decay: 0.0,
            ..OptimizerConfig::new(5e-3)
        },
        seed: 5,
    }
}

fn trainer(config: DiffusionConfig) -> DiffusionTrainer {
    DiffusionTrainer::new(config, Images::shipped()).unwrap_or_else(|error| panic!("{error}"))
}

fn step(trainer: &mut DiffusionTrainer, steps: usize) -> Vec<f64> {
    let losses = (0..steps).map(|_| trainer.step().unwrap_or_else(|error| panic!("{error}")).loss);
    losses.collect()
}

fn values(trainer: &DiffusionTrainer, name: &str) -> Vec<f32> {
    let parameters = trainer.parameters().iter();
    let found = parameters.filter(|parameter| parameter.name == name || name.is_empty());
    found
        .flat_map(|parameter| parameter.value.to_data().iter::<f32>().collect::<Vec<_>>())
        .collect()
}

fn options(sampler: Sampler, guidance: f64) -> SampleOptions {
    SampleOptions {
        sampler,
        classes: vec![Some(3), None],
        guidance,
        clipped: true,
        seed: 1,
    }
}

#[test]
fn a_training_learns_and_goes_on_from_a_snapshot_to_the_same_bits() {
    let folder = TempDir::new().expect("a folder");
    let snapshots = Snapshots::open(folder.path()).expect("a folder");
    let mut whole = trainer(config());
    let first = step(&mut whole, 20);
    whole.save(&snapshots).expect("saved");
    let mut again = trainer(config());
    again.restore(&snapshots).expect("restored");
    assert_eq!(again.steps_done(), 20);
    let (rest, same) = (step(&mut whole, 40), step(&mut again, 40));
    assert_eq!(rest, same);
    assert_eq!(values(&whole, ""), values(&again, ""));
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    // A network that answers 0 has the variance of the noise, 1.
    assert!(first[0] > 0.8, "{first:?}");
    let last = mean(&rest[20..]);
    assert!(last < 0.6 * mean(&first[..5]), "{last} of {first:?}");

    for (sampler, guidance) in [(Sampler::Ddpm, 1.0), (Sampler::Ddim(0.0), 2.0)] {
        let draw = |trainer: &DiffusionTrainer| {
            let drawn = trainer.sample(10, &options(sampler, guidance)).expect("images");
            assert_eq!(drawn.dims(), [2, 64, 1]);
            drawn.into_data().iter::<f32>().collect::<Vec<f32>>()
        };
        let drawn = draw(&whole);
        assert!(drawn.iter().all(|value| value.abs() <= 1.0 + 1e-5), "{drawn:?}");
        assert_eq!(drawn, draw(&again));
    }
    let other = DiffusionConfig { seed: 6, ..config() };
    let error = trainer(other).restore(&snapshots).expect_err("another training");
    assert!(error.to_string().contains("seed"), "{error}");
}

/// The network's two outputs are rows of one matrix, the noise's first.
#[test]
fn the_variance_is_trained_by_the_divergence_alone_and_the_noise_by_the_mean_square_alone() {
    let with = |variance_weight: f64| {
        let mut trainer = trainer(DiffusionConfig {
            variance_weight,
            optimizer: OptimizerConfig {
                clip_norm: None,
                ..config().optimizer
            },
            ..config()
        });
        step(&mut trainer, 1);
        let out = values(&trainer, "out.weight");
        (out[..SIZES.model_dim].to_vec(), out[SIZES.model_dim..].to_vec())
    };
    let ((noise, variance), (same, trained)) = (with(0.0), with(1.0));
    assert_eq!(noise, same);
    assert!(noise.iter().all(|weight| *weight != 0.0));
    assert!(variance.iter().all(|weight| *weight == 0.0), "{variance:?}");
    assert!(trained.iter().all(|weight| *weight != 0.0), "{trained:?}");
}

#[test]
fn the_running_mean_is_that_of_the_weights() {
    // Without decay the mean is the weights themselves.
    let mut plain = trainer(DiffusionConfig {
        mean_decay: 0.0,
        ..config()
    });
    let mut averaged = trainer(config());
    step(&mut plain, 3);
    step(&mut averaged, 3);
    assert_eq!(values(&plain, ""), values(&averaged, ""));
    let draw = |trainer: &DiffusionTrainer| {
        let drawn = trainer
            .sample(5, &options(Sampler::Ddim(0.0), 1.0))
            .expect("images");
        drawn.into_data().iter::<f32>().collect::<Vec<f32>>()
    };
    assert_ne!(draw(&plain), draw(&averaged));
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let refused = |config: DiffusionConfig| {
        let error = DiffusionTrainer::new(config, Images::shipped()).expect_err("refused");
        error.to_string()
    };
    let network = |network: DiffusionNetworkConfig| DiffusionConfig { network, ..config() };
    for (config, field) in [
        (
            DiffusionConfig {
                images: 0,
                ..config()
            },
            "images",
        ),
        (
            DiffusionConfig {
                noise_steps: 1,
                ..config()
            },
            "noise_steps",
        ),
        (
            DiffusionConfig {
                class_dropout: 1.0,
                ..config()
            },
            "class_dropout",
        ),
        (
            DiffusionConfig {
                mean_decay: 1.0,
                ..config()
            },
            "mean_decay",
        ),
        (
            DiffusionConfig {
                variance_weight: f64::NAN,
                ..config()
            },
            "variance_weight",
        ),
        (
            network(DiffusionNetworkConfig {
                condition_dim: 3,
                ..SIZES
            }),
            "condition_dim",
        ),
        (
            network(DiffusionNetworkConfig {
                state_dim: 3,
                ..SIZES
            }),
            "an even state",
        ),
        (network(DiffusionNetworkConfig { factor: 0, ..SIZES }), "DiffuSSM"),
    ] {
        let error = refused(config);
        assert!(error.contains(field), "{field}: {error}");
    }
    let error = trainer(config())
        .sample(51, &options(Sampler::Ddpm, 1.0))
        .expect_err("too many");
    assert!(error.to_string().contains("sampling steps"), "{error}");
}
