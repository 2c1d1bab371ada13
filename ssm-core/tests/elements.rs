//! Elements of every rule: they compose associatively, act as the recurrence does, and make the scan form of it.

#[path = "support/random.rs"]
mod random;

mod equivalence {
    use super::random::Values;
    use burn::tensor::Device;
    use proptest::prelude::*;
    use spillway_ssm_core::element::Transition;
    use spillway_ssm_core::{
        Chunking, Dims, Element, Erase, Gates, LogDecay, ReadOut, Rule, State, recurrence,
    };

    const BOUND: f64 = 1e-5;

    #[derive(Clone, Copy, Debug)]
    enum Kind {
        PerStep,
        PerKeyToken,
        Delta,
        LowRank,
        Mean,
    }

    const KINDS: [Kind; 5] = [
        Kind::PerStep,
        Kind::PerKeyToken,
        Kind::Delta,
        Kind::LowRank,
        Kind::Mean,
    ];

    /// Gates of a kind, and a state that earlier tokens left.
    fn build(kind: Kind, time: usize, one_column: bool, seed: u64) -> (Gates, State) {
        let mean = matches!(kind, Kind::Mean);
        let (batch, heads) = (2, 4);
        let (groups, key_dim) = if mean { (heads, 1) } else { (2, 3) };
        let value_dim = if mean || one_column { 1 } else { 5 };
        let mut random = Values(seed);
        let mut gates = |time: usize| {
            let keys = [batch, time, groups, key_dim];
            let tokens = [batch, time, heads];
            let per_key = [batch, time, heads, key_dim];
            Gates {
                query: random.tensor(keys),
                key: random.tensor::<4>(keys) * if mean { 3.0 } else { 0.5 },
                value: random.tensor([batch, time, heads, value_dim]),
                log_decay: match kind {
                    Kind::PerStep => LogDecay::PerStep(random.tensor::<2>([heads, key_dim]).abs() * -0.5),
                    Kind::Mean => LogDecay::PerHead(random.tensor::<1>([heads]).abs() * -0.5),
                    _ => LogDecay::PerKeyToken(random.tensor::<4>(per_key).abs() * -0.5),
                },
                step_size: matches!(kind, Kind::PerStep).then(|| random.tensor::<3>(tokens).abs()),
                erase: match kind {
                    Kind::Delta => Erase::Delta(random.tensor::<3>(tokens).abs()),
                    Kind::LowRank => Erase::LowRank {
                        p: random.tensor::<4>(keys) * 0.4,
                        b: random.tensor::<4>(keys) * 0.4,
                    },
                    _ => Erase::None,
                },
                read_out: match kind {
                    Kind::Mean => ReadOut::Mean(random.tensor([heads])),
                    _ => ReadOut::Inclusive,
                },
                skip: None,
                scale: 1.0,
            }
        };
        let earlier = gates(7);
        let mut state = empty(&earlier);
        recurrence(earlier, &mut state, Chunking::Fastest).expect("gates that fit");
        (gates(time), state)
    }

    fn empty(gates: &Gates) -> State {
        let d = gates.dims();
        let device = Device::flex();
        match gates.rule() {
            Rule::Mean => State::empty_mean(d.batch, d.heads, &device),
            Rule::WeightedSum | Rule::Delta => State::zeros(&Dims { time: 0, ..d }, &device),
        }
    }

    /// What a state means: the sums of a mean are relative to their maximum.
    fn meaning(state: &State, rule: Rule) -> Vec<f64> {
        let values: Vec<f64> = state.memory.to_data().iter::<f64>().collect();
        match rule {
            Rule::Mean => values
                .chunks(3)
                .flat_map(|sums| [sums[0] * sums[2].exp(), sums[1] * sums[2].exp()])
                .collect(),
            Rule::WeightedSum | Rule::Delta => values,
        }
    }

    fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let difference: f64 = found.iter().zip(expected).map(|(f, e)| (f - e).powi(2)).sum();
        let norm: f64 = expected.iter().map(|e| e * e).sum();
        match difference.is_finite() {
            true => (difference / norm.max(1e-4)).sqrt(),
            false => f64::INFINITY,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

        #[test]
        fn elements_of_every_rule_compose_associatively_and_act_as_the_recurrence(
            time in 0..40usize, cuts in (0.0..1.0f64, 0.0..1.0f64), one_column in any::<bool>(), seed in any::<u64>(),
        ) {
            for kind in KINDS {
                let (gates, start) = build(kind, time, one_column, seed);
                let first = (time as f64 * cuts.0) as usize;
                let second = first + ((time - first) as f64 * cuts.1) as usize;
                let element = |range| Element::of(&gates.slice(range).expect("inside"), 4).expect("gates that fit");
                let [a, b, c] = [element(0..first), element(first..second), element(second..time)];
                let left = a.compose(&b).and_then(|ab| ab.compose(&c)).expect("of one recurrence");
                let right = b.compose(&c).and_then(|bc| a.compose(&bc)).expect("of one recurrence");
                let identity = Element::identity_of(&gates);
                let mut expected = start.clone();
                recurrence(gates.clone(), &mut expected, Chunking::Sequential).expect("gates that fit");
                for whole in [
                    &left,
                    &right,
                    &identity.compose(&left).expect("of one recurrence"),
                    &left.compose(&identity).expect("of one recurrence"),
                    &element(0..time),
                ] {
                    let mut found = start.clone();
                    whole.apply(&mut found).expect("of one recurrence");
                    let error = relative_error(&meaning(&found, gates.rule()), &meaning(&expected, gates.rule()));
                    prop_assert!(error < BOUND, "{kind:?}: {error:e}");
                }
            }
        }

        #[test]
        fn the_scan_form_is_the_definition_for_every_rule(
            time in 0..40usize, chunk_size in 1..20usize, one_column in any::<bool>(), seed in any::<u64>(),
        ) {
            for kind in KINDS {
                let (gates, start) = build(kind, time, one_column, seed);
                let run = |chunking| {
                    let mut state = start.clone();
                    let output = recurrence(gates.clone(), &mut state, chunking).expect("gates that fit");
                    (output.to_data().iter::<f64>().collect::<Vec<_>>(), meaning(&state, gates.rule()))
                };
                let (expected, after) = run(Chunking::Sequential);
                let (found, scanned) = run(Chunking::Scan { chunk_size });
                let error = relative_error(&found, &expected).max(relative_error(&scanned, &after));
                prop_assert!(error < BOUND, "{kind:?}: {error:e}");
            }
        }
    }

    #[test]
    fn elements_of_different_recurrences_do_not_compose() {
        let element = |kind| Element::of(&build(kind, 3, false, 1).0, 4).expect("gates that fit");
        let error = element(Kind::PerStep).compose(&element(Kind::Delta));
        let message = error.expect_err("a decay and a matrix").to_string();
        assert!(message.contains("a decay and a matrix"), "{message}");
        let mean = element(Kind::Mean);
        assert!(matches!(mean.transition, Transition::Mean(_)));
        assert!(mean.compose(&element(Kind::Delta)).is_err());
    }
}
