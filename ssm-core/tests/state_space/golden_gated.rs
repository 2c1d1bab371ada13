//! Gated state spaces: outputs and gradients of other people's code, and of the equations where there is none.

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::bigs::{Bigs, BigsConfig};
use spillway_ssm_core::channel_filter::FilterKind;
use spillway_ssm_core::diffussm::{DiffuSsm, DiffuSsmConfig};
use spillway_ssm_core::gss::{Gss, GssConfig};
use spillway_ssm_core::operators::gated_norm;
use spillway_ssm_core::operators::norm::{GateOrder, NormPlan, NormWeights, Statistic};
use spillway_ssm_core::state_space::init::StepRange;
use spillway_ssm_core::{Chain, Error, Init, Mixer, WeightSource};

use super::mixers::{Leaves, data, expect, run, values, weights};
use super::support::{Case, cases};

/// The block of an operator's cases.
trait Block {
    const OPERATOR: &'static str;

    /// y of a case, whose inputs are all in `source`.
    fn output<S: WeightSource<Error = Error>>(case: &Case, source: &mut S) -> Result<Tensor<3>, Error>;
}

fn input<S: WeightSource<Error = Error>>(case: &Case, source: &mut S) -> Result<Tensor<3>, Error> {
    let shape: [usize; 3] = case.shape("in.x").try_into().expect("three dimensions");
    source.tensor("x", shape, Init::Zeros)
}

/// A LayerNorm of weight `NAME.weight` and bias `NAME.bias`.
fn norm<S: WeightSource<Error = Error>>(
    name: &str,
    eps: f32,
    x: Tensor<3>,
    source: &mut S,
) -> Result<Tensor<3>, Error> {
    let width = x.dims()[2];
    let plan = NormPlan {
        statistic: Statistic::Variance,
        eps,
        group_size: width,
        order: GateOrder::NormAfterGate,
    };
    let weights = NormWeights {
        gate: None,
        weight: Some(source.vector(&format!("{name}.weight"), width, Init::Ones)?),
        bias: Some(source.vector(&format!("{name}.bias"), width, Init::Zeros)?),
    };
    gated_norm(x, weights, plan)
}

fn whole(mixer: &dyn Mixer, input: &Tensor<3>) -> Result<Tensor<3>, Error> {
    let [batch, time, _] = input.dims();
    let mut state = mixer.start(0, batch, &Chain::default(), &input.device());
    run(mixer, input, &mut state, &[time], None)
}

fn gss_config(case: &Case) -> GssConfig {
    let [hidden_dim, model_dim]: [usize; 2] = case.shape("in.to_u.0.weight").try_into().expect("a matrix");
    let [channels, modes]: [usize; 2] = case.shape("in.dss.C_real").try_into().expect("a matrix");
    GssConfig {
        model_dim,
        hidden_dim,
        channels,
        modes,
        imag_exp: case.number("imag_exp", 1.0) != 0.0,
        inner_norm: true,
        reversed: case.number("reverse", 0.0) != 0.0,
    }
}

struct OfGss;

impl Block for OfGss {
    const OPERATOR: &'static str = "gss_block";

    fn output<S: WeightSource<Error = Error>>(case: &Case, source: &mut S) -> Result<Tensor<3>, Error> {
        let x = input(case, source)?;
        let normed = norm("norm", 1e-5, x.clone(), source)?;
        let mixer = Gss::read(gss_config(case), source)?;
        Ok(x + whole(&mixer, &normed)?)
    }
}

fn bigs_config(case: &Case) -> BigsConfig {
    let [hidden_dim, model_dim]: [usize; 2] = case.shape("in.dv.weight").try_into().expect("a matrix");
    BigsConfig {
        model_dim,
        hidden_dim,
        modes: case.shape("in.fs4.kernel.C")[0],
    }
}

struct OfBigs;

impl Block for OfBigs {
    const OPERATOR: &'static str = "bigs_layer";

    fn output<S: WeightSource<Error = Error>>(case: &Case, source: &mut S) -> Result<Tensor<3>, Error> {
        let x = input(case, source)?;
        let normed = norm("LayerNorm", 1e-12, x.clone(), source)?;
        let mixer = Bigs::read(bigs_config(case), source)?;
        Ok(x + whole(&mixer, &normed)?)
    }
}

struct OfDiffuSsm;

impl Block for OfDiffuSsm {
    const OPERATOR: &'static str = "diffussm_block";

    fn output<S: WeightSource<Error = Error>>(case: &Case, source: &mut S) -> Result<Tensor<3>, Error> {
        let x = input(case, source)?;
        let condition: [usize; 2] = case.shape("in.c").try_into().expect("a matrix");
        let [channels, modes]: [usize; 2] = case.shape("in.f.A_im").try_into().expect("a matrix");
        let config = DiffuSsmConfig {
            model_dim: x.dims()[2],
            inner_dim: channels,
            factor: case.number("M", 0.0) as usize,
            condition_dim: condition[1],
            filter: FilterKind::StateSpace {
                state_dim: 2 * modes,
                steps: StepRange::default(),
            },
        };
        let condition: Tensor<2> = source.tensor("c", condition, Init::Zeros)?;
        DiffuSsm::read(config, source)?.forward(x, condition)
    }
}

/// Outputs of weights that are constants, and outputs and gradients of leaves.
fn compare<B: Block>() {
    for case in cases(B::OPERATOR) {
        let output =
            |found: Result<Tensor<3>, Error>| found.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let inputs = case.inputs();
        let names: Vec<(&str, &str)> = inputs.iter().map(|name| (name.as_str(), name.as_str())).collect();
        let mut constants = weights(&case, &names);
        let found = output(B::output(&case, &mut constants));
        constants.expect_all_read().expect("nothing is left over");
        expect(&case, "the output", &values(found), "out.y");

        let mut leaves = Leaves::new(&case, &names);
        let found = output(B::output(&case, &mut leaves));
        expect(&case, "the output of leaves", &values(found.clone()), "out.y");
        let cotangent = Tensor::from_data(data(&case, "cot.y"), &found.device());
        let mut gradients = (found * cotangent).sum().backward();
        let mut compared = 0;
        for name in &inputs {
            let found = leaves.gradient(name, &mut gradients).expect("a leaf");
            let expected = format!("grad.{name}");
            if case.if_any(&expected).is_some() {
                expect(&case, &format!("the gradient of {name}"), &found, &expected);
                compared += 1;
            }
        }
        assert!(
            compared + 1 >= inputs.len(),
            "{}: {compared} gradients",
            case.name
        );
    }
}

#[test]
fn golden_gated_state_spaces() {
    compare::<OfGss>();
}

#[test]
fn golden_bidirectional_gated_state_spaces() {
    compare::<OfBigs>();
}

#[test]
fn golden_diffussm_blocks() {
    compare::<OfDiffuSsm>();
}

#[test]
fn a_gated_state_space_goes_on_from_its_state_and_a_reversed_one_says_that_it_cannot() {
    let (mut streamed, mut refused) = (0, 0);
    for case in cases("gss_block") {
        let inputs = case.inputs();
        let names: Vec<(&str, &str)> = inputs.iter().map(|name| (name.as_str(), name.as_str())).collect();
        let mixer = Gss::read(gss_config(&case), &mut weights(&case, &names)).expect("the weights fit");
        let x: Tensor<3> = Tensor::from_data(data(&case, "in.x"), &Device::flex());
        let [batch, time, _] = x.dims();
        let start = || mixer.start(0, batch, &Chain::default(), &Device::flex());
        if mixer.sees_later_tokens() {
            let error = run(&mixer, &x, &mut start(), &[1, time - 1], None).expect_err("no state");
            assert!(error.to_string().contains("reads whole sequences"), "{error}");
            refused += 1;
            continue;
        }
        let expected = values(run(&mixer, &x, &mut start(), &[time], None).expect("it fits"));
        for pieces in [vec![1; time], vec![3, time - 4, 1]] {
            let found = values(run(&mixer, &x, &mut start(), &pieces, None).expect("it fits"));
            let off = found
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            let size = expected.iter().map(|value| value.abs()).fold(1.0, f32::max);
            assert!(off < 2e-6 * size, "{}: {pieces:?} is off by {off:e}", case.name);
        }
        streamed += 1;
    }
    assert!(
        streamed > 0 && refused > 0,
        "{streamed} stream, {refused} are reversed"
    );
}

#[test]
fn padding_changes_nothing_before_it_in_a_bidirectional_gated_state_space() {
    let case = cases("bigs_layer")
        .into_iter()
        .find(|case| case.shape("in.x")[1] > 4);
    let case = case.expect("a case of some length");
    let inputs = case.inputs();
    let names: Vec<(&str, &str)> = inputs.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let mixer = Bigs::read(bigs_config(&case), &mut weights(&case, &names)).expect("the weights fit");
    let x: Tensor<3> = Tensor::from_data(data(&case, "in.x"), &Device::flex());
    let [batch, time, _] = x.dims();
    let mut state = mixer.start(0, batch, &Chain::default(), &Device::flex());
    let ends = vec![time - 3; batch];
    let padded = run(&mixer, &x, &mut state, &[time], Some(&ends)).expect("it fits");
    let alone = whole(&mixer, &x.clone().narrow(1, 0, time - 3)).expect("it fits");
    let unmasked = whole(&mixer, &x).expect("it fits").narrow(1, 0, time - 3);
    let off = |found: Tensor<3>| values((found - alone.clone()).abs().max())[0];
    assert!(off(padded.narrow(1, 0, time - 3)) < 1e-6);
    assert!(off(unmasked) > 1e-5, "padding would not have mattered");
    let error = run(&mixer, &x, &mut state, &[1, time - 1], None).expect_err("no state");
    assert!(error.to_string().contains("reads whole sequences"), "{error}");
}
