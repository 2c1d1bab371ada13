//! The S4ND block on images: outputs and gradients of the authors' code.

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::WeightSource;
use spillway_ssm_core::image_shape::Resolution;
use spillway_ssm_core::operators::linear_state_space::Rule;
use spillway_ssm_core::s4::Projection;
use spillway_ssm_core::s4nd::{S4nd, S4ndAxis, S4ndConfig};
use spillway_ssm_core::state_space::init::{StepRange, Transform};

use super::mixers::{Leaves, data, expect, gradient, leaf_of, values, weights};
use super::support::{Case, cases};

const NAMES: [(&str, &str); 15] = [
    ("kernel.0.inv_dt", "kernel.0.inv_dt"),
    ("kernel.0.A_real", "kernel.0.A_real"),
    ("kernel.0.A_imag", "kernel.0.A_imag"),
    ("kernel.0.B", "kernel.0.B"),
    ("kernel.0.C", "kernel.0.C"),
    ("kernel.0.P", "kernel.0.P"),
    ("kernel.1.inv_dt", "kernel.1.inv_dt"),
    ("kernel.1.A_real", "kernel.1.A_real"),
    ("kernel.1.A_imag", "kernel.1.A_imag"),
    ("kernel.1.B", "kernel.1.B"),
    ("kernel.1.C", "kernel.1.C"),
    ("kernel.1.P", "kernel.1.P"),
    ("D", "D"),
    ("output_linear.weight", "output_linear.0.weight"),
    ("output_linear.bias", "output_linear.0.bias"),
];

/// The sizes of a case's images.
fn sizes(case: &Case) -> Vec<usize> {
    ["La", "Lb"]
        .iter()
        .map(|dim| case.json["dims"][*dim].as_u64().expect("a dimension") as usize)
        .collect()
}

fn config(case: &Case) -> S4ndConfig {
    let flag = |name| case.number(name, 0.0) != 0.0;
    let count = |name| case.scalar(name).as_u64().map(|count| count as usize);
    let [rate, copies] = [case.number("rate", 1.0), case.number("n_ssm", 1.0)];
    let axis = |(index, size): (usize, &usize)| {
        let of_axis = |name: &str| case.scalar(name)[index].as_u64().map(|value| value as usize);
        S4ndAxis {
            size: (*size as f64 * rate).round() as usize,
            bidirectional: flag("bidirectional"),
            taps: of_axis("l_max"),
            truncated_at: of_axis("l_kernel").expect("whether C is truncated"),
        }
    };
    let outputs = count("out_channels");
    S4ndConfig {
        model_dim: case.shape("in.kernel.0.inv_dt")[0],
        channels: outputs.unwrap_or(1) * count("channels").expect("outputs"),
        summed: outputs.is_some(),
        terms: count("trank").expect("a rank"),
        state_dim: 2 * case.shape("in.kernel.0.A_real")[1],
        rank: case
            .if_any("in.kernel.0.P")
            .map_or(0, |_| case.shape("in.kernel.0.P")[0]),
        copies: copies as usize,
        rule: match case.text("disc", "zoh") {
            "bilinear" => Rule::Bilinear,
            _ => Rule::ZeroOrderHold,
        },
        axes: sizes(case).iter().enumerate().map(axis).collect(),
        tied: false,
        band_limit: case.scalar("bandlimit").as_f64(),
        step_transform: Transform::Exp,
        rate_transform: Transform::Exp,
        projection: match flag("linear") {
            true => Projection::None,
            false => Projection::Glu,
        },
        fresh: "diag-lin".into(),
        fresh_steps: StepRange::default(),
    }
}

fn read<S: WeightSource<Error = spillway_ssm_core::Error>>(case: &Case, source: &mut S) -> S4nd {
    S4nd::read(config(case), source).unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

/// The block of the images of a case, channels where the case has them.
fn run(case: &Case, block: &S4nd, images: Tensor<4>) -> Tensor<4> {
    let turned = case.number("transposed", 0.0) != 0.0;
    let images = match turned {
        true => images.permute([0, 2, 3, 1]),
        false => images,
    };
    let [batch, high, wide, channels] = images.dims();
    let resolution = Resolution {
        sizes: vec![high, wide],
        rate: case.number("rate", 1.0),
    };
    let rows = images.reshape([batch, high * wide, channels]);
    let found = block
        .forward_at(rows, &resolution)
        .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let outputs = found.dims()[2];
    let found = found.reshape([batch, high, wide, outputs]);
    match turned {
        true => found.permute([0, 3, 1, 2]),
        false => found,
    }
}

#[test]
fn golden_s4nd_blocks_and_their_gradients() {
    let (mut low_rank, mut other_rates) = (0, 0);
    for case in cases("s4nd_2d") {
        low_rank += usize::from(case.if_any("in.kernel.0.P").is_some());
        other_rates += usize::from(case.number("rate", 1.0) != 1.0);
        let block = read(&case, &mut weights(&case, &NAMES));
        let images = Tensor::from_data(data(&case, "in.u"), &Device::flex());
        expect(&case, "the output", &values(run(&case, &block, images)), "out.y");

        let mut leaves = Leaves::new(&case, &NAMES);
        let block = read(&case, &mut leaves);
        let shape = case.shape("in.u").to_vec();
        let leaf = leaf_of(data(&case, "in.u"));
        let images = leaf.clone().reshape([shape[0], shape[1], shape[2], shape[3]]);
        let found = run(&case, &block, images);
        expect(&case, "the output on a tape", &values(found.clone()), "out.y");
        let cotangent = Tensor::from_data(data(&case, "cot.y"), &Device::flex().autodiff());
        let mut gradients = (found * cotangent).sum().backward();
        let by_input = gradient(&leaf, &mut gradients);
        expect(&case, "the gradient of the images", &by_input, "grad.u");
        for (own, theirs) in NAMES {
            if let Some(found) = leaves.gradient(own, &mut gradients) {
                let what = format!("the gradient of {own}");
                expect(&case, &what, &found, &format!("grad.{theirs}"));
            }
        }
    }
    assert!(
        low_rank > 0 && other_rates > 0,
        "{low_rank} cases have a P, {other_rates} another rate"
    );
}
