//! One representative of every operator, forward and backward, against its definition in f64.

use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::linear::{self, PackedMatrix, WeightType};
use spillway_kernel_dsl::recurrence::{GradientBuffers, ReadOut};
use spillway_kernel_dsl::softmax_attention::{self, softmax_attention};
use spillway_kernel_dsl::{Rows, Sequences, causal_conv1d, gated_norm, step_size, taylor_attention};

use super::delta;
use super::layouts::Layout;
use super::long_convolution::LongConvolution;
use super::recurrence as drawn;
use super::ssm_kernel::{Diagonal, LowRank};
use super::support::relative_error;
use super::taylor::Attention;
use super::tokenwise::{Convolution, Norm, random, widened};
use super::{linear_state_space, shift_state_space};

/// What is wrong, where something is.
type Outcome = Result<(), String>;

/// An operator's name and its check.
type Check = (&'static str, fn() -> Outcome);

/// Every operator.
pub fn all() -> Vec<Check> {
    vec![
        ("recurrence, a decay per head and token", || {
            recurrence(DecayKind::PerHeadToken)
        }),
        ("recurrence, a decay per key and token", || {
            recurrence(DecayKind::PerKeyToken)
        }),
        ("recurrence, a constant decay per key", || {
            recurrence(DecayKind::PerKey)
        }),
        ("delta rule, no decay", || delta_rule(0)),
        ("delta rule, a decay per head", || delta_rule(1)),
        ("delta rule, a low-rank transition with decays per key", || {
            delta_rule(5)
        }),
        ("selective scan", scan),
        ("WKV-4", wkv),
        ("linear state space, diagonal", || state_space(0, false)),
        ("linear state space, diagonal with a step size per token", || {
            state_space(0, true)
        }),
        ("linear state space, low rank", || state_space(2, false)),
        ("shift state space", shift),
        ("Taylor attention", taylor),
        ("softmax attention", softmax),
        ("causal convolution", convolution),
        ("long convolution", long_convolution),
        ("gated norm", norm),
        ("step size", step_sizes),
        ("Vandermonde kernel", || Diagonal::large().check_host()),
        ("Cauchy kernel", || LowRank::large().check_host()),
        ("linear, f32", || product(WeightType::F32)),
        ("linear, bf16", || product(WeightType::Bf16)),
        ("linear, int8", || product(WeightType::Int8)),
        ("linear for training", training_product),
    ]
}

fn close(what: &str, found: &[f32], expected: &[f64], allowed: f64) -> Outcome {
    let error = relative_error(found, expected);
    // Written so that NaN fails.
    if error <= allowed {
        Ok(())
    } else {
        Err(format!("{what} is off by {error:.2e}, allowed {allowed:.2e}"))
    }
}

/// 1e-6·√(tokens + 1) forward and 2e-6·√(tokens + 1) backward, the bounds of the equivalence tests.
fn allowed(time: usize, backward: bool) -> f64 {
    (if backward { 2e-6 } else { 1e-6 }) * (time as f64 + 1.0).sqrt()
}

fn recurrence(decay: DecayKind) -> Outcome {
    use spillway_kernel_dsl::recurrence::{backward, chunked, reference, sequential};
    let mut spec = drawn::Spec::large().remove(0);
    spec.problem.decay = decay;
    // More keys than the widest block of columns, and a tail.
    spec.problem.key_dim = 70;
    spec.problem.read_out = match decay {
        DecayKind::PerKey => ReadOut::Bonus,
        _ => ReadOut::Inclusive,
    };
    let data = drawn::Data::new(&spec);
    let (problem, inputs, time) = (data.problem, data.inputs(), spec.problem.time);
    let (mut state, mut out) = (widened(&data.state), vec![f64::NAN; data.out_len()]);
    reference::recurrence(&problem, &inputs, &mut state, &mut out).expect("valid");
    for chunk_size in [None, Some(32)] {
        let (mut h, mut y) = (data.state.clone(), vec![f32::NAN; out.len()]);
        match chunk_size {
            None => sequential(&problem, &inputs, &mut h, &mut y).expect("valid"),
            Some(size) => chunked(&problem, &inputs, size, &mut h, &mut y).expect("valid"),
        }
        close("out", &y, &out, allowed(time, false))?;
        close("the state", &h, &state, allowed(time, false))?;
    }
    let cotangents = data.cotangents();
    let mut found: GradientBuffers = GradientBuffers::zeros(&problem, &inputs).expect("valid");
    let mut expected: GradientBuffers<f64> = GradientBuffers::zeros(&problem, &inputs).expect("valid");
    let initial = widened(&data.state);
    backward(
        &problem,
        &inputs,
        32,
        &data.state,
        &cotangents,
        &mut found.as_written(),
    )
    .expect("valid");
    reference::backward(
        &problem,
        &inputs,
        &initial,
        &cotangents,
        &mut expected.as_written(),
    )
    .expect("valid");
    for (name, found, expected) in [
        ("query", Some(&found.query), Some(&expected.query)),
        ("key", Some(&found.key), Some(&expected.key)),
        ("value", Some(&found.value), Some(&expected.value)),
        (
            "log_decay",
            found.log_decay.as_ref().either(),
            expected.log_decay.as_ref().either(),
        ),
        ("step_size", found.step_size.as_ref(), expected.step_size.as_ref()),
        ("state", Some(&found.state), Some(&expected.state)),
    ] {
        if let (Some(found), Some(expected)) = (found, expected) {
            close(
                &format!("the gradient of {name:?}"),
                found,
                expected,
                allowed(time, true),
            )?;
        }
    }
    Ok(())
}

/// Case `index` of two transitions by three kinds of decay.
fn delta_rule(index: usize) -> Outcome {
    use spillway_kernel_dsl::delta_rule::{Problem, TransitionKind, backward, chunked, sequential};
    const BOUND: f64 = 4e-6;
    let decays = [DecayKind::None, DecayKind::PerHeadToken, DecayKind::PerKeyToken];
    let transitions = [TransitionKind::Delta, TransitionKind::LowRank];
    let data = delta::Data::new(&delta::Spec {
        problem: Problem {
            batch: 1,
            time: 70,
            heads: 2,
            groups: 1,
            key_dim: 70,
            value_dim: 40,
            transition: transitions[index / 3],
            decay: decays[index % 3],
        },
        layout: delta::Layout::Equal,
        gap: 0,
        decay: delta::Strength::Mild,
        seed: 7,
    });
    let (out, state) = data.by_reference();
    for chunk_size in [None, Some(32)] {
        let (mut h, mut y) = (data.state.clone(), vec![f32::NAN; out.len()]);
        match chunk_size {
            None => sequential(&data.problem, &data.inputs(), &mut h, &mut y).expect("valid"),
            Some(size) => chunked(&data.problem, &data.inputs(), size, &mut h, &mut y).expect("valid"),
        }
        close("out", &y, &out, BOUND)?;
        close("the state", &h, &state, BOUND)?;
    }
    let found: delta::Owned<f32> = data.gradients(|gradients| {
        let (inputs, cotangents) = (data.inputs(), data.cotangents());
        backward(&data.problem, &inputs, 32, &data.state, &cotangents, gradients)
    });
    for ((name, found), (_, expected)) in found.parts().iter().zip(data.reference_gradients().parts()) {
        // They were widened from f32: nothing is lost.
        let found: Vec<f32> = found.iter().map(|&x| x as f32).collect();
        close(&format!("the gradient of {name}"), &found, &expected, BOUND)?;
    }
    Ok(())
}

/// Seeded values around `middle`.
fn around(seed: u64, len: usize, middle: f32, scale: f32) -> Vec<f32> {
    random(seed, len, scale).iter().map(|x| middle + x).collect()
}

fn scan() -> Outcome {
    use spillway_kernel_dsl::selective_scan::{
        Cotangents, Gradients, Inputs, Problem, backward, reference, sequential,
    };
    let (rows, channels, state_dim) = (60, 37, 16);
    let problem = Problem {
        batch: 1,
        time: rows,
        channels,
        state_dim,
        groups: 1,
    };
    let [u, gate, cotangent] = [1, 2, 3].map(|seed| random(seed, rows * channels, 1.0));
    let [b, c] = [4, 5].map(|seed| random(seed, rows * state_dim, 1.0));
    let step = around(6, rows * channels, 0.25, 0.24);
    let a = around(7, channels * state_dim, -2.0, 1.9);
    let (skip, initial) = (random(8, channels, 1.0), random(9, problem.state_len(), 1.0));
    let view = |values| Rows::contiguous(values, rows, channels).expect("whole rows");
    let inputs = Inputs {
        input: view(&u),
        step_size: view(&step),
        a: &a,
        b: Rows::contiguous(&b, rows, state_dim).expect("whole rows"),
        c: Rows::contiguous(&c, rows, state_dim).expect("whole rows"),
        skip: Some(&skip),
        gate: Some(view(&gate)),
        sequences: Sequences::Equal,
    };
    let (mut state, mut out) = (widened(&initial), vec![f64::NAN; rows * channels]);
    reference::selective_scan(&problem, &inputs, &mut state, &mut out).expect("valid");
    let (mut h, mut y) = (initial.clone(), vec![f32::NAN; out.len()]);
    sequential(&problem, &inputs, &mut h, &mut y).expect("valid");
    close("out", &y, &out, allowed(rows, false))?;
    close("the state", &h, &state, allowed(rows, false))?;
    let lengths = [
        u.len(),
        u.len(),
        a.len(),
        b.len(),
        c.len(),
        channels,
        u.len(),
        h.len(),
    ];
    fn gradients<T>([input, step_size, a, b, c, skip, gate, state]: &mut [Vec<T>; 8]) -> Gradients<'_, T> {
        let (skip, gate) = (Some(skip.as_mut_slice()), Some(gate.as_mut_slice()));
        Gradients {
            input,
            step_size,
            a,
            b,
            c,
            skip,
            gate,
            state,
        }
    }
    let (mut found, mut expected) = (
        lengths.map(|len| vec![f32::NAN; len]),
        lengths.map(|len| vec![0.0; len]),
    );
    let cotangents = Cotangents {
        out: view(&cotangent),
        state: None,
    };
    backward(
        &problem,
        &inputs,
        16,
        &initial,
        &cotangents,
        &mut gradients(&mut found),
    )
    .expect("valid");
    let start = widened(&initial);
    reference::backward(
        &problem,
        &inputs,
        &start,
        &cotangents,
        &mut gradients(&mut expected),
    )
    .expect("valid");
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        close(&format!("gradient {i}"), found, expected, allowed(rows, true))?;
    }
    Ok(())
}

fn wkv() -> Outcome {
    use spillway_kernel_dsl::wkv4::{
        Cotangents, Gradients, Inputs, Problem, backward, reference, sequential,
    };
    let (rows, channels) = (60, 37);
    let problem = Problem {
        batch: 1,
        time: rows,
        channels,
    };
    // Multiples of 1/64, so that which operand of a maximum is larger does not hang on rounding.
    let quantised = |seed, len, scale| -> Vec<f32> {
        let values = random(seed, len, scale);
        values.iter().map(|x| (x * 64.0).round() / 64.0).collect()
    };
    let log_decay: Vec<f32> = quantised(1, channels, 1.4).iter().map(|x| x - 1.5).collect();
    let (bonus, key) = (quantised(2, channels, 2.0), quantised(3, rows * channels, 2.0));
    let [value, cotangent] = [4, 5].map(|seed| random(seed, rows * channels, 1.0));
    let initial = problem.empty_state();
    let view = |values| Rows::contiguous(values, rows, channels).expect("whole rows");
    let inputs = Inputs {
        log_decay: &log_decay,
        bonus: &bonus,
        key: view(&key),
        value: view(&value),
        sequences: Sequences::Equal,
    };
    let (mut state, mut out) = (widened(&initial), vec![f64::NAN; rows * channels]);
    reference::wkv4(&problem, &inputs, &mut state, &mut out).expect("valid");
    let (mut h, mut y) = (initial.clone(), vec![f32::NAN; out.len()]);
    sequential(&problem, &inputs, &mut h, &mut y).expect("valid");
    close("out", &y, &out, allowed(rows, false))?;
    close("the state", &h, &state, allowed(rows, false))?;
    let lengths = [channels, channels, out.len(), out.len(), h.len()];
    fn gradients<T>([log_decay, bonus, key, value, state]: &mut [Vec<T>; 5]) -> Gradients<'_, T> {
        Gradients {
            log_decay,
            bonus,
            key,
            value,
            state,
        }
    }
    let (mut found, mut expected) = (
        lengths.map(|len| vec![f32::NAN; len]),
        lengths.map(|len| vec![0.0; len]),
    );
    let cotangents = Cotangents {
        out: view(&cotangent),
        state: None,
    };
    backward(
        &problem,
        &inputs,
        16,
        &initial,
        &cotangents,
        &mut gradients(&mut found),
    )
    .expect("valid");
    let start = widened(&initial);
    reference::backward(
        &problem,
        &inputs,
        &start,
        &cotangents,
        &mut gradients(&mut expected),
    )
    .expect("valid");
    for (name, (found, expected)) in ["log_decay", "bonus", "key", "value"]
        .iter()
        .zip(found.iter().zip(&expected))
    {
        close(
            &format!("the gradient of {name}"),
            found,
            expected,
            allowed(rows, true),
        )?;
    }
    Ok(())
}

fn taylor() -> Outcome {
    use spillway_kernel_dsl::taylor_attention::{Expansion, Gradients, Problem, backward, chunked};
    let time = 50;
    let problem = Problem {
        batch: 1,
        time,
        heads: 2,
        key_dim: 8,
        value_dim: 20,
        expansion: Expansion::Taylor,
        scale: 0.4,
        normalizer: Some(1e-6),
    };
    let case = Attention::new(problem, Layout::Equal, 0, true, 3);
    let (out, state) = case.expected();
    let (mut h, mut y) = (case.state.clone(), vec![f32::NAN; out.len()]);
    chunked(&case.problem, &case.inputs(), 16, &mut h, &mut y).expect("valid");
    close("out", &y, &out, 2.0 * allowed(time, false))?;
    close("the state", &h, &state, 2.0 * allowed(time, false))?;
    let mut found =
        [case.query.len(), case.key.len(), case.value.len(), h.len()].map(|len| vec![f32::NAN; len]);
    let [query, key, value, state] = &mut found;
    let mut gradients = Gradients {
        query,
        key,
        value,
        state,
    };
    let (inputs, cotangents) = (case.inputs(), case.cotangents());
    backward(
        &case.problem,
        &inputs,
        16,
        &case.state,
        &cotangents,
        &mut gradients,
    )
    .expect("valid");
    let taylor_attention::reference::GradientsF64 {
        query,
        key,
        value,
        state,
    } = case.expected_gradients();
    for (i, expected) in [query, key, value, state].iter().enumerate() {
        close(&format!("gradient {i}"), &found[i], expected, allowed(time, true))?;
    }
    Ok(())
}

fn softmax() -> Outcome {
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

fn convolution() -> Outcome {
    let case = Convolution::example(2, 30, 37);
    let mut state = widened(&case.state);
    let expected =
        causal_conv1d::reference::causal_conv1d(&case.problem, &case.inputs(), &mut state).expect("valid");
    let (mut past, mut out) = (case.state.clone(), vec![f32::NAN; expected.len()]);
    causal_conv1d::causal_conv1d(&case.problem, &case.inputs(), &mut past, &mut out).expect("valid");
    close("out", &out, &expected, 1e-6)?;
    case.check_host()
}

fn norm() -> Outcome {
    let case = Norm::example(9, 74);
    let expected = gated_norm::reference::gated_norm(&case.problem, &case.inputs()).expect("valid");
    let mut out = vec![f32::NAN; expected.len()];
    gated_norm::gated_norm(&case.problem, &case.inputs(), &mut out).expect("valid");
    close("out", &out, &expected, 5e-7)?;
    case.check_host()
}

fn long_convolution() -> Outcome {
    use spillway_kernel_dsl::long_convolution::{Direction, Form, Later, Problem};
    for direction in [Direction::Streamed, Direction::Both(Later::Next)] {
        // Lengths beside a power of two, and channels beside every number of lanes.
        let problem = Problem {
            batch: 2,
            time: 65,
            channels: 21,
            multiplicity: 2,
            taps: 70,
            direction,
            form: Form::Auto,
        };
        LongConvolution::example(problem, 9).check_host()?;
    }
    Ok(())
}

fn state_space(rank: usize, token_steps: bool) -> Outcome {
    use linear_state_space::{Data, Spec, close, close_gradients};
    use spillway_kernel_dsl::linear_state_space::{chunked, sequential};
    // Modes that fill no vector, and channels beyond a block.
    let data = Data::new(Spec {
        token_steps,
        ..Spec::of_model(rank, (70, 18, 21))
    });
    let (out, state) = data.by_reference();
    let forms = [
        data.run(sequential),
        data.run(|problem, inputs, outputs| chunked(problem, inputs, 24, outputs)),
    ];
    for found in forms {
        close("out", allowed(70, false), &found.0, &out)?;
        close("state", allowed(70, false), &found.1, &state)?;
    }
    close_gradients(
        allowed(70, true),
        &data.gradients(16),
        &data.reference_gradients(),
    )
}

fn shift() -> Outcome {
    use linear_state_space::close;
    use shift_state_space::{Data, Spec, close_gradients};
    use spillway_kernel_dsl::shift_state_space::{convolved, sequential};
    let data = Data::new(Spec {
        batch: 2,
        time: 70,
        layout: Layout::Equal,
        channels: 18,
        outputs: 1,
        state_dim: 21,
        skip: true,
        state: true,
        state_cotangent: true,
        gap: 1,
        seed: 3,
    });
    let (out, state) = data.by_reference();
    for found in [data.run(sequential), data.run(convolved)] {
        close("out", allowed(21, false), &found.0, &out)?;
        close("state", allowed(21, false), &found.1, &state)?;
    }
    close_gradients(allowed(70, true), &data.gradients(), &data.reference_gradients())
}

fn step_sizes() -> Outcome {
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
fn product(weight_type: WeightType) -> Outcome {
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
        // Blocks of inputs are rounded to 8 bits beside int8 weights.
        let bound = if weight_type == WeightType::Int8 {
            1e-2
        } else {
            2e-6
        };
        close(&format!("{rows} rows"), &out, &expected, bound)?;
    }
    Ok(())
}

/// Products by unpacked weights and their gradients, large enough to be packed on the way.
fn training_product() -> Outcome {
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
