//! What stands around a recurrence in a layer.

use spillway_kernel_dsl::linear::{self, PackedMatrix, WeightType};
use spillway_kernel_dsl::softmax_attention::{self, softmax_attention};
use spillway_kernel_dsl::{Rows, causal_conv1d, gated_norm, step_size};

use super::{Outcome, close};
use crate::tokenwise::{Convolution, Norm, random, widened};

pub(super) fn softmax() -> Outcome {
    use softmax_attention::{Inputs, Problem, reference};
    let (time, past, heads, groups, dim) = (40, 150, 4, 2, 33);
    let problem = Problem {
        batch: 1,
        time,
        heads,
        groups,
        key_dim: dim,
        value_dim: dim,
        capacity: past + time,
        scale: 8.0 / (dim as f32).sqrt(),
        window: Some(100),
    };
    let query = random(1, time * heads * dim, 1.0);
    let [key, value] = [2, 3].map(|seed| random(seed, time * groups * dim, 1.0));
    let (mut keys, mut values) = (
        random(4, problem.keys_len(), 1.0),
        random(5, problem.values_len(), 1.0),
    );
    let view = |values, cols| Rows::contiguous(values, time, cols).expect("whole rows");
    let inputs = Inputs {
        query: view(&query, heads * dim),
        key: view(&key, groups * dim),
        value: view(&value, groups * dim),
        lengths: &[past],
    };
    let expected = reference::softmax_attention(&problem, &inputs, &keys, &values).expect("valid");
    let mut out = vec![f32::NAN; expected.len()];
    softmax_attention(&problem, &inputs, &mut keys, &mut values, &mut out).expect("valid");
    // Scores of size 8 round by 8 units of their last place.
    close("out", &out, &expected, 4e-6)
}

pub(super) fn convolution() -> Outcome {
    let case = Convolution::example(2, 30, 37);
    let mut state = widened(&case.state);
    let expected =
        causal_conv1d::reference::causal_conv1d(&case.problem, &case.inputs(), &mut state).expect("valid");
    let (mut past, mut out) = (case.state.clone(), vec![f32::NAN; expected.len()]);
    causal_conv1d::causal_conv1d(&case.problem, &case.inputs(), &mut past, &mut out).expect("valid");
    close("out", &out, &expected, 1e-6)?;
    case.check_host()
}

pub(super) fn norm() -> Outcome {
    let case = Norm::example(9, 74);
    let expected = gated_norm::reference::gated_norm(&case.problem, &case.inputs()).expect("valid");
    let mut out = vec![f32::NAN; expected.len()];
    gated_norm::gated_norm(&case.problem, &case.inputs(), &mut out).expect("valid");
    close("out", &out, &expected, 5e-7)?;
    case.check_host()
}

pub(super) fn step_sizes() -> Outcome {
    use step_size::{Cotangents, Gradients, Inputs, Outputs, Problem};
    let (tokens, heads, limit) = (30, 13, (0.0, f32::INFINITY));
    let raw = random(1, tokens * heads, 3.0);
    let [bias, a_log] = [2, 3].map(|seed| random(seed, heads, 1.0));
    let [by_step, by_decay] = [4, 5].map(|seed| random(seed, tokens * heads, 1.0));
    let view = |values| Rows::contiguous(values, tokens, heads).expect("whole rows");
    let mut found = [raw.len(), raw.len()].map(|len| vec![f32::NAN; len]);
    let [step, log_decay] = &mut found;
    let problem = Problem { tokens, heads, limit };
    let inputs = Inputs {
        raw: view(&raw),
        bias: &bias,
        a_log: &a_log,
    };
    step_size::step_size(&problem, &inputs, &mut Outputs { step, log_decay }).expect("valid");
    let mut gradient = vec![f32::NAN; raw.len()];
    let mut sums = [heads, heads].map(|len| vec![f32::NAN; len]);
    let [by_bias, by_a_log] = &mut sums;
    let cotangents = Cotangents {
        step: Some(view(&by_step)),
        log_decay: Some(view(&by_decay)),
    };
    let mut gradients = Gradients {
        raw: &mut gradient,
        bias: by_bias,
        a_log: by_a_log,
    };
    step_size::backward(&problem, &inputs, &cotangents, &mut gradients).expect("valid");
    let each = raw
        .iter()
        .enumerate()
        .map(|(i, &raw)| (raw, bias[i % heads], a_log[i % heads], i));
    let (steps, decays): (Vec<f64>, Vec<f64>) = each
        .clone()
        .map(|(raw, bias, a_log, _)| step_size::reference::step_size(raw, bias, a_log, limit))
        .unzip();
    let slopes: Vec<f64> = each
        .map(|(raw, bias, a_log, i)| {
            step_size::reference::backward(raw, bias, a_log, limit, (by_step[i], by_decay[i])).0
        })
        .collect();
    close("the step", &found[0], &steps, 5e-7)?;
    close("the decay", &found[1], &decays, 5e-7)?;
    close("the gradient", &gradient, &slopes, 5e-7)
}

/// Several row blocks and an odd last panel, inputs of one row too.
pub(super) fn product(weight_type: WeightType) -> Outcome {
    let (cols, outs) = (160, 75);
    let weight = random(1, outs * cols, 1.0);
    let packed = PackedMatrix::pack(&weight, outs, cols, weight_type).expect("valid");
    let mut stored = vec![f32::NAN; weight.len()];
    for (n, row) in stored.chunks_exact_mut(cols).enumerate() {
        packed.row(n, row).expect("a row");
    }
    for rows in [1, 23] {
        let mut x = random(2, rows * cols, 1.0);
        if weight_type == WeightType::Bf16 {
            // Inputs are rounded to bf16 beside such weights: take ones that are.
            x.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
        }
        let view = Rows::contiguous(&x, rows, cols).expect("whole rows");
        let expected = linear::reference::linear(view, &stored, outs, None);
        let mut out = vec![f32::NAN; rows * outs];
        linear::linear(view, &packed, None, &mut out).expect("valid");
        // Blocks of inputs are rounded to 8 bits beside weights of 8 and of 4.
        let bound = match weight_type {
            WeightType::Int8 | WeightType::Q8_0 | WeightType::Int4 => 1e-2,
            WeightType::F32 | WeightType::Bf16 => 2e-6,
        };
        close(&format!("{rows} rows"), &out, &expected, bound)?;
    }
    Ok(())
}

/// Products by unpacked weights and their gradients, large enough to be packed on the way.
pub(super) fn training_product() -> Outcome {
    use linear::dense::{Dense, Gradients};
    let (rows, cols, outs) = (70, 130, 90);
    let (x, weight) = (random(1, rows * cols, 1.0), random(2, outs * cols, 1.0));
    let cotangent = random(3, rows * outs, 1.0);
    let view = Rows::contiguous(&x, rows, cols).expect("whole rows");
    let given = Rows::contiguous(&cotangent, rows, outs).expect("whole rows");
    let expected = linear::reference::linear(view, &weight, outs, None);
    let mut out = vec![f32::NAN; rows * outs];
    let dense = || Dense::new(&weight, outs, cols).expect("whole rows");
    linear::dense::linear(view, dense(), None, &mut out).expect("valid");
    close("out", &out, &expected, 2e-6)?;
    let mut found = [x.len(), weight.len(), outs].map(|len| vec![f32::NAN; len]);
    let [input, of_weight, bias] = &mut found;
    let mut gradients = Gradients {
        input: Some(input),
        weight: Some(of_weight),
        bias: Some(bias),
    };
    linear::dense::backward(view, dense(), given, &mut gradients).expect("valid");
    for (i, expected) in linear::reference::backward(view, &weight, given)
        .iter()
        .enumerate()
    {
        close(&format!("gradient {i}"), &found[i], expected, 2e-6)?;
    }
    Ok(())
}
