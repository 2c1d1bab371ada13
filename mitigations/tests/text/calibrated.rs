//! Mitigations whose numbers come from a calibration: what they are before and after, written and read.

use super::common::{self, Case, build, case, parse, run, site, start};
use super::plain_site;
use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use spillway_mitigations::calibrate::{
    Calibration, CalibrationError, HeadStatistics, Row, SiteStatistics, Table,
};
use spillway_mitigations::histogram::Histogram;
use spillway_mitigations::{Mitigation, Observer};
use spillway_ssm_core::{Chunking, Site, State};

/// A calibration of one recurrence whose heads had these norms and nothing else.
fn of_norms(norms: &[f32]) -> Calibration {
    let head = |&norm: &f32| HeadStatistics {
        norm,
        final_norm: norm,
        forgetting: 0.0,
        step_sizes: Histogram::default(),
    };
    let site = SiteStatistics {
        layer: 0,
        first_head: 0,
        heads: norms.iter().map(head).collect(),
        step_norms: Histogram::default(),
    };
    Calibration {
        tokens: 1,
        sites: vec![site],
    }
}

mod equivalence {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn calibrated_thresholds_bound_each_head_by_its_own(case in case(), multiplier in 0.1..2.0f64) {
            let gates = build(&Case { decay: case.decay, ..case.clone() });
            let heads: Vec<f32> = (0..case.dims.heads).map(|head| 0.5 + head as f32).collect();
            let mitigation = parse(&format!("state-norm:auto*{multiplier}")).calibrated(&of_norms(&heads)).expect("an auto");
            let bounds: Vec<f64> = heads.iter().map(|&p| f64::from(p) * multiplier).collect();
            let clips = |_| Some(common::Clip::BeforeReading);
            let recorded = common::Recorded::of(&gates);
            let expected = recorded.bounded(&bounds, clips, |_| false);
            let found = run(&mitigation, &gates, &case.splits, case.chunking);
            let error = common::error_beside(&found, &expected, &recorded.terms());
            prop_assert!(error < 5e-6, "error {error:e} of the terms");
        }
    }
}

#[test]
fn automatic_thresholds_have_to_be_calibrated_for_the_model() {
    let mitigation = parse("forget:0.99+state-norm:auto*2,chunk=8");
    assert!(mitigation.needs_calibration());
    let check = |mitigation: &Mitigation| {
        mitigation
            .chain()
            .check(&plain_site())
            .map_err(|error| error.to_string())
    };
    assert!(
        check(&mitigation)
            .expect_err("not calibrated")
            .contains("calibrate it")
    );

    let other = mitigation.calibrated(&of_norms(&[1.0; 3])).expect("an auto");
    assert!(check(&other).expect_err("three heads").contains("another model"));

    let fitting = mitigation.calibrated(&of_norms(&[1.0, 2.0])).expect("an auto");
    assert!(!fitting.needs_calibration());
    assert_eq!(check(&fitting), Ok(()));
    assert_eq!(fitting.to_string(), mitigation.to_string());

    let json = serde_json::to_string(&fitting).expect("plain data");
    assert_eq!(
        json,
        concat!(
            r#"{"mitigation":"forget:0.99+state-norm:auto*2,chunk=8","#,
            r#""calibrated":[[{"layer":0,"first_head":0,"values":[1.0,2.0]}]]}"#
        )
    );
    assert_eq!(
        serde_json::from_str::<Mitigation>(&json).expect("its own JSON"),
        fitting
    );
    assert_ne!(fitting, mitigation);
    assert_eq!(
        parse("window:3")
            .calibrated(&of_norms(&[]))
            .expect("nothing to do"),
        parse("window:3")
    );
    let negative =
        r#"{"mitigation":"state-norm:auto","calibrated":[[{"layer":0,"first_head":0,"values":[-1.0]}]]}"#;
    let missing = r#"{"mitigation":"state-norm:auto","calibrated":[]}"#;
    let too_many = r#"{"mitigation":"window:3","calibrated":[[]]}"#;
    for wrong in [negative, missing, too_many] {
        assert!(serde_json::from_str::<Mitigation>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn every_calibrated_part_keeps_its_own_table() {
    let text = "cap-mean:64+delta-filter:4096+decimate:0.5+fitted-noise+state-norm:auto";
    let calibrated = parse(text)
        .calibrated(&of_norms(&[1.0, 3.0]))
        .expect("finite numbers");
    let json = serde_json::to_string(&calibrated).expect("plain data");
    assert_eq!(
        serde_json::from_str::<Mitigation>(&json).expect("its own JSON"),
        calibrated
    );
    assert_eq!(calibrated.chain().check(&plain_site()), Ok(()));
    assert!(parse(text).chain().check(&plain_site()).is_err());
}

#[test]
fn a_table_is_of_one_model() {
    let row = |layer, first_head, values: &[f32]| Row {
        layer,
        first_head,
        values: values.to_vec(),
    };
    let table = Table::new([row(0, 0, &[1.0, 2.0]), row(0, 2, &[3.0])]).expect("finite numbers");
    assert_eq!(table.of(&plain_site()), Some([1.0, 2.0].as_slice()));
    let second = Site {
        first_head: 2,
        heads: 1,
        ..plain_site()
    };
    assert_eq!(table.of(&second), Some([3.0].as_slice()));
    for other in [
        Site {
            layer: 1,
            ..plain_site()
        },
        Site {
            heads: 3,
            ..plain_site()
        },
    ] {
        assert_eq!(table.of(&other), None);
    }
    assert!(matches!(
        Table::new([row(1, 2, &[0.0, f32::NAN])]),
        Err(CalibrationError::NotFinite {
            layer: 1,
            head: 3,
            ..
        })
    ));
}

#[test]
fn an_uncalibrated_threshold_is_an_error_even_without_a_check() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let case = case().new_tree(&mut runner).expect("a case").current();
    let gates = build(&case);
    let mitigation = parse("state-norm:auto");
    let mut state = start(&mitigation, &gates);
    let result = mitigation.chain().run(
        &site(&gates),
        gates,
        &mut state,
        spillway_ssm_core::Chunking::Fastest,
    );
    assert!(
        result
            .expect_err("not calibrated")
            .to_string()
            .contains("calibrate it")
    );
}

#[test]
fn calibration_takes_quantiles_per_head_and_refuses_what_is_no_norm() {
    let observer = Observer::start();
    assert_eq!(observer.calibration(1.0), Err(CalibrationError::Empty));
    let nothing_new = Case {
        decay: 0,
        bonus: false,
        step: false,
        skip: false,
        extreme: false,
        ..first_case()
    };
    let gates = build(&nothing_new);
    let gates = spillway_ssm_core::Gates {
        key: gates.key.zeros_like(),
        ..gates
    };
    let site = site(&gates);
    // A state that no token changes, of norm 2 · size and 0.
    let sample = |sizes: [f32; 2], position: u64| {
        let heads = sizes.map(|size| Tensor::<4>::full([1, 1, 2, 2], size, &Device::flex()));
        let mut recurrence = spillway_ssm_core::SiteState {
            state: State {
                memory: Tensor::cat(heads.to_vec(), 1),
                position: position - 1,
            },
            interventions: observer.chain().start(&site, 1, &Device::flex()),
        };
        let run = observer
            .chain()
            .run(&site, gates.clone(), &mut recurrence, Chunking::Fastest);
        run.expect("gates that fit");
    };
    for step in 1..=10 {
        sample([step as f32, 0.0], step);
    }
    // A second segment, whose last sample has norm 40.
    sample([1.0, 0.0], 1);
    sample([20.0, 0.0], 2);
    let norms = |quantile| {
        let calibration = observer.calibration(quantile).expect("recorded");
        assert_eq!(calibration.tokens, 10);
        let heads = calibration.sites[0].heads.iter();
        heads.map(|head| (head.norm, head.final_norm)).collect::<Vec<_>>()
    };
    let end = ((20.0f32.powi(2) + 40.0f32.powi(2)) / 2.0).sqrt();
    assert_eq!(norms(1.0), [(40.0, end), (0.0, 0.0)]);
    assert_eq!(norms(0.5)[0].0, 12.0);
    assert_eq!(norms(0.0)[0].0, 2.0);
    assert!(matches!(
        observer.calibration(1.5),
        Err(CalibrationError::Quantile(_))
    ));
    sample([f32::NAN, 0.0], 3);
    assert!(matches!(
        observer.calibration(1.0),
        Err(CalibrationError::NotFinite {
            layer: 0,
            head: 0,
            ..
        })
    ));
}

/// One token of one sequence, two heads of 2 × 2.
fn first_case() -> Case {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let case = case().new_tree(&mut runner).expect("a case").current();
    Case {
        dims: spillway_ssm_core::Dims {
            batch: 1,
            time: 1,
            heads: 2,
            groups: 1,
            key_dim: 2,
            value_dim: 2,
        },
        ..case
    }
}
