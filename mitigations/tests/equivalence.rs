//! Every mitigation against a sum in f64 over what the tokens wrote, for every decay, read-out, form and split into calls.

mod common;

use common::{Case, Clip, Recorded, build, case, error_beside, joined, parse, run, run_from, site, start};
use proptest::prelude::*;
use spillway_ssm_core::Chunking;

/// A term goes through up to 80 decays and as many sums, each of which rounds by 6e-8.
const BOUND: f64 = 5e-6;

fn check(found: &[f32], expected: &[f64], terms: &[f64], text: &str) -> Result<(), TestCaseError> {
    let error = error_beside(found, expected, terms);
    prop_assert!(error < BOUND, "{text}: error {error:e} of the terms");
    Ok(())
}

/// As [`check`] against the sum over the tokens that a token sees.
fn check_sum(
    found: &[f32],
    recorded: &Recorded,
    sees: impl Fn(usize, usize) -> bool,
    text: &str,
) -> Result<(), TestCaseError> {
    check(found, &recorded.sum(sees), &recorded.terms(), text)
}

/// One of every kind of mitigation, with small numbers, so that everything happens within a few tens of tokens.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        (1..1000u32).prop_map(|c| format!("forget:{}", f64::from(c) / 1000.0)),
        (1..2000u32).prop_map(|c| format!("remember:{}", f64::from(c) / 1000.0)),
        (800..1000u32, 1..2000u32).prop_map(|(a, b)| format!(
            "rri:{},{}",
            f64::from(a) / 1e3,
            f64::from(b) / 1e3
        )),
        (1..40u32).prop_map(|p| format!("state-norm:{}", f64::from(p) / 10.0)),
        (1..40u32, 1..20u64)
            .prop_map(|(p, chunk)| format!("state-norm:{},chunk={chunk}", f64::from(p) / 10.0)),
        (1..40u64).prop_map(|r| format!("window:{r}")),
        (1..40u64, 1..20u64).prop_map(|(r, chunk)| format!("window-exact:{r},chunk={chunk}")),
        (1..30u64).prop_map(|n| format!("reset:{n}")),
        (2..30u64, 0.0..1.0f64)
            .prop_map(|(n, share)| format!("reset-overlap:{n},{}", 1 + ((n - 1) as f64 * share) as u64)),
        (900..1000u32, 1..20u64).prop_map(|(c, r)| format!("forget:{}+window:{r}", f64::from(c) / 1e3)),
        (1..40u32, 2..30u64)
            .prop_map(|(p, n)| format!("reset-overlap:{n},1+state-norm:{}", f64::from(p) / 10.0)),
    ]
}

mod equivalence {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn forgetting_multiplies_every_decay_and_remembering_every_write(
            case in case(), retention in 0.01..1.0f64, insertion in 0.01..2.0f64,
        ) {
            let gates = build(&case);
            for (text, a, b) in [
                (format!("forget:{retention}"), retention, 1.0),
                (format!("remember:{insertion}"), 1.0, insertion),
                (format!("rri:{retention},{insertion}"), retention, insertion),
                (format!("forget:{retention}+remember:{insertion}"), retention, insertion),
                ("none".into(), 1.0, 1.0),
            ] {
                let found = run(&parse(&text), &gates, &case.splits, case.chunking);
                check_sum(&found, &Recorded::of(&gates).with(a, b), |_, _| true, &text)?;
            }
        }

        #[test]
        fn scaling_the_step_scales_log_decays_and_writes(case in case(), factor in 0.1..2.0f64) {
            let gates = build(&Case { step: true, ..case.clone() });
            let text = format!("delta-scale:{factor}");
            let found = run(&parse(&text), &gates, &case.splits, case.chunking);
            check_sum(&found, &Recorded::of(&gates).with_step(factor), |_, _| true, &text)?;
        }

        #[test]
        fn chains_act_in_the_order_written(case in case(), retention in 0.5..1.0f64, factor in 0.2..2.0f64) {
            let gates = build(&Case { step: true, ..case.clone() });
            let recorded = Recorded::of(&gates);
            for (text, expected) in [
                (format!("forget:{retention}+delta-scale:{factor}"), recorded.clone().with(retention, 1.0).with_step(factor)),
                (format!("delta-scale:{factor}+forget:{retention}"), recorded.clone().with_step(factor).with(retention, 1.0)),
            ] {
                let found = run(&parse(&text), &gates, &case.splits, case.chunking);
                check_sum(&found, &expected, |_, _| true, &text)?;
            }
        }

        #[test]
        fn a_window_by_difference_sums_over_its_tokens(case in case(), r in 1..40usize) {
            let gates = build(&case);
            let text = format!("window:{r}");
            let found = run(&parse(&text), &gates, &case.splits, case.chunking);
            check_sum(&found, &Recorded::of(&gates), |t, i| i + r > t, &text)?;
        }

        #[test]
        fn an_exact_window_sums_over_its_chunks(case in case(), r in 1..40usize, chunk in 1..20usize) {
            let gates = build(&case);
            let text = format!("window-exact:{r},chunk={chunk}");
            let found = run(&parse(&text), &gates, &case.splits, case.chunking);
            let kept = (r - 1).div_ceil(chunk);
            let sees = |t: usize, i: usize| i >= (t / chunk).saturating_sub(kept) * chunk;
            check_sum(&found, &Recorded::of(&gates), sees, &text)?;
        }

        #[test]
        fn both_windows_agree_where_a_chunk_ends(case in case(), kept in 1..4usize, chunk in 1..16usize) {
            let gates = build(&case);
            let exact = format!("window-exact:{},chunk={chunk}", kept * chunk + 1);
            let exact = run(&parse(&exact), &gates, &case.splits, case.chunking);
            let difference = run(&parse(&format!("window:{}", (kept + 1) * chunk)), &gates, &case.splits, case.chunking);
            let d = case.dims;
            let width = d.heads * d.value_dim;
            let at_ends = |values: &[f32]| -> Vec<f32> {
                let rows = values.chunks(width).enumerate();
                rows.filter(|(row, _)| (row % d.time + 1) % chunk == 0).flat_map(|(_, row)| row.to_vec()).collect()
            };
            let expected: Vec<f64> = at_ends(&exact).into_iter().map(f64::from).collect();
            let terms: Vec<f32> = Recorded::of(&gates).terms().into_iter().map(|term| term as f32).collect();
            let terms: Vec<f64> = at_ends(&terms).into_iter().map(f64::from).collect();
            check(&at_ends(&difference), &expected, &terms, "difference and exact")?;
        }

        #[test]
        fn a_window_of_one_token_more_than_there_are_is_no_window(case in case(), chunk in 1..20u64) {
            let gates = build(&case);
            let none: Vec<f64> = run(&parse("none"), &gates, &case.splits, case.chunking).into_iter().map(f64::from).collect();
            let terms = Recorded::of(&gates).terms();
            for text in ["window:1000000000000".into(), format!("window:{}", case.dims.time + 1), format!("window-exact:81,chunk={chunk}")] {
                check(&run(&parse(&text), &gates, &case.splits, case.chunking), &none, &terms, &text)?;
            }
        }

        #[test]
        fn gates_are_mapped_before_a_window_cuts(case in case(), r in 1..40usize, retention in 0.5..1.0f64, insertion in 0.1..2.0f64) {
            let gates = build(&case);
            let expected = Recorded::of(&gates).with(retention, insertion);
            for text in [format!("rri:{retention},{insertion}+window:{r}"), format!("window:{r}+rri:{retention},{insertion}")] {
                check_sum(&run(&parse(&text), &gates, &case.splits, case.chunking), &expected, |t, i| i + r > t, &text)?;
            }
        }

        #[test]
        fn a_reset_sums_from_the_last_multiple(case in case(), n in 1..30usize) {
            let gates = build(&case);
            let text = format!("reset:{n}");
            let found = run(&parse(&text), &gates, &case.splits, case.chunking);
            check_sum(&found, &Recorded::of(&gates), |t, i| i >= t / n * n, &text)?;
        }

        #[test]
        fn a_reset_with_overlap_sums_from_before_the_last_multiple(case in case(), n in 2..30usize, share in 0.0..1.0f64) {
            let gates = build(&case);
            let m = 1 + ((n - 1) as f64 * share) as usize;
            prop_assume!(m < n);
            let text = format!("reset-overlap:{n},{m}");
            let found = run(&parse(&text), &gates, &case.splits, case.chunking);
            check_sum(&found, &Recorded::of(&gates), |t, i| i + m >= t / n * n, &text)?;
        }

        #[test]
        fn a_state_is_bounded_after_every_token(case in case(), bound in 0.1..4.0f64, n in 1..30usize) {
            let gates = build(&case);
            let (recorded, bounds) = (Recorded::of(&gates), vec![bound; case.dims.heads]);
            // A bound makes a state smaller, terms and all.
            let terms = recorded.terms();
            let text = format!("state-norm:{bound}");
            let found = run(&parse(&text), &gates, &case.splits, case.chunking);
            check(&found, &recorded.bounded(&bounds, |_| Some(Clip::BeforeReading), |_| false), &terms, &text)?;
            let text = format!("state-norm:{bound}+reset:{n}");
            let found = run(&parse(&text), &gates, &case.splits, case.chunking);
            check(&found, &recorded.bounded(&bounds, |_| Some(Clip::BeforeReading), |t| t % n == 0), &terms, &text)?;
        }

        #[test]
        fn a_state_is_bounded_after_every_chunk(case in case(), bound in 0.1..4.0f64, chunk in 1..20usize, n in 1..30usize) {
            let gates = build(&case);
            let (recorded, bounds) = (Recorded::of(&gates), vec![bound; case.dims.heads]);
            // A bound makes a state smaller, terms and all.
            let terms = recorded.terms();
            let clips = |t: usize| (t + 1).is_multiple_of(chunk).then_some(Clip::AfterReading);
            let sums = |empties: &dyn Fn(usize) -> bool| recorded.bounded(&bounds, clips, empties);
            let text = format!("state-norm:{bound},chunk={chunk}");
            check(&run(&parse(&text), &gates, &case.splits, case.chunking), &sums(&|_| false), &terms, &text)?;
            let text = format!("reset:{n}+state-norm:{bound},chunk={chunk}");
            check(&run(&parse(&text), &gates, &case.splits, case.chunking), &sums(&|t| t % n == 0), &terms, &text)?;
        }

        #[test]
        fn prefill_is_decode(case in case(), text in any_text()) {
            let gates = build(&case);
            let mitigation = parse(&text);
            let decoded = run(&mitigation, &gates, &vec![1; case.dims.time], Chunking::Fastest);
            let expected: Vec<f64> = decoded.into_iter().map(f64::from).collect();
            // None of the texts makes writes more than twice as strong.
            let terms = Recorded::of(&gates).with(1.0, 2.0).terms();
            check(&run(&mitigation, &gates, &[], Chunking::Fastest), &expected, &terms, &text)?;
        }

        #[test]
        fn saving_and_restoring_anywhere_changes_no_bit(case in case(), text in any_text(), share in 0.0..1.0f64) {
            let gates = build(&case);
            let mitigation = parse(&text);
            let (site, batch, time) = (site(&gates), case.dims.batch, case.dims.time);
            let middle = (time as f64 * share) as usize;
            let mut state = start(&mitigation, &gates);
            run_from(&mut state, &mitigation, &gates, 0..middle, &case.splits, case.chunking);
            let mut restored = state.clone();
            for (memory, intervention) in restored.interventions.iter_mut().zip(mitigation.chain().interventions()) {
                let device = burn::tensor::Device::flex();
                *memory = intervention.restore(&site, batch, &device, &memory.save()).expect("what was saved");
            }
            let went_on = joined(run_from(&mut state, &mitigation, &gates, middle..time, &case.splits, case.chunking));
            let came_back = joined(run_from(&mut restored, &mitigation, &gates, middle..time, &case.splits, case.chunking));
            prop_assert_eq!(went_on, came_back);
            prop_assert_eq!(state.bytes(), restored.bytes());
            for (a, b) in state.interventions.iter().zip(&restored.interventions) {
                prop_assert_eq!(a.report(), b.report());
            }
        }
    }
}
