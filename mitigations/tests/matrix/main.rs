//! Every mitigation on every kind of recurrence, against a plain recurrence in f64 over the recorded gates: in any form, split
//! into calls anywhere, and saved and restored in the middle. Where a pair is impossible, it is refused, and which these are
//! is written down here.

mod cases;
#[path = "../common/mod.rs"]
mod common;

use burn::tensor::Device;
use cases::{BOUND, Case, Numbers, calibration, cases, forget, initial_state, numbers};
use common::brute::{Brute, Clipping, Layer, layer};
use common::{parse, relative_error, values};
use proptest::prelude::*;
use spillway_mitigations::{Mitigation, Observer};
use spillway_ssm_core::{Chain, Gates, Rule, Site, SiteState};

fn start(chain: &Chain, site: &Site, batch: usize) -> SiteState {
    let device = Device::flex();
    SiteState {
        state: site.empty_state(batch, &device),
        interventions: chain.start(site, batch, &device),
    }
}

/// Read-outs of all calls, or why there are none; saved and restored after the call that reaches `restored_at`.
fn run(
    mitigation: &Mitigation,
    layer: &Layer,
    gates: &Gates,
    splits: &[usize],
    restored_at: usize,
) -> Result<Vec<f32>, String> {
    let (chain, site, device) = (mitigation.chain(), layer.site(), Device::flex());
    chain.check(&site).map_err(|error| error.to_string())?;
    let mut state = start(&chain, &site, layer.dims.batch);
    let mut outputs = Vec::new();
    let (mut done, time) = (0usize, layer.dims.time);
    for length in splits.iter().copied().chain([usize::MAX]) {
        let end = time.min(done.saturating_add(length));
        let call = gates.slice(done..end).expect("a range inside");
        let output = chain.run(&site, call, &mut state, layer.chunking);
        let output = output.map_err(|error| error.to_string())?;
        if end > done {
            outputs.push(output);
        }
        if (done..=end).contains(&restored_at) {
            for (memory, intervention) in state.interventions.iter_mut().zip(chain.interventions()) {
                *memory = intervention
                    .restore(&site, layer.dims.batch, &device, &memory.save())
                    .expect("what was saved");
            }
        }
        done = end;
    }
    assert_eq!(state.state.position, time as u64);
    assert_eq!(state.state.memory.dims(), site.state_shape(layer.dims.batch));
    Ok(common::joined(outputs))
}

/// The case as decoded, as prefilled, and as split.
fn check(case: &Case, layer: &Layer, n: &Numbers) -> Result<(), TestCaseError> {
    let gates = layer.gates();
    let mitigation = parse(&case.text)
        .calibrated(&calibration(layer, n))
        .expect("finite numbers");
    let mut brute = Brute::of(layer);
    (case.map)(&mut brute);
    let clipping = case.clip.as_ref().map(|(bounds, chunk)| Clipping {
        bounds,
        chunk: *chunk,
    });
    let expected = match case.writes {
        Some(window) if !case.refused => brute.run_writes(window),
        _ => brute.run(&case.first, clipping.as_ref()),
    };
    for splits in [layer.splits.as_slice(), &[], &vec![1; layer.dims.time]] {
        match run(&mitigation, layer, &gates, splits, n.r) {
            Ok(found) => {
                prop_assert!(!case.refused, "{} ran on {:?}", case.text, layer.kind);
                let error = relative_error(&found, &expected);
                prop_assert!(
                    error < case.bound,
                    "{} on {:?}: error {error:e}",
                    case.text,
                    layer.kind
                );
            }
            Err(message) => {
                prop_assert!(case.refused, "{} on {:?}: {message}", case.text, layer.kind);
                prop_assert!(
                    message.contains(" use ") || message.contains("instead"),
                    "{message}"
                );
            }
        }
    }
    Ok(())
}

mod equivalence {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        #[test]
        fn every_mitigation_on_every_recurrence_is_its_definition(layer in layer(), n in numbers()) {
            for case in cases(&layer, &n) {
                check(&case, &layer, &n)?;
            }
        }

        #[test]
        fn chains_act_together(layer in layer(), n in numbers()) {
            let (retention, factor, r) = (0.5 + 0.5 * n.a, 0.2 + n.b, n.r);
            let q = n.q;
            let kept = (r - 1).div_ceil(q);
            let case = Case {
                first: Box::new(move |t| (t / q).saturating_sub(kept) * q),
                ..Case::new(format!("forget:{retention}+c-scale:{factor}+window-exact:{r},chunk={q}"), move |brute| {
                    forget(brute, retention);
                    brute.scale *= factor;
                })
            };
            check(&case, &layer, &n)?;
            let (bound, heads) = (0.2 + n.a, layer.dims.heads);
            let case = Case {
                clip: Some((vec![bound; heads], None)),
                ..Case::seeing(format!("reset:{r}+state-norm:{bound}"), move |t| t / r * r)
            };
            check(&case.refused_if(layer.kind.rule() == Rule::Mean), &layer, &n)?;
        }

        #[test]
        fn weaker_writes_are_a_weaker_read_out(layer in layer(), n in numbers()) {
            if layer.kind.rule() != Rule::WeightedSum {
                return Ok(());
            }
            let (gates, factor) = (layer.gates(), 0.2 + n.a);
            let run = |text: &str| run(&parse(text), &layer, &gates, &layer.splits, 0).expect("no refusal");
            let expected: Vec<f64> = run(&format!("remember:{factor}")).into_iter().map(f64::from).collect();
            let error = relative_error(&run(&format!("c-scale:{factor}")), &expected);
            prop_assert!(error < BOUND, "{error:e}");
        }

        #[test]
        fn an_observer_changes_no_bit_and_measures_what_is_there(layer in layer()) {
            let (gates, site, d) = (layer.gates(), layer.site(), layer.dims);
            let observer = Observer::start();
            let (chain, plain) = (observer.chain(), Chain::default());
            let (mut watched, mut alone) = (start(&chain, &site, d.batch), start(&plain, &site, d.batch));
            let mut done = 0usize;
            for length in layer.splits.iter().copied().chain([usize::MAX]) {
                let end = d.time.min(done.saturating_add(length));
                let call = gates.slice(done..end).expect("a range inside");
                let output = chain.run(&site, call.clone(), &mut watched, layer.chunking).expect("gates that fit");
                let expected = plain.run(&site, call, &mut alone, layer.chunking).expect("gates that fit");
                if end > done {
                    prop_assert_eq!(values(&output), values(&expected));
                }
                done = end;
            }
            let calibration = observer.calibration(1.0).expect("states");
            let found = &calibration.sites[0];
            prop_assert_eq!((found.layer, found.first_head, found.heads.len()), (1, layer.first_head, d.heads));
            let brute = Brute::of(&layer);
            for (head, statistics) in found.heads.iter().enumerate() {
                let logs = |key: usize| {
                    let at = (0..d.batch * d.time).map(move |token| (token * d.heads + head) * d.key_dim + key);
                    at.map(|at| brute.log_decay[at].max(-40.0)).sum::<f64>() / (d.batch * d.time) as f64
                };
                let slowest = (0..d.key_dim).map(logs).fold(f64::NEG_INFINITY, f64::max);
                prop_assert!((f64::from(statistics.forgetting) + slowest).abs() < 1e-5 * (1.0 - slowest));
                let steps = if layer.step { (d.batch * d.time) as u64 } else { 0 };
                prop_assert_eq!(statistics.step_sizes.count(), steps);
                prop_assert!(statistics.final_norm <= statistics.norm * 1.0001);
            }
            if layer.kind.rule() != Rule::Mean {
                let norms: f64 = found.heads.iter().map(|head| f64::from(head.final_norm).powi(2)).sum();
                let whole: f64 = values(&alone.state.memory).iter().map(|&x| f64::from(x).powi(2)).sum();
                let mean = whole / d.batch as f64;
                prop_assert!((norms - mean).abs() <= 1e-4 * mean + 1e-9, "{norms} {mean}");
            }
        }

        #[test]
        fn noise_has_the_norm_of_final_states_and_depends_on_nothing_but_its_seed(layer in layer(), n in numbers()) {
            if layer.kind.rule() == Rule::Mean {
                return Ok(());
            }
            let dims = spillway_ssm_core::Dims { key_dim: 64, value_dim: 64, ..layer.dims };
            let large = Layer { dims, ..layer.clone() };
            let calibration = calibration(&layer, &n);
            let first = initial_state(&large, "fitted-noise:0.5,seed=3", &calibration);
            prop_assert_eq!(&first, &initial_state(&large, "fitted-noise:0.5,seed=3", &calibration));
            prop_assert_ne!(&first, &initial_state(&large, "fitted-noise:0.5,seed=4", &calibration));
            let alone = Layer { dims: spillway_ssm_core::Dims { batch: 1, ..dims }, ..large.clone() };
            prop_assert_eq!(&first, &initial_state(&alone, "fitted-noise:0.5,seed=3", &calibration));
            let own = calibration.sites.iter().find(|site| site.first_head == layer.first_head).expect("there");
            for (head, memory) in own.heads.iter().zip(first.chunks(64 * 64)) {
                let norm = memory.iter().map(|x| x * x).sum::<f64>().sqrt();
                let expected = 0.5 * f64::from(head.final_norm);
                // The norm of 4,096 normal numbers deviates by about 1 %.
                prop_assert!((norm - expected).abs() < 0.06 * expected, "{norm} {expected}");
            }
        }
    }
}
