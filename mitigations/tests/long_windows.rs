//! What only shows after many tokens: how the window by difference loses bits, and what the queue of chunks costs.

mod common;

use burn::tensor::{Device, Tensor};
use common::{Recorded, Values, joined, parse, relative_error, run_from, site, start, tensor, values};
use spillway_ssm_core::{Chunking, Gates, LogDecay, Site};

/// One head of 16 × 16 over `time` tokens; decays around 1 − `forgetting`, spread log-normally; inputs around `mean`.
fn gates(time: usize, forgetting: f64, mean: f32, seed: u64) -> Gates {
    let mut random = Values(seed);
    // The sum of 12 uniform numbers is close to normal; its variance here is 12 / 3 = 4.
    let decays: Vec<f32> = (0..time)
        .map(|_| {
            let normal: f32 = (0..12).map(|_| random.next()).sum::<f32>() / 2.0;
            (-forgetting * f64::from((0.5 * normal).exp())) as f32
        })
        .collect();
    let shape = [1, time, 1, 16];
    Gates {
        log_decay: LogDecay::PerHeadToken(tensor(decays, [1, time, 1])),
        ..Gates::new(
            random.tensor(shape),
            random.tensor::<4>(shape).add_scalar(mean),
            random.tensor::<4>(shape).add_scalar(mean),
        )
    }
}

/// Relative error of the last tokens' read-outs after 32,768 tokens with a window of 1,024.
fn error_after_32k(forgetting: f64, mean: f32) -> f64 {
    let (time, window, last) = (32_768, 1024, 32);
    let gates = gates(time, forgetting, mean, 1);
    let mitigation = parse(&format!("window:{window}"));
    let mut state = start(&mitigation, &gates);
    run_from(
        &mut state,
        &mitigation,
        &gates,
        0..time - last,
        &[500; 70],
        Chunking::Fastest,
    );
    let found = joined(run_from(
        &mut state,
        &mitigation,
        &gates,
        time - last..time,
        &[1; 32],
        Chunking::Fastest,
    ));
    // Only tokens inside the last windows matter for the definition.
    let tail = gates.slice(time - last - window..time).expect("a range inside");
    let expected = Recorded::of(&tail).sum(|t, i| i + window > t && t >= window);
    relative_error(&found, &expected[window * 16..])
}

#[test]
fn the_difference_of_f32_states_stays_within_its_error_after_32_thousand_tokens() {
    // Limits are about three times the errors of a plain simulation of the same recurrence: the slower the decay, and the
    // further the inputs' mean from 0, the more of the state cancels.
    for (forgetting, mean, limit) in [
        (1e-3, 0.0, 3e-6),
        (1e-3, 0.5, 3e-6),
        (1e-4, 0.0, 8e-6),
        (1e-4, 0.5, 4e-5),
        (1e-5, 0.0, 2e-5),
        (1e-5, 0.5, 1e-4),
    ] {
        let error = error_after_32k(forgetting, mean);
        println!("| {forgetting:e} | {mean} | {error:.1e} |");
        assert!(
            error < limit,
            "1 − α = {forgetting:e}, mean {mean}: error {error:e}"
        );
    }
}

#[test]
fn the_difference_survives_equal_decays_decoded_one_by_one() {
    // Every rounding of exp(−1.03e-4) errs in the same direction, which the sums of logarithms do not see.
    let (time, window) = (8192, 1024);
    let mut gates = gates(time, 1e-4, 0.3, 6);
    gates.log_decay = LogDecay::PerHeadToken(Tensor::full([1, time, 1], -1.03e-4, &Device::flex()));
    let mitigation = parse(&format!("window:{window}"));
    let mut state = start(&mitigation, &gates);
    let outputs = run_from(
        &mut state,
        &mitigation,
        &gates,
        0..time,
        &vec![1; time],
        Chunking::Fastest,
    );
    let found = values(outputs.last().expect("many tokens"));
    let tail = gates.slice(time - window..time).expect("a range inside");
    let expected = Recorded::of(&tail).sum(|t, _| t == window - 1);
    let error = relative_error(&found, &expected[(window - 1) * 16..]);
    println!("equal decays, decoded: {error:.1e}");
    assert!(error < 4e-5, "error {error:e}");
}

#[test]
fn the_queue_of_chunks_composes_at_most_three_times_per_chunk() {
    let time = 600;
    let gates = gates(time, 1e-3, 0.0, 2);
    for tokens in [1, 2, 3, 5, 9, 17, 64, 100, 599] {
        let mitigation = parse(&format!("window-exact:{tokens},chunk=2"));
        let mut state = start(&mitigation, &gates);
        for first in (0..time).step_by(2) {
            run_from(
                &mut state,
                &mitigation,
                &gates,
                first..first + 2,
                &[],
                Chunking::Fastest,
            );
            let composes = state.interventions[0].report()["composes_per_chunk"];
            assert!(
                composes <= 3.0,
                "window {tokens}, token {first}: {composes} composes per chunk"
            );
        }
        let composes = state.interventions[0].report()["composes_per_chunk"];
        assert!(
            tokens < 5 || composes > 0.9,
            "window {tokens}: the count of {composes} cannot be right"
        );
    }
}

#[test]
fn the_queue_of_a_window_takes_no_more_memory_after_it_is_full() {
    let gates = gates(2000, 1e-3, 0.0, 3);
    for text in ["window:100", "window-exact:100,chunk=16"] {
        let mitigation = parse(text);
        let mut state = start(&mitigation, &gates);
        let mut bytes = Vec::new();
        for first in (0..2000).step_by(400) {
            run_from(
                &mut state,
                &mitigation,
                &gates,
                first..first + 400,
                &[1; 400],
                Chunking::Fastest,
            );
            bytes.push(state.bytes());
        }
        let (least, most) = (bytes[1..].iter().min(), bytes[1..].iter().max());
        assert!(
            most.zip(least).is_some_and(|(most, least)| most <= &(2 * least)),
            "{text}: {bytes:?}"
        );
    }
}

#[test]
fn the_share_of_clipped_states_is_reported() {
    let gates = gates(200, 1e-5, 0.5, 4);
    for (text, least, most) in [("state-norm:1", 0.9, 1.0), ("state-norm:1e9,chunk=10", 0.0, 0.0)] {
        let mitigation = parse(text);
        let mut state = start(&mitigation, &gates);
        run_from(
            &mut state,
            &mitigation,
            &gates,
            0..200,
            &[7; 10],
            Chunking::Fastest,
        );
        let share = state.interventions[0].report()["clipped_share"];
        assert!((least..=most).contains(&share), "{text}: {share}");
        if text == "state-norm:1" {
            let norm: f32 = values(&state.state.memory)
                .iter()
                .map(|x| x * x)
                .sum::<f32>()
                .sqrt();
            assert!((norm - 1.0).abs() < 1e-5, "norm {norm}");
        }
    }
}

#[test]
fn a_saved_memory_that_does_not_fit_is_refused() {
    let gates = gates(300, 1e-3, 0.0, 5);
    let device = Device::flex();
    for text in ["window:100", "window-exact:100,chunk=16", "reset-overlap:64,32"] {
        let mitigation = parse(text);
        let mut state = start(&mitigation, &gates);
        run_from(&mut state, &mitigation, &gates, 0..300, &[], Chunking::Fastest);
        let chain = mitigation.chain();
        let saved = state.interventions[0].save();
        let other = Site {
            key_dim: 3,
            ..site(&gates)
        };
        assert!(
            chain.interventions()[0]
                .restore(&other, 1, &device, &saved)
                .is_err(),
            "{text}: other key_dim"
        );
        assert!(
            chain.interventions()[0]
                .restore(&site(&gates), 2, &device, &saved)
                .is_err(),
            "{text}: other batch"
        );
        let mut broken = saved.clone();
        let flat = Tensor::<1>::zeros([3], &device).to_data();
        broken.values_mut().for_each(|data| *data = flat.clone());
        assert!(
            chain.interventions()[0]
                .restore(&site(&gates), 1, &device, &broken)
                .is_err(),
            "{text}: other ranks"
        );
    }
}
