//! Text, value and JSON say the same, and every wrong text is one clear line.

mod calibrated;
#[path = "../common/mod.rs"]
mod common;

use common::parse;
use proptest::prelude::*;
use spillway_mitigations::{Mitigation, ParseError};
use spillway_ssm_core::{Rule, Site};

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
        (
            1e-3..1e6f64,
            prop::sample::select(vec!["", ",at=2", ",at=0/3.1/3.17"])
        )
            .prop_map(|(t, at)| format!("cap:{t}{at}")),
        (1e-3..1e6f64, prop::sample::select(vec!["", ",at=5.0"]))
            .prop_map(|(t, at)| format!("cap-mean:{t}{at}")),
        (1e-6..1e3f64).prop_map(|s| format!("a-scale:{s}")),
        (1e-6..1e3f64).prop_map(|s| format!("c-scale:{s}")),
        prop::sample::select(vec!["ablate:2", "ablate:0/3.1/3.17"]).prop_map(str::to_owned),
        (1e-6..1e3f64, 1e-6..1e3f64).prop_map(|(s, t)| format!("scales:{s},{t},1")),
        (
            1..u64::MAX,
            prop::sample::select(vec!["", ",global=0.5", ",clamp=0", ",global=1e-30,clamp=0.2"])
        )
            .prop_map(|(n, options)| format!("delta-filter:{n}{options}")),
        (1e-6..1.0f64, prop::sample::select(vec!["", ",at=1/2"]))
            .prop_map(|(share, at)| format!("decimate:{share}{at}")),
        prop::sample::select(vec![
            "fitted-noise",
            "fitted-noise:2",
            "fitted-noise:seed=3",
            "fitted-noise:0.5,seed=9"
        ])
        .prop_map(str::to_owned),
        (
            prop::sample::select(vec![
                "f32",
                "bf16",
                "f16,rounding=stochastic",
                "fp8-e4m3,scale=row",
                "fp8-e5m2,scale=tile,rounding=stochastic,seed=3",
                "int8",
                "int8,scale=row"
            ]),
            chunk()
        )
            .prop_map(|(t, q)| format!("state-dtype:{t}{q}")),
        (
            2..u64::MAX,
            prop::sample::select(vec!["", ",exponent=0.5", ",exponent=1"])
        )
            .prop_map(|(t, exponent)| format!("position-decay:{t}{exponent}")),
        (2..u64::MAX).prop_map(|t| format!("position-spectrum:{t}")),
        (1.001..1e6f64).prop_map(|a| format!("log-attention:{a}")),
        (1.001..1e6f64).prop_map(|t| format!("logn-attention:{t}")),
        (1..u64::MAX).prop_map(|r| format!("window:{r}")),
        (1..u64::MAX).prop_map(|r| format!("window-writes:{r}")),
        (1..u64::MAX).prop_map(|q| format!("window-jagged:{q}")),
        (1..u64::MAX, 1..500u64).prop_map(|(r, q)| format!("window-exact:{r},chunk={q}")),
        (1..u64::MAX).prop_map(|n| format!("reset:{n}")),
        (1..1000u64, 1..1000u64).prop_map(|(m, more)| format!("reset-overlap:{},{m}", m + more)),
    ]
}

mod equivalence {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

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
        ("window-jagged:64", "window-exact:64"),
        ("window-jagged:32", "window-exact:32,chunk=32"),
        ("position-decay:64,exponent=1.0", "position-decay:64"),
        ("state-norm:5+reset:64", "reset:64+state-norm:5"),
        (
            "reset-overlap:64,16+delta-scale:0.5",
            "reset-overlap:64,16+delta-scale:0.5",
        ),
        ("cap: 64 , at = 02/3.0", "cap:64,at=2/3.0"),
        ("scales:1,0.50,2", "scales:1,0.5,2"),
        ("delta-filter:4096,clamp=0.05,global=0.05", "delta-filter:4096"),
        (
            "delta-filter:4096,clamp=0,global=0.5",
            "delta-filter:4096,global=0.5,clamp=0",
        ),
        ("decimate:0.25,at=12/20", "decimate:0.25,at=12/20"),
        ("fitted-noise:1,seed=0", "fitted-noise"),
        ("fitted-noise:seed=7,2", "fitted-noise:2,seed=7"),
        ("state-dtype:int8,scale=head,rounding=nearest", "state-dtype:int8"),
        (
            "state-dtype:chunk=8,seed=0,rounding=stochastic,bf16,scale=none",
            "state-dtype:bf16,rounding=stochastic,chunk=8",
        ),
        (
            "state-norm:5+state-dtype:f16+reset:64",
            "reset:64+state-dtype:f16+state-norm:5",
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
        ("window-writes:0", vec!["window", "at least 1"]),
        ("window-jagged:0", vec!["chunk", "at least 1"]),
        ("position-decay:1", vec!["length", "at least 2"]),
        ("position-decay:64,exponent=0", vec!["exponent", "above 0"]),
        ("position-spectrum:0", vec!["length", "at least 1"]),
        ("log-attention:1", vec!["tokens", "above 1"]),
        ("logn-attention:NaN", vec!["tokens", "above 1"]),
        ("reset:0", vec!["period", "at least 1"]),
        (
            "reset-overlap:64,64",
            vec!["overlap", "fewer tokens than the period"],
        ),
        ("reset-overlap:64,0", vec!["overlap", "at least 1"]),
        ("reset:99999999999999999999999", vec!["period"]),
        ("cap:0", vec!["memory length", "above 0"]),
        ("cap:64,at=a", vec!["at", "LAYER.HEAD", "found \"a\""]),
        ("cap-mean:64,at=1.", vec!["LAYER.HEAD"]),
        ("a-scale:0", vec!["factor of the log decay"]),
        ("ablate:x", vec!["heads", "LAYER.HEAD", "found \"x\""]),
        ("c-scale:-1", vec!["factor of the read-out"]),
        ("scales:1,0", vec!["factor of a layer's step size"]),
        ("delta-filter:0", vec!["length", "at least 1"]),
        ("delta-filter:64,global=0", vec!["global head", "above 0"]),
        ("delta-filter:64,clamp=1.5", vec!["clamped", "from 0 (none) to 1"]),
        ("decimate:0", vec!["share of kept tokens"]),
        ("decimate:1.1", vec!["at most 1"]),
        ("decimate:0.5,at=1.2", vec!["layers, counted from 0"]),
        ("fitted-noise:0", vec!["factor of the noise"]),
        ("fitted-noise:seed=-1", vec!["seed"]),
        ("state-dtype:fp16", vec!["type of the state", "bf16, f16"]),
        ("state-dtype:bf16,scale=row", vec!["scale", "8 bits only"]),
        ("state-dtype:int8,scale=none", vec!["head, row or tile"]),
        ("state-dtype:fp8-e4m3,scale=column", vec!["found \"column\""]),
        ("state-dtype:f16,rounding=down", vec!["nearest or stochastic"]),
        (
            "state-dtype:f16,rounding=stochastic,seed=x",
            vec!["seed", "at least 0"],
        ),
        ("state-dtype:f16,chunk=0", vec!["chunk", "at least 1"]),
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
        ("", vec!["found nothing", "rri:0.9999,0.75+window:8192"]),
        ("forget:0.5+", vec!["found nothing"]),
        ("+forget:0.5", vec!["found nothing"]),
        ("forget:0.5++window:3", vec!["found nothing"]),
        ("forgot:0.5", vec!["\"forgot:0.5\"", "did you mean forget:C?"]),
        ("windows:64", vec!["did you mean window:R?"]),
        ("dam:3", vec!["none or one of forget, remember"]),
        ("forget", vec!["expected forget:C", "no argument"]),
        ("forget:0.5,0.5", vec!["expected forget:C"]),
        ("rri:0.5", vec!["expected rri:C,D", "found 1 argument"]),
        ("state-norm:auto2", vec!["auto*F"]),
        ("state-norm:5,64", vec!["chunk=Q"]),
        ("window:64,chunk=3", vec!["expected window:R", "an option chunk="]),
        ("reset-overlap:64", vec!["expected reset-overlap:N,M"]),
        ("cap:64,heads=3", vec!["at=LAYER.HEAD"]),
        ("cap:64,at=1,at=2", vec!["at=LAYER.HEAD", "at= twice"]),
        ("scales", vec!["expected scales:S,S"]),
        ("scales:1,at=2", vec!["expected scales:S,S"]),
        ("delta-filter", vec!["expected delta-filter:S"]),
        ("fitted-noise:1,2", vec!["seed=N"]),
        ("state-dtype", vec!["expected state-dtype:T", "no argument"]),
        ("state-dtype:f16,seed=3", vec!["without rounding=stochastic"]),
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
fn every_message_is_one_short_line_whatever_was_written() {
    let long = "x".repeat(5000);
    for text in [
        long.clone(),
        format!("window:{long}"),
        format!("window:64,{long}=3"),
        format!("{long}+"),
        "forget:0.9+".repeat(2000),
        "forget:0.9+".repeat(1999) + "window:4",
        "wind\u{1b}[31m\now:4".into(),
        "interpolate:3".into(),
    ] {
        let message = error(&text);
        assert!(
            message.chars().count() < 300 && !message.contains(char::is_control),
            "{message}"
        );
    }
    assert!(error(&("forget:0.9+".repeat(64) + "forget:0.9")).contains("at most 64 parts, found 65"));
    assert!(
        ("forget:0.9+".repeat(63) + "forget:0.9")
            .parse::<Mitigation>()
            .is_ok()
    );
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
        "fitted-noise+window:64",
        "window-exact:64+fitted-noise:2",
        "fitted-noise+fitted-noise:seed=1",
        "state-dtype:f16+state-dtype:bf16",
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
fn every_part_that_needs_steps_refuses_a_layer_without_them() {
    for text in ["delta-scale:0.5", "scales:0.5", "delta-filter:64", "decimate:0.5"] {
        let site = Site {
            has_step_size: false,
            ..plain_site()
        };
        let message = parse(text).chain().check(&site).expect_err(text).to_string();
        assert!(
            message.contains("no step size") && message.contains("use "),
            "{message}"
        );
    }
    let message = parse("scales:1,1").chain().check(&Site {
        layer: 2,
        ..plain_site()
    });
    assert!(
        message
            .expect_err("two factors")
            .to_string()
            .contains("a factor for every layer")
    );
}

#[test]
fn what_is_no_weighted_sum_refuses_what_needs_one_and_names_what_works() {
    for (rule, text, instead) in [
        (Rule::Delta, "window:64", "window-exact:64"),
        (Rule::Mean, "window:64", "window-exact:64"),
        (Rule::Mean, "state-norm:5", "reset:N"),
        (Rule::Mean, "fitted-noise", "another text"),
    ] {
        let site = Site { rule, ..plain_site() };
        let message = parse(text).chain().check(&site).expect_err(text).to_string();
        assert!(message.contains(text) && message.contains(instead), "{message}");
    }
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
        decays: true,
        per_key_decay: false,
        begins_with_prefix: false,
        rule: Rule::WeightedSum,
    }
}
