//! The S4ND block: what it must be at other resolutions, along one axis, in three, and what it refuses.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::image_shape::Resolution;
use spillway_ssm_core::operators::linear_state_space::Rule;
use spillway_ssm_core::s4::{ModeSum, Projection, S4, S4Config};
use spillway_ssm_core::s4nd::{S4nd, S4ndAxis, S4ndConfig, inflate};
use spillway_ssm_core::state_space::init::{StepRange, Transform};
use spillway_ssm_core::{Chain, Chunking, Context, Error, Mixer, Shared, WeightMap};

use super::mixers::{run, values};

pub const WIDTH: usize = 3;
const MODES: usize = 4;

pub fn config(sizes: &[usize], bidirectional: bool) -> S4ndConfig {
    let axis = |size: &usize| S4ndAxis {
        size: *size,
        bidirectional,
        taps: None,
        truncated_at: 0,
    };
    S4ndConfig {
        model_dim: WIDTH,
        channels: 1,
        summed: false,
        terms: 1,
        state_dim: 2 * MODES,
        rank: 0,
        copies: 1,
        rule: Rule::ZeroOrderHold,
        axes: sizes.iter().map(axis).collect(),
        tied: false,
        band_limit: None,
        step_transform: Transform::Exp,
        rate_transform: Transform::Exp,
        projection: Projection::Glu,
        fresh: "diag-lin".into(),
        fresh_steps: StepRange::default(),
    }
}

/// Numbers from −1 to 1 without a pattern.
pub fn numbers(count: usize, shift: f32) -> Vec<f32> {
    (0..count)
        .map(|index| (7.3 * index as f32 + shift).sin())
        .collect()
}

pub fn tensor(values: Vec<f32>, shape: &[usize]) -> TensorData {
    TensorData::new(values, shape.to_vec())
}

/// The tensors of a block of this configuration. Modes turn by up to `turn` in a unit of time.
pub fn tensors(config: &S4ndConfig, turn: f32) -> BTreeMap<String, TensorData> {
    let mut found = BTreeMap::new();
    let (copies, rank) = (config.copies, config.rank);
    let sets = if config.tied { 1 } else { config.axes.len() };
    for (set, axis) in config.axes[..sets].iter().enumerate() {
        let shift = set as f32;
        let rows = config.terms * config.channels * (1 + usize::from(axis.bidirectional));
        let mut add = |name: &str, values: Vec<f32>, shape: &[usize]| {
            found.insert(format!("kernel.{set}.{name}"), tensor(values, shape));
        };
        add(
            "inv_dt",
            numbers(WIDTH, shift).iter().map(|x| 0.3 * x - 1.5).collect(),
            &[WIDTH, 1],
        );
        add("A_real", numbers(copies * MODES, shift + 0.1), &[copies, MODES]);
        let turns = numbers(copies * MODES, shift + 0.2);
        add(
            "A_imag",
            turns.iter().map(|x| turn * x).collect(),
            &[copies, MODES],
        );
        add(
            "B",
            numbers(copies * MODES * 2, shift + 0.3),
            &[1, copies, MODES, 2],
        );
        let c = numbers(rows * WIDTH * MODES * 2, shift + 0.4);
        add("C", c, &[rows, WIDTH, MODES, 2]);
        if rank > 0 {
            let p = numbers(rank * copies * MODES * 2, shift + 0.5);
            add("P", p, &[rank, copies, MODES, 2]);
        }
    }
    if !config.summed {
        let skip = numbers(config.channels * WIDTH, 0.6);
        found.insert("D".into(), tensor(skip, &[config.channels, WIDTH]));
    }
    if config.projection == Projection::Glu {
        let inner = config.channels * WIDTH;
        let weight = numbers(2 * WIDTH * inner, 0.7);
        found.insert("output_linear.weight".into(), tensor(weight, &[2 * WIDTH, inner]));
        found.insert(
            "output_linear.bias".into(),
            tensor(numbers(2 * WIDTH, 0.8), &[2 * WIDTH]),
        );
    }
    found
}

pub fn block(config: &S4ndConfig, tensors: BTreeMap<String, TensorData>) -> S4nd {
    let mut source = WeightMap::new(tensors, Device::flex());
    let block = S4nd::read(config.clone(), &mut source).expect("the weights fit");
    source.expect_all_read().expect("nothing is left");
    block
}

pub fn images(batch: usize, positions: usize, shift: f32) -> Tensor<3> {
    let values = numbers(batch * positions * WIDTH, shift);
    Tensor::from_data(
        TensorData::new(values, [batch, positions, WIDTH]),
        &Device::flex(),
    )
}

pub fn forward(mixer: &dyn Mixer, input: &Tensor<3>) -> Result<Vec<f32>, Error> {
    let [batch, positions, _] = input.dims();
    let mut state = mixer.start(0, batch, &Chain::default(), &Device::flex());
    run(mixer, input, &mut state, &[positions], None).map(values)
}

#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f32], allowed: f64) {
    assert_eq!(found.len(), expected.len());
    let square = |x: f64| x * x;
    let pairs = found.iter().zip(expected);
    let off: f64 = pairs.map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    let error = (off / size).sqrt();
    assert!(error <= allowed, "off by {error:e}, {allowed:e} allowed");
}

#[test]
fn along_one_axis_it_is_s4() {
    for (rank, rule) in [(0, Rule::ZeroOrderHold), (1, Rule::Bilinear)] {
        let config = S4ndConfig {
            rank,
            rule,
            ..config(&[11], true)
        };
        let tensors = tensors(&config, 2.0);
        let found = forward(&block(&config, tensors.clone()), &images(2, 11, 0.9)).expect("images");
        let of_s4 = S4Config {
            model_dim: WIDTH,
            channels: 1,
            state_dim: 2 * MODES,
            rank,
            copies: 1,
            rule,
            modes: ModeSum::Pairs,
            bidirectional: true,
            taps: None,
            step_transform: Transform::Exp,
            rate_transform: Transform::Exp,
            gate: None,
            projection: Projection::Glu,
            fresh: "diag-lin".into(),
            fresh_steps: StepRange::default(),
            truncated_at: 0,
        };
        let renamed = tensors
            .into_iter()
            .map(|(name, data)| (name.replace("kernel.0.", "kernel."), data));
        let mut source = WeightMap::new(renamed.collect(), Device::flex());
        let s4 = S4::read(of_s4, &mut source).expect("the weights fit");
        assert_close(
            &found,
            &forward(&s4, &images(2, 11, 0.9)).expect("a sequence"),
            2e-6,
        );
    }
}

/// A system at twice the step reads every position twice as the same system at its own step does, at the second of each two, where the
/// zero-order hold is exact.
#[test]
fn causal_blocks_see_an_image_of_doubled_positions_as_the_image() {
    let config = S4ndConfig {
        projection: Projection::None,
        ..config(&[10, 6], false)
    };
    let block = block(&config, tensors(&config, 2.0));
    let coarse = images(1, 15, 0.9);
    let double: Vec<f32> = {
        let values = values(coarse.clone());
        let place = |index: usize| {
            let (position, channel) = (index / WIDTH, index % WIDTH);
            let (row, column) = (position / 6 / 2, position % 6 / 2);
            values[(row * 3 + column) * WIDTH + channel]
        };
        (0..60 * WIDTH).map(place).collect()
    };
    let double = Tensor::from_data(TensorData::new(double, [1, 60, WIDTH]), &Device::flex());
    // 5 × 3 has the proportions of 10 × 6 at half the resolution: a rate of 2.
    let at_half = forward(&block, &coarse).expect("an image");
    let whole = forward(&block, &double).expect("an image");
    let second: Vec<f32> = (0..15 * WIDTH)
        .map(|index| {
            let (position, channel) = (index / WIDTH, index % WIDTH);
            let (row, column) = (2 * (position / 3) + 1, 2 * (position % 3) + 1);
            whole[(row * 6 + column) * WIDTH + channel]
        })
        .collect();
    assert_close(&at_half, &second, 2e-6);
}

#[test]
fn tied_axes_have_the_same_kernel() {
    let tied = S4ndConfig {
        tied: true,
        ..config(&[5, 7], true)
    };
    let of_tied = tensors(&tied, 2.0);
    let mut of_both = of_tied.clone();
    for (name, data) in &of_tied {
        if let Some(rest) = name.strip_prefix("kernel.0.") {
            of_both.insert(format!("kernel.1.{rest}"), data.clone());
        }
    }
    let both = config(&[5, 7], true);
    let input = images(2, 35, 0.9);
    assert_eq!(
        forward(&block(&tied, of_tied), &input),
        forward(&block(&both, of_both), &input)
    );
}

#[test]
fn a_band_limit_leaves_out_what_is_fast_and_nothing_else() {
    let plain = config(&[6, 6], true);
    let given = tensors(&plain, 9.0);
    let input = images(1, 36, 0.9);
    let limited = |limit: f64| {
        let config = S4ndConfig {
            band_limit: Some(limit),
            ..plain.clone()
        };
        forward(&block(&config, given.clone()), &input).expect("an image")
    };
    // C of the modes that the limit b = 0.4 leaves out set to 0 by hand.
    let mut by_hand = given.clone();
    let mut left_out = 0;
    for set in 0..2 {
        let of = |name: &str| -> Vec<f32> { given[&format!("kernel.{set}.{name}")].iter::<f32>().collect() };
        let (steps, turns, mut c) = (of("inv_dt"), of("A_imag"), of("C"));
        for (place, value) in c.iter_mut().enumerate() {
            let (mode, channel) = (place / 2 % MODES, place / 2 / MODES % WIDTH);
            let cycles = steps[channel].exp() * turns[mode].abs() / (2.0 * std::f32::consts::PI);
            if cycles >= 0.2 {
                *value = 0.0;
                left_out += 1;
            }
        }
        by_hand.insert(format!("kernel.{set}.C"), tensor(c, &[2, WIDTH, MODES, 2]));
    }
    assert!(left_out > 0 && left_out < 2 * 2 * WIDTH * MODES * 2, "{left_out}");
    let expected = forward(&block(&plain, by_hand), &input).expect("an image");
    assert_eq!(limited(0.4), expected);
    let whole = forward(&block(&plain, given.clone()), &input).expect("an image");
    assert_eq!(limited(1e3), whole);
}

#[test]
fn a_video_that_stands_still_is_its_image() {
    for (rank, rule, tied) in [(0, Rule::ZeroOrderHold, false), (1, Rule::Bilinear, true)] {
        let flat = S4ndConfig {
            rank,
            rule,
            tied,
            terms: 2,
            ..config(&[4, 5], true)
        };
        let given = tensors(&flat, 2.0);
        for frames in [1, 2, 5] {
            let (config, inflated) = inflate(&flat, &given, frames).expect("a block of videos");
            let video = block(&config, inflated);
            let image = images(2, 20, 0.9);
            let still = image.clone().repeat_dim(1, frames);
            let found = video
                .forward_at(
                    still,
                    &Resolution {
                        sizes: vec![frames, 4, 5],
                        rate: 1.0,
                    },
                )
                .expect("a video");
            let last = found.narrow(1, (frames - 1) * 20, 20);
            let expected = forward(&block(&flat, given.clone()), &image).expect("an image");
            assert_close(&values(last), &expected, 2e-6);
        }
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let config = config(&[4, 6], true);
    let block = block(&config, tensors(&config, 2.0));
    assert!(block.sees_later_tokens());
    let text = |result: Result<Vec<f32>, Error>| result.expect_err("no image").to_string();
    let found = text(forward(&block, &images(1, 25, 0.9)));
    assert!(
        found.contains("found 25 for axes in the proportions [4, 6]"),
        "{found}"
    );
    let mut state = block.start(0, 2, &Chain::default(), &Device::flex());
    let unequal = run(&block, &images(2, 24, 0.9), &mut state, &[24], Some(&[24, 6]));
    let found = text(unequal.map(values));
    assert!(found.contains("all of one size"), "{found}");
    let pieces = run(&block, &images(1, 30, 0.9), &mut state, &[24, 6], None);
    let found = text(pieces.map(values));
    assert!(found.contains("reads them whole"), "{found}");
    // No positions are no images.
    let mut context = Context {
        chain: &Chain::default(),
        layer: 0,
        chunking: Chunking::Fastest,
        positions: &[0],
        lengths: None,
        prefix: None,
        shared: &mut Shared::default(),
    };
    let nothing = block.forward(images(1, 0, 0.9), &mut state, &mut context);
    assert_eq!(nothing.expect("no images").dims(), [1, 0, WIDTH]);
    let at = |sizes: &[usize], rate: f64| {
        let resolution = Resolution {
            sizes: sizes.to_vec(),
            rate,
        };
        block
            .forward_at(images(1, 24, 0.9), &resolution)
            .expect_err("no such resolution")
            .to_string()
    };
    for (sizes, rate, words) in [
        (&[24][..], 1.0, "axes of an image"),
        (&[5, 5], 1.0, "input of an S4ND block"),
        (&[4, 6], 0.0, "a positive number, found 0"),
        (&[4, 6], f64::NAN, "a positive number, found NaN"),
    ] {
        let found = at(sizes, rate);
        assert!(found.contains(words), "{sizes:?} at {rate}: {found}");
    }
}

#[test]
fn what_is_no_block_of_images_is_refused() {
    let good = config(&[4, 6], true);
    let refused = |config: S4ndConfig| {
        let mut source = WeightMap::new(tensors(&good, 2.0), Device::flex());
        S4nd::read(config, &mut source)
            .expect_err("no such block")
            .to_string()
    };
    let axis = good.axes[0];
    let causal = S4ndAxis {
        bidirectional: false,
        ..axis
    };
    let empty = S4ndAxis { size: 0, ..axis };
    for (axes, words) in [
        (vec![], "1 to 3"),
        (vec![axis; 4], "1 to 3"),
        (vec![axis, empty], "at least 1 position"),
    ] {
        let found = refused(S4ndConfig { axes, ..good.clone() });
        assert!(found.contains(words), "{found}");
    }
    let found = refused(S4ndConfig {
        tied: true,
        axes: vec![axis, causal],
        ..good.clone()
    });
    assert!(found.contains("the same directions"), "{found}");
    for (terms, channels) in [(0, 1), (1, 0)] {
        let found = refused(S4ndConfig {
            terms,
            channels,
            ..good.clone()
        });
        assert!(found.contains("all at least 1"), "{found}");
    }
    for limit in [0.0, -1.0, f64::NAN] {
        let found = refused(S4ndConfig {
            band_limit: Some(limit),
            ..good.clone()
        });
        assert!(
            found.contains("band limit: expected a positive number"),
            "{found}"
        );
    }
    let given = tensors(&good, 2.0);
    for (config, frames) in [(good.clone(), 0), (config(&[4], true), 2)] {
        let found = inflate(&config, &given, frames)
            .expect_err("no video")
            .to_string();
        assert!(found.contains("2 axes and at least 1 frame"), "{found}");
    }
    let mut missing = given;
    missing.remove("kernel.0.B");
    let found = inflate(&good, &missing, 2).expect_err("no B").to_string();
    assert!(found.contains("kernel.0.B"), "{found}");
}
