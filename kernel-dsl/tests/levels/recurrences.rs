//! Operators that carry a state from token to token.

use spillway_kernel_dsl::recurrence::{GradientBuffers, ReadOut};
use spillway_kernel_dsl::{DecayKind, Rows, Sequences, taylor_attention};

use super::{Outcome, allowed, around, close};
use crate::delta;
use crate::layouts::Layout;
use crate::recurrence as drawn;
use crate::taylor::Attention;
use crate::tokenwise::{random, widened};

pub(super) fn recurrence(decay: DecayKind) -> Outcome {
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
pub(super) fn delta_rule(index: usize) -> Outcome {
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

pub(super) fn scan() -> Outcome {
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

pub(super) fn wkv() -> Outcome {
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

pub(super) fn taylor() -> Outcome {
    use spillway_kernel_dsl::taylor_attention::{Expansion, Gradients, Problem, backward, chunked};
    let time = 50;
    let problem = Problem {
        batch: 1,
        time,
        prefix: 0,
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
        prefix_key: None,
        prefix_value: None,
        log_decay: None,
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
        ..
    } = case.expected_gradients();
    for (i, expected) in [query, key, value, state].iter().enumerate() {
        close(&format!("gradient {i}"), &found[i], expected, allowed(time, true))?;
    }
    Ok(())
}
