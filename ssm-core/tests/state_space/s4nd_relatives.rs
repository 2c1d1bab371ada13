//! What stands beside S4ND's block: a window of free taps, and the block of ConvNeXt.

use std::collections::BTreeMap;

use burn::tensor::Device;
use spillway_ssm_core::WeightMap;
use spillway_ssm_core::free_convolution::nd::FreeConvolutionNd;
use spillway_ssm_core::image_shape::ImageShape;
use spillway_ssm_core::s4::Projection;
use spillway_ssm_core::s4nd::{ConvNextS4nd, S4ndConfig};

use super::mixers::values;
use super::s4nd::{WIDTH, assert_close, block, config, forward, images, numbers, tensor, tensors};

#[test]
fn a_window_of_free_taps_is_the_sum_over_them() {
    for (sizes, taps) in [(vec![7], 3), (vec![4, 5], 3), (vec![2, 3, 4], 3), (vec![3, 3], 1)] {
        let count = taps_of(taps, sizes.len());
        let (kernel, skip) = (numbers(WIDTH * count, 0.1), numbers(WIDTH, 0.2));
        // The value is z through GELU; the gate is σ(0).
        let mut weight = vec![0.0; 2 * WIDTH * WIDTH];
        (0..WIDTH).for_each(|channel| weight[channel * (WIDTH + 1)] = 1.0);
        let tensors = BTreeMap::from([
            ("kernel.K".to_owned(), tensor(kernel.clone(), &[WIDTH, count])),
            ("D".to_owned(), tensor(skip.clone(), &[1, WIDTH])),
            (
                "output_linear.weight".to_owned(),
                tensor(weight, &[2 * WIDTH, WIDTH]),
            ),
            (
                "output_linear.bias".to_owned(),
                tensor(vec![0.0; 2 * WIDTH], &[2 * WIDTH]),
            ),
        ]);
        let shape = ImageShape::new(sizes.clone()).expect("axes");
        let mut source = WeightMap::new(tensors, Device::flex());
        let block = FreeConvolutionNd::read(WIDTH, shape, taps, &mut source).expect("the weights fit");
        let positions: usize = sizes.iter().product();
        let input = images(1, positions, 0.9);
        let u = values(input.clone());
        let expected: Vec<f32> = (0..positions * WIDTH)
            .map(|place| {
                let (to, channel) = (place / WIDTH, place % WIDTH);
                let met = |from: usize| {
                    tap_between(&sizes, taps, to, from)
                        .map(|tap| f64::from(kernel[channel * count + tap] * u[from * WIDTH + channel]))
                };
                let sum: f64 = (0..positions).filter_map(met).sum();
                let z = sum + f64::from(skip[channel] * u[place]);
                (0.5 * z * 0.5 * (1.0 + libm::erf(z / 2.0_f64.sqrt()))) as f32
            })
            .collect();
        assert_close(&forward(&block, &input).expect("an image"), &expected, 1e-6);
    }
}

#[test]
fn a_window_without_a_middle_is_refused() {
    for (taps, channels) in [(4, WIDTH), (0, WIDTH), (3, 0)] {
        let shape = ImageShape::new(vec![4, 4]).expect("axes");
        let mut source = WeightMap::new(BTreeMap::new(), Device::flex());
        let error = FreeConvolutionNd::read(channels, shape, taps, &mut source);
        let error = error.expect_err("no such window").to_string();
        assert!(error.contains("an odd number of taps"), "{error}");
    }
}

#[test]
fn the_block_of_convnext_is_its_equation() {
    let config = S4ndConfig {
        projection: Projection::None,
        ..config(&[3, 4], true)
    };
    let hidden = 4 * WIDTH;
    let mut given = tensors(&config, 2.0);
    let plain = block(&config, given.clone());
    let of_mlp = [
        ("norm.weight", vec![WIDTH]),
        ("norm.bias", vec![WIDTH]),
        ("pwconv1.weight", vec![hidden, WIDTH]),
        ("pwconv1.bias", vec![hidden]),
        ("pwconv2.weight", vec![WIDTH, hidden]),
        ("pwconv2.bias", vec![WIDTH]),
        ("gamma", vec![WIDTH]),
    ];
    for (index, (name, shape)) in of_mlp.iter().enumerate() {
        let values = numbers(shape.iter().product(), 1.0 + index as f32);
        given.insert((*name).to_owned(), tensor(values, shape));
    }
    let of = |name: &str| -> Vec<f64> { given[name].iter::<f32>().map(f64::from).collect() };
    let product = |name: &str, x: &[f64]| -> Vec<f64> {
        let (weight, bias) = (of(&format!("{name}.weight")), of(&format!("{name}.bias")));
        let rows = weight.chunks_exact(x.len()).zip(bias);
        rows.map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias)
            .collect()
    };
    let input = images(2, 12, 0.9);
    let z = forward(&plain, &input).expect("images");
    let mut expected = Vec::new();
    for z in z.chunks_exact(WIDTH) {
        let z: Vec<f64> = z.iter().map(|z| f64::from(*z)).collect();
        let mean = z.iter().sum::<f64>() / WIDTH as f64;
        let variance = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / WIDTH as f64;
        let weights = of("norm.weight").into_iter().zip(of("norm.bias"));
        let normed: Vec<f64> = z
            .iter()
            .zip(weights)
            .map(|(z, (weight, bias))| (z - mean) / (variance + 1e-6).sqrt() * weight + bias)
            .collect();
        let gelu = |x: &f64| 0.5 * x * (1.0 + libm::erf(x / 2.0_f64.sqrt()));
        let inner: Vec<f64> = product("pwconv1", &normed).iter().map(gelu).collect();
        let out = product("pwconv2", &inner).into_iter().zip(of("gamma"));
        expected.extend(out.map(|(x, scale)| (x * scale) as f32));
    }
    let read =
        |config: S4ndConfig| ConvNextS4nd::read(config, &mut WeightMap::new(given.clone(), Device::flex()));
    let found = forward(&read(config.clone()).expect("the weights fit"), &input).expect("images");
    assert_close(&found, &expected, 2e-6);
    let two = S4ndConfig {
        channels: 2,
        ..config
    };
    let error = read(two).expect_err("two outputs").to_string();
    assert!(error.contains("one output of each channel"), "{error}");
}

fn taps_of(taps: usize, axes: usize) -> usize {
    taps.pow(axes as u32)
}

/// The index of the tap by which `to` sees `from`, if it is within the window on every axis.
fn tap_between(sizes: &[usize], taps: usize, mut to: usize, mut from: usize) -> Option<usize> {
    let (mut tap, mut stride) = (0, 1);
    for size in sizes.iter().rev() {
        let index = (to % size + taps / 2).checked_sub(from % size)?;
        if index >= taps {
            return None;
        }
        tap += index * stride;
        (to, from, stride) = (to / size, from / size, stride * taps);
    }
    Some(tap)
}
