//! Gradients beside differences of outputs, adapters beside the CPU, and parts of projections that hold nothing.

use super::calls::{CALLS, Call, Leaves, Values};
use super::devices::{adapters, devices, tensor, values};
use burn::tensor::{Device, Tensor};
use spillway_ssm_core::operators::{split, split_to_heads};

/// Σ c · y over all outputs with fixed cotangents c, in f64.
fn loss(outputs: Vec<Tensor<1>>) -> f64 {
    let mut cotangents = Values(5);
    let mut sum = 0.0;
    for output in outputs {
        let output = values(output);
        for (c, y) in cotangents.list(output.len()).iter().zip(&output) {
            sum += f64::from(*c) * f64::from(*y);
        }
    }
    sum
}

/// Outputs, and gradients of [`loss`].
fn run(call: Call, given: &[Vec<f32>], device: &Device) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let (outputs, gradients) = run_with(call, given, device, |_| 1);
    let gradients = gradients.into_iter();
    let gradients = gradients.map(|gradient| gradient.expect("every input leads to the loss"));
    (outputs, gradients.collect())
}

/// As [`run`], where the loss asks as often as `times` says for an output of this index. An input that leads to none of
/// the outputs asked for has no gradient.
fn run_with(
    call: Call,
    given: &[Vec<f32>],
    device: &Device,
    times: impl Fn(usize) -> usize,
) -> (Vec<Vec<f32>>, Vec<Option<Vec<f32>>>) {
    let mut leaves = Leaves::new(given.to_vec(), device.clone().autodiff());
    let outputs = call(&mut leaves);
    let mut cotangents = Values(5);
    let terms = outputs.iter().enumerate().flat_map(|(index, output)| {
        let [len] = output.dims();
        let cotangent = tensor(&cotangents.list(len), [len], &leaves.device);
        vec![(output.clone() * cotangent).sum(); times(index)]
    });
    let sum = terms.reduce(|sum, term| sum + term).expect("an output");
    let gradients = sum.backward();
    let of_leaves = leaves.leaves.iter().map(|leaf| leaf.grad(&gradients).map(values));
    let of_leaves = of_leaves.collect();
    (outputs.into_iter().map(values).collect(), of_leaves)
}

fn inputs_of(call: Call) -> Vec<Vec<f32>> {
    let mut leaves = Leaves::new(Vec::new(), Device::flex());
    call(&mut leaves);
    leaves.given
}

/// ‖found − expected‖ / ‖expected‖; infinite for NaN.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "numbers of values");
    let square = |x: f64| x * x;
    let off: f64 = found
        .iter()
        .zip(expected)
        .map(|(&f, &e)| square(f64::from(f) - f64::from(e)))
        .sum();
    let norm: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    match off.is_finite() {
        true => (off / norm.max(1e-4)).sqrt(),
        false => f64::INFINITY,
    }
}

#[test]
fn gradients_are_the_differences_of_the_outputs() {
    for (name, call) in CALLS {
        let given = inputs_of(call);
        let (_, gradients) = run(call, &given, &Device::flex());
        for input in 0..given.len() {
            // Along the gradient itself the derivative is its norm, in any other order of its values it is less.
            let norm = gradients[input].iter().map(|g| g * g).sum::<f32>().sqrt();
            let step = 2e-3;
            let at = |sign: f32| {
                let mut moved = given.clone();
                for (x, g) in moved[input].iter_mut().zip(&gradients[input]) {
                    *x += sign * step * g / norm;
                }
                loss(call(&mut Leaves::new(moved, Device::flex())))
            };
            let found = (at(1.0) - at(-1.0)) / (2.0 * f64::from(step));
            let off = (found / f64::from(norm) - 1.0).abs();
            assert!(
                off < 1e-2,
                "{name}: along the gradient of input {input}: {found}, expected {norm}"
            );
        }
    }
}

#[test]
fn every_adapter_computes_what_the_cpu_does() {
    for (adapter, device) in adapters() {
        for (name, call) in CALLS {
            let given = inputs_of(call);
            let (outputs, gradients) = run(call, &given, &Device::flex());
            let (found, found_gradients) = run(call, &given, &device);
            for (index, (found, expected)) in found.iter().zip(&outputs).enumerate() {
                let off = error(found, expected);
                assert!(
                    off < 1e-5,
                    "{name} on {adapter}: output {index} is off by {off:.1e}"
                );
            }
            for (index, (found, expected)) in found_gradients.iter().zip(&gradients).enumerate() {
                let off = error(found, expected);
                assert!(
                    off < 1e-5,
                    "{name} on {adapter}: gradient {index} is off by {off:.1e}"
                );
            }
        }
    }
}

/// Σ of lists that may be missing.
fn add(sum: &mut [f32], gradient: Option<&Vec<f32>>, times: f32) {
    for (sum, g) in sum.iter_mut().zip(gradient.into_iter().flatten()) {
        *sum += times * g;
    }
}

#[test]
fn outputs_that_the_loss_leaves_out_or_asks_for_twice_count_as_often() {
    for (name, device) in devices() {
        for (operator, call) in CALLS {
            let given = inputs_of(call);
            let outputs = call(&mut Leaves::new(given.clone(), Device::flex())).len();
            let zeros = || {
                given
                    .iter()
                    .map(|input| vec![0.0; input.len()])
                    .collect::<Vec<_>>()
            };
            // Of one output alone; the n-th, from one on, n times.
            let (mut alone, mut weighed) = (zeros(), zeros());
            for index in 0..outputs {
                let (_, found) = run_with(call, &given, &device, |other| usize::from(other == index));
                for (input, found) in found.iter().enumerate() {
                    add(&mut alone[input], found.as_ref(), 1.0);
                    add(&mut weighed[input], found.as_ref(), (index + 1) as f32);
                }
            }
            let (_, whole) = run(call, &given, &Device::flex());
            let (_, found) = run_with(call, &given, &device, |index| index + 1);
            for input in 0..given.len() {
                let off = error(&alone[input], &whole[input]);
                assert!(
                    off < 1e-5,
                    "{operator} on {name}: the gradients of single outputs by input {input} add up to {off:.1e} off"
                );
                let found = found[input].as_ref().expect("every input leads to the loss");
                let off = error(found, &weighed[input]);
                assert!(
                    off < 1e-5,
                    "{operator} on {name}: outputs asked for n times give input {input} {off:.1e} off"
                );
            }
        }
    }
}

#[test]
fn rows_of_no_tokens_are_split_and_leave_the_operations_around_them_alone() {
    for (name, device) in devices() {
        let device = device.autodiff();
        for shape in [[2, 0, 5], [0, 3, 5]] {
            let [batch, time, _] = shape;
            let x = tensor(&[], shape, &device).require_grad();
            let other = tensor(&[1.0, 2.0, 3.0], [3], &device).require_grad();
            let [left, right] = split(x.clone(), [2, 3]).expect("widths that fit");
            let [heads] = split_to_heads(right, [(3, 1)]).expect("widths that fit");
            assert_eq!(left.dims(), [batch, time, 2], "{name}");
            assert_eq!(heads.dims(), [batch, time, 3, 1], "{name}");
            assert!(values(left.clone()).is_empty() && values(heads.clone()).is_empty());
            let product = other.clone() * other.clone();
            assert_eq!(values(product.clone()), [1.0, 4.0, 9.0], "{name}");
            let gradients = (product.sum() + left.sum() + heads.sum()).backward();
            let of_other = other.grad(&gradients).expect("it leads to the loss");
            assert_eq!(values(of_other), [2.0, 4.0, 6.0], "{name}");
            let of_x = x.grad(&gradients).expect("it leads to the loss");
            assert_eq!(of_x.dims(), shape, "{name}");
        }
    }
}

#[test]
fn a_part_of_no_columns_is_empty_and_takes_nothing_from_its_neighbours() {
    for (name, device) in devices() {
        let x = tensor(&[1.0, 2.0, 3.0, 4.0], [1, 2, 2], &device.autodiff()).require_grad();
        let [left, none, right] = split(x.clone(), [1, 0, 1]).expect("widths that fit");
        assert_eq!(none.dims(), [1, 2, 0], "{name}");
        assert_eq!(values(right.clone()), [2.0, 4.0], "{name}");
        let gradients = (left.sum() + (right.clone() * right).sum()).backward();
        let found = x.grad(&gradients).expect("it leads to the loss");
        assert_eq!(values(found), [1.0, 4.0, 1.0, 8.0], "{name}");
    }
}

#[test]
fn parts_that_are_not_all_columns_are_refused() {
    let input = || tensor(&[0.0; 12], [1, 2, 6], &Device::flex());
    let said = |refused: spillway_ssm_core::Error| refused.to_string();
    let narrow = said(split(input(), [2, 3]).expect_err("five of six columns"));
    assert!(narrow.contains("columns of a projection"), "{narrow}");
    let wide = said(split_to_heads(input(), [(usize::MAX, 2)]).expect_err("too many heads"));
    assert!(wide.contains("columns of a projection"), "{wide}");
}
