//! Gradients: of the chunks against the f64 reference, and of the reference against finite differences.

use proptest::prelude::*;
use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::recurrence::{GradientBuffers, backward, reference};

use super::data::{Data, Spec, any_spec};
use super::{by_chunks, check, config};

/// Every gradient under the name of its input.
pub fn named<T>(gradients: &GradientBuffers<T>) -> Vec<(&'static str, &[T])> {
    let GradientBuffers {
        query,
        key,
        value,
        log_decay,
        step_size,
        bonus,
        skip,
        state,
    } = gradients;
    let given = [
        ("query", Some(query)),
        ("key", Some(key)),
        ("value", Some(value)),
        ("log_decay", log_decay.as_ref().either()),
        ("step_size", step_size.as_ref()),
        ("bonus", bonus.as_ref()),
        ("skip", skip.as_ref()),
        ("state", Some(state)),
    ];
    let given = given
        .into_iter()
        .filter_map(|(input, values)| Some((input, values?.as_slice())));
    given.collect()
}

/// Whether the gradient has a row per token.
fn is_per_token(data: &Data, input: &'static str) -> bool {
    match input {
        "bonus" | "skip" | "state" => false,
        "log_decay" => matches!(
            data.problem.decay,
            DecayKind::PerHeadToken | DecayKind::PerKeyToken
        ),
        _ => true,
    }
}

fn by_reference(data: &Data) -> GradientBuffers<f64> {
    let inputs = data.inputs();
    let state: Vec<f64> = data.state.iter().map(|x| f64::from(*x)).collect();
    let mut gradients = GradientBuffers::zeros(&data.problem, &inputs).expect("valid");
    reference::backward(
        &data.problem,
        &inputs,
        &state,
        &data.cotangents(),
        &mut gradients.as_written(),
    )
    .expect("valid");
    gradients
}

pub fn by_chunks_backward(data: &Data, chunk_size: usize) -> GradientBuffers {
    let inputs = data.inputs();
    let mut gradients: GradientBuffers = GradientBuffers::zeros(&data.problem, &inputs).expect("valid");
    // What the buffers hold must not matter.
    let GradientBuffers {
        query,
        key,
        value,
        log_decay,
        step_size,
        bonus,
        skip,
        state,
    } = &mut gradients;
    for buffer in [query, key, value, state] {
        buffer.fill(f32::NAN);
    }
    let optional = [step_size, bonus, skip].map(Option::as_mut);
    for buffer in optional.into_iter().flatten().chain(log_decay.as_mut().either()) {
        buffer.fill(f32::NAN);
    }
    backward(
        &data.problem,
        &inputs,
        chunk_size,
        &data.state,
        &data.cotangents(),
        &mut gradients.as_written(),
    )
    .expect("valid");
    gradients
}

fn check_all(
    name: &str,
    data: &Data,
    found: &GradientBuffers,
    expected: &GradientBuffers<f64>,
) -> Result<(), TestCaseError> {
    let (found, expected) = (named(found), named(expected));
    prop_assert_eq!(found.len(), expected.len());
    for ((input, found), (_, expected)) in found.into_iter().zip(expected) {
        let name = format!("gradient of {input} by {name}");
        check(&name, data.problem.time, found, expected)?;
    }
    Ok(())
}

/// Σ cotangent · result.
fn loss(data: &Data) -> f64 {
    let mut state: Vec<f64> = data.state.iter().map(|x| f64::from(*x)).collect();
    let mut out = vec![0.0; data.out_len()];
    reference::recurrence(&data.problem, &data.inputs(), &mut state, &mut out).expect("valid");
    let cotangents = data.cotangents();
    let width = data.problem.heads * data.problem.value_dim;
    let mut loss = 0.0;
    for row in (0..data.problem.batch).flat_map(|b| data.span(b)) {
        let terms = out[row * width..].iter().zip(cotangents.out.row(row));
        loss += terms.map(|(y, c)| y * f64::from(*c)).sum::<f64>();
    }
    let terms = state.iter().zip(cotangents.state.unwrap_or_default());
    loss + terms.map(|(h, c)| h * f64::from(*c)).sum::<f64>()
}

/// Joins the gradients of two segments that meet at token `cut`.
fn joined(data: &Data, cut: usize, first: &GradientBuffers, second: &GradientBuffers) -> GradientBuffers {
    let mut whole: GradientBuffers = GradientBuffers::zeros(&data.problem, &data.inputs()).expect("valid");
    let rows = data.sequences().rows(data.problem.batch, data.problem.time);
    let join = |input: &'static str, whole: &mut [f32], first: &[f32], second: &[f32]| {
        if is_per_token(data, input) {
            let width = whole.len() / rows.max(1);
            data.place(whole, (0, cut), first, width);
            data.place(whole, (cut, data.problem.time), second, width);
        } else {
            let sums = whole.iter_mut().zip(first.iter().zip(second));
            sums.for_each(|(sum, (a, b))| *sum = a + b);
        }
    };
    join("query", &mut whole.query, &first.query, &second.query);
    join("key", &mut whole.key, &first.key, &second.key);
    join("value", &mut whole.value, &first.value, &second.value);
    let optional = [
        (
            "log_decay",
            whole.log_decay.as_mut().either(),
            first.log_decay.as_ref().either(),
            second.log_decay.as_ref().either(),
        ),
        (
            "step_size",
            whole.step_size.as_mut(),
            first.step_size.as_ref(),
            second.step_size.as_ref(),
        ),
        (
            "bonus",
            whole.bonus.as_mut(),
            first.bonus.as_ref(),
            second.bonus.as_ref(),
        ),
        (
            "skip",
            whole.skip.as_mut(),
            first.skip.as_ref(),
            second.skip.as_ref(),
        ),
    ];
    for (input, whole, first, second) in optional {
        if let (Some(whole), Some(first), Some(second)) = (whole, first, second) {
            join(input, whole, first, second);
        }
    }
    whole.state.copy_from_slice(&first.state);
    whole
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn gradients_equal_the_reference(spec in any_spec(100), chunk_size in 1_usize..=70) {
        let data = Data::new(&spec);
        check_all("chunks", &data, &by_chunks_backward(&data, chunk_size), &by_reference(&data))?;
    }

    /// The loss is linear in every single value but the log decays, so that only those see the step.
    #[test]
    fn gradients_of_the_reference_equal_finite_differences(spec in any_spec(7), place in any::<prop::sample::Index>()) {
        let data = Data::new(&spec);
        let gradients = by_reference(&data);
        for (input, gradient) in named(&gradients) {
            if gradient.is_empty() {
                continue;
            }
            let index = place.index(gradient.len());
            let (mut above, mut below) = (data.clone(), data.clone());
            let (before, high) = above.nudge(input, index, 1.0 / 1024.0);
            let (_, low) = below.nudge(input, index, -1.0 / 1024.0);
            if !before.is_finite() {
                continue;
            }
            let (high_loss, low_loss) = (loss(&above), loss(&below));
            let slope = (high_loss - low_loss) / (f64::from(high) - f64::from(low));
            // With up to 7 tokens, eˣ gives 7² h² / 6 of the slope.
            let relative = if input == "log_decay" { 1e-5 } else { 1e-9 };
            let allowed = relative * slope.abs() + 1e-11 * high_loss.abs();
            let close = (slope - gradient[index]).abs() <= allowed;
            prop_assert!(close, "{input} {index}: slope {slope}, gradient {}", gradient[index]);
        }
    }

    #[test]
    fn gradients_pass_a_cut_through_the_state(
        spec in any_spec(100),
        chunk_size in 1_usize..=70,
        fraction in 0.0..1.0,
    ) {
        let data = Data::new(&spec);
        let cut = (fraction * (data.problem.time + 1) as f64) as usize;
        let mut first = data.segment(0, cut, &data.state);
        let (_, between) = by_chunks(&first, chunk_size);
        let second = data.segment(cut, data.problem.time, &between);
        let of_second = by_chunks_backward(&second, chunk_size);
        first.set_state_cotangent(of_second.state.clone());
        let of_first = by_chunks_backward(&first, chunk_size);
        let found = joined(&data, cut, &of_first, &of_second);
        check_all("segments", &data, &found, &by_reference(&data))?;
    }

    #[test]
    fn gradients_of_unequal_sequences_are_theirs_one_by_one(spec in any_spec(100), chunk_size in 1_usize..=70) {
        let data = Data::new(&spec);
        let gradients = by_chunks_backward(&data, chunk_size);
        let rows = data.sequences().rows(data.problem.batch, data.problem.time);
        let ones: Vec<_> =
            (0..data.problem.batch).map(|b| by_chunks_backward(&data.sequence(b), chunk_size)).collect();
        for (i, (input, found)) in named(&gradients).into_iter().enumerate() {
            let one = |b: usize| named(&ones[b])[i].1.to_vec();
            let mut expected = vec![0.0; found.len()];
            for b in 0..data.problem.batch {
                if input == "state" {
                    let len = found.len() / data.problem.batch;
                    expected[b * len..(b + 1) * len].copy_from_slice(&one(b));
                } else if is_per_token(&data, input) {
                    let start = data.span(b).start * (found.len() / rows.max(1));
                    expected[start..start + one(b).len()].copy_from_slice(&one(b));
                } else {
                    expected.iter_mut().zip(one(b)).for_each(|(sum, x)| *sum += x);
                }
            }
            if input == "state" || is_per_token(&data, input) {
                prop_assert!(found == expected, "gradient of {}", input);
            } else {
                let exact: Vec<f64> = expected.iter().map(|x| f64::from(*x)).collect();
                check(&format!("gradient of {input}"), data.problem.time, found, &exact)?;
            }
        }
    }
}

/// With more heads in a group than one thread takes together.
#[test]
fn gradients_have_the_same_bits_on_any_number_of_threads() {
    for spec in Spec::large().into_iter().chain([Spec::many_heads()]) {
        let data = Data::new(&spec);
        let with_threads = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a thread pool");
            pool.install(|| by_chunks_backward(&data, 32))
        };
        let one = with_threads(1);
        assert!(one == with_threads(3), "3 threads differ for {:?}", data.problem);
        check_all("threads", &data, &one, &by_reference(&data)).expect("close");
    }
}
