//! Text, value and JSON say the same, and every wrong text is one clear line.

mod common;

use burn::tensor::{Device, Tensor};
use common::{Case, build, case, parse, run, site, start};
use mitigations::calibrate::{Calibration, CalibrationError, Thresholds};
use mitigations::{Mitigation, ParseError};
use proptest::prelude::*;
use ssm_core::{Site, State};

fn part() -> impl Strategy<Value = String> {
    let chunk = || {
        prop_oneof![
            Just(String::new()),
            (1..500u64).prop_map(|q| format!(",chunk={q}"))
        ]
    };
    prop_oneof![
        (1e-6..1.0f64).prop_map(|c| format!("forget:{c}")),
        (1e-6..1e3f64).prop_map(|c| format!("remember:{c}")),
        (1e-6..1.0f64, 1e-6..1e3f64).prop_map(|(a, b)| format!("rri:{a},{b}")),
        (1e-6..1e3f64).prop_map(|s| format!("delta-scale:{s}")),
        (1e-6..1e6f64, chunk()).prop_map(|(p, q)| format!("state-norm:{p}{q}")),
        chunk().prop_map(|q| format!("state-norm:auto{q}")),
        (1e-3..1e3f64, chunk()).prop_map(|(f, q)| format!("state-norm:auto*{f}{q}")),
        (1..u64::MAX).prop_map(|r| format!("window:{r}")),
        (1..u64::MAX, 1..500u64).prop_map(|(r, q)| format!("window-exact:{r},chunk={q}")),
        (1..u64::MAX).prop_map(|n| format!("reset:{n}")),
        (1..1000u64, 1..1000u64).prop_map(|(m, more)| format!("reset-overlap:{},{m}", m + more)),
    ]
}

mod equivalence {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_is_displayed_parses_to_the_same(parts in prop::collection::vec(part(), 0..4)) {
            let text = if parts.is_empty() { "none".to_owned() } else { parts.join("+") };
            match text.parse::<Mitigation>() {
                Ok(mitigation) => {
                    prop_assert_eq!(mitigation.parts().len(), parts.len());
                    let again: Mitigation = mitigation.to_string().parse().expect("its own text");
                    prop_assert_eq!(&again, &mitigation);
                    let json = serde_json::to_string(&mitigation).expect("plain data");
                    prop_assert_eq!(serde_json::from_str::<Mitigation>(&json).expect("its own JSON"), mitigation);
                }
                Err(error) => prop_assert!(matches!(error, ParseError::Conflict(_)), "{text}: {error}"),
            }
        }

        #[test]
        fn any_text_parses_or_is_one_line_of_error(text in "\\PC{0,40}") {
            if let Err(error) = text.parse::<Mitigation>() {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }

        #[test]
        fn calibrated_thresholds_bound_each_head_by_its_own(case in case(), multiplier in 0.1..2.0f64) {
            let gates = build(&Case { decay: case.decay, ..case.clone() });
            let heads: Vec<f32> = (0..case.dims.heads).map(|head| 0.5 + head as f32).collect();
            let thresholds = Thresholds::new(vec![heads.clone()]).expect("finite norms");
            let mitigation = parse(&format!("state-norm:auto*{multiplier}")).calibrated(&thresholds).expect("an auto");
            let bounds: Vec<f64> = heads.iter().map(|&p| f64::from(p) * multiplier).collect();
            let clips = |_| Some(common::Clip::BeforeReading);
            let expected = common::Recorded::of(&gates).bounded(&bounds, clips, |_| false);
            let error = common::relative_error(&run(&mitigation, &gates, &case.splits, case.form), &expected);
            prop_assert!(error < 5e-6, "relative error {error:e}");
        }
    }
}

fn error(text: &str) -> String {
    text.parse::<Mitigation>().expect_err(text).to_string()
}

#[test]
fn texts_are_canonical() {
    for (written, canonical) in [
        ("none", "none"),
        (" none + forget:0.50 ", "forget:0.5"),
        ("rri: 0.9999 , 0.75+window:8192", "rri:0.9999,0.75+window:8192"),
        ("state-norm:1e1", "state-norm:10"),
        ("state-norm:1e+1+forget:1", "forget:1+state-norm:10"),
        ("state-norm:auto*1", "state-norm:auto"),
        ("state-norm:auto * 2 , chunk = 64", "state-norm:auto*2,chunk=64"),
        ("window-exact:100,chunk=64", "window-exact:100"),
        ("window-exact:100,chunk=32", "window-exact:100,chunk=32"),
        ("state-norm:5+reset:64", "reset:64+state-norm:5"),
        (
            "reset-overlap:64,16+delta-scale:0.5",
            "reset-overlap:64,16+delta-scale:0.5",
        ),
    ] {
        assert_eq!(parse(written).to_string(), canonical);
    }
    assert!(parse("none").is_none());
}

#[test]
fn wrong_numbers_are_named_with_what_would_be_accepted() {
    for (text, names) in [
        (
            "forget:0",
            vec!["\"forget:0\"", "above 0 and at most 1", "found \"0\""],
        ),
        ("forget:-0.5", vec!["above 0 and at most 1", "-0.5"]),
        ("forget:1.01", vec!["at most 1"]),
        ("forget:NaN", vec!["found \"NaN\""]),
        ("window:64+forget:abc", vec!["\"forget:abc\"", "\"abc\""]),
        ("remember:0", vec!["insertion", "finite number above 0"]),
        ("remember:inf", vec!["finite number above 0"]),
        ("remember:1e-60", vec!["finite number above 0"]),
        ("rri:0.9,NaN", vec!["insertion"]),
        ("delta-scale:-1", vec!["factor of the step size"]),
        ("state-norm:0", vec!["threshold"]),
        ("state-norm:auto*0", vec!["calibrated thresholds"]),
        ("state-norm:5,chunk=0", vec!["chunk", "at least 1"]),
        ("window:0", vec!["window", "at least 1"]),
        ("window:1.5", vec!["whole number of tokens"]),
        ("window:-3", vec!["whole number of tokens"]),
        ("window-exact:0", vec!["at least 1"]),
        ("reset:0", vec!["period", "at least 1"]),
        (
            "reset-overlap:64,64",
            vec!["overlap", "fewer tokens than the period"],
        ),
        ("reset-overlap:64,0", vec!["overlap", "at least 1"]),
        ("reset:99999999999999999999999", vec!["period"]),
    ] {
        for name in names {
            assert!(
                error(text).contains(name),
                "{text}: {} does not say {name}",
                error(text)
            );
        }
    }
}

#[test]
fn wrong_shapes_of_text_show_the_right_one() {
    for (text, names) in [
        ("", vec!["found nothing", "window:R"]),
        ("forget:0.5+", vec!["found nothing"]),
        ("+forget:0.5", vec!["found nothing"]),
        ("forget:0.5++window:3", vec!["found nothing"]),
        ("forgot:0.5", vec!["\"forgot:0.5\"", "forget:C"]),
        ("forget", vec!["expected forget:C"]),
        ("forget:0.5,0.5", vec!["expected forget:C"]),
        ("rri:0.5", vec!["expected rri:C,C"]),
        ("state-norm:auto2", vec!["auto*F"]),
        ("state-norm:5,64", vec!["chunk=Q"]),
        ("window:64,chunk=3", vec!["expected window:R"]),
        ("reset-overlap:64", vec!["expected reset-overlap:N,M"]),
    ] {
        for name in names {
            assert!(
                error(text).contains(name),
                "{text}: {} does not say {name}",
                error(text)
            );
        }
    }
}

#[test]
fn parts_that_cannot_work_together_say_why() {
    for text in [
        "window:64+state-norm:5",
        "state-norm:auto+window-exact:64",
        "window:64+window:32",
        "window:64+window-exact:64",
        "state-norm:5+state-norm:6",
        "window:64+reset:128",
        "reset-overlap:64,3+window:4",
        "reset:64+reset-overlap:64,3",
        "reset-overlap:64,3+reset-overlap:32,3",
    ] {
        let message = error(text);
        let both = text
            .split('+')
            .all(|part| message.contains(&format!("\"{part}\"")));
        assert!(both && message.contains("cannot be combined"), "{message}");
    }
}

#[test]
fn a_layer_without_step_size_refuses_to_scale_it() {
    let site = Site {
        has_step_size: false,
        ..plain_site()
    };
    let message = parse("delta-scale:0.5")
        .chain()
        .check(&site)
        .expect_err("no step size")
        .to_string();
    assert!(
        message.contains("no step size") && message.contains("forget:C"),
        "{message}"
    );
}

#[test]
fn a_state_that_is_no_sum_refuses_windows_and_norms() {
    let site = Site {
        linear: false,
        ..plain_site()
    };
    for text in ["window:64", "window-exact:64", "state-norm:5"] {
        let message = parse(text).chain().check(&site).expect_err(text).to_string();
        assert!(message.contains(text) && message.contains("reset:N"), "{message}");
    }
    assert!(parse("reset:64+forget:0.9").chain().check(&site).is_ok());
}

fn plain_site() -> Site {
    Site {
        layer: 0,
        first_head: 0,
        heads: 2,
        groups: 1,
        key_dim: 4,
        value_dim: 4,
        has_step_size: true,
        per_key_decay: false,
        rule: ssm_core::Rule::WeightedSum,
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

    let other = Thresholds::new(vec![vec![1.0; 3]]).expect("finite norms");
    let other = mitigation.calibrated(&other).expect("an auto");
    assert!(check(&other).expect_err("three heads").contains("another model"));

    let fitting = Thresholds::new(vec![vec![1.0, 2.0]]).expect("finite norms");
    let fitting = mitigation.calibrated(&fitting).expect("an auto");
    assert!(!fitting.needs_calibration());
    assert_eq!(check(&fitting), Ok(()));
    assert_eq!(fitting.to_string(), mitigation.to_string());

    let json = serde_json::to_string(&fitting).expect("plain data");
    assert_eq!(
        json,
        r#"{"mitigation":"forget:0.99+state-norm:auto*2,chunk=8","thresholds":[[1.0,2.0]]}"#
    );
    assert_eq!(
        serde_json::from_str::<Mitigation>(&json).expect("its own JSON"),
        fitting
    );
    assert!(
        parse("window:3")
            .calibrated(&Thresholds::new(vec![]).expect("none"))
            .is_err()
    );
    assert!(
        serde_json::from_str::<Mitigation>(r#"{"mitigation":"state-norm:auto","thresholds":[[-1.0]]}"#)
            .is_err()
    );
}

#[test]
fn an_uncalibrated_threshold_is_an_error_even_without_a_check() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let case = case().new_tree(&mut runner).expect("a case").current();
    let gates = build(&case);
    let mitigation = parse("state-norm:auto");
    let mut state = start(&mitigation, &gates);
    let result = mitigation
        .chain()
        .run(&site(&gates), gates, &mut state, ssm_core::Form::Auto);
    assert!(
        result
            .expect_err("not calibrated")
            .to_string()
            .contains("calibrate it")
    );
}

#[test]
fn calibration_takes_quantiles_per_head_and_refuses_what_is_no_norm() {
    let state = |sizes: [f32; 2]| {
        let heads = sizes.map(|size| Tensor::<4>::full([1, 1, 2, 2], size, &Device::flex()));
        State {
            memory: Tensor::cat(heads.to_vec(), 1),
            position: 1,
        }
    };
    let mut calibration = Calibration::default();
    assert_eq!(calibration.thresholds(1.0), Err(CalibrationError::Empty));
    for step in 1..=10 {
        calibration
            .observe([&state([step as f32, 0.0])])
            .expect("finite states");
    }
    assert_eq!(
        calibration.thresholds(1.0).expect("recorded").layers(),
        [vec![20.0, f32::MIN_POSITIVE]]
    );
    assert_eq!(
        calibration.thresholds(0.5).expect("recorded").layers()[0][0],
        12.0
    );
    assert_eq!(calibration.thresholds(0.0).expect("recorded").layers()[0][0], 2.0);
    assert!(matches!(
        calibration.thresholds(1.5),
        Err(CalibrationError::Quantile(_))
    ));
    assert!(matches!(
        calibration.observe([]),
        Err(CalibrationError::Layers {
            expected: 1,
            found: 0,
            ..
        })
    ));
    let infinite = calibration.observe([&state([f32::NAN, 0.0])]);
    assert!(matches!(
        infinite,
        Err(CalibrationError::NotFinite {
            layer: 0,
            head: 0,
            ..
        })
    ));
}
