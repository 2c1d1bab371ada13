//! Learning rates: bounds, ends, continuity, and what cannot be followed.

use proptest::prelude::*;
use spillway_models::train::{DecayShape, ScheduleConfig};

fn shapes() -> impl Strategy<Value = DecayShape> {
    prop_oneof![Just(DecayShape::Linear), Just(DecayShape::OneMinusSqrt)]
}

/// A schedule and a number of steps that it fits into, at least two of them not of the warm-up.
fn schedules() -> impl Strategy<Value = (ScheduleConfig, u64)> {
    let sizes = (0u64..200, 1u64..500, 0u64..500);
    (sizes, 0.0..=1.0f64, shapes(), 0..4usize).prop_map(
        |((warmup_steps, decay_steps, stable), final_fraction, decay, kind)| {
            let schedule = match kind {
                0 => ScheduleConfig::Constant { warmup_steps },
                1 => ScheduleConfig::Linear {
                    warmup_steps,
                    final_fraction,
                },
                2 => ScheduleConfig::Cosine {
                    warmup_steps,
                    final_fraction,
                },
                _ => ScheduleConfig::Wsd {
                    warmup_steps,
                    decay_steps,
                    decay,
                    final_fraction,
                },
            };
            (schedule, warmup_steps + stable + decay_steps + 1)
        },
    )
}

/// The steepest that a schedule may be from one step to the next, as a fraction of the peak.
fn steepest(schedule: &ScheduleConfig, steps: u64) -> f64 {
    let warmup = schedule.warmup_steps();
    let way = (steps - 1 - warmup) as f64;
    let down = match schedule {
        ScheduleConfig::Constant { .. } => 0.0,
        ScheduleConfig::Linear { .. } => 1.0 / way,
        ScheduleConfig::Cosine { .. } => std::f64::consts::FRAC_PI_2 / way,
        ScheduleConfig::Wsd {
            decay_steps, decay, ..
        } => match decay {
            DecayShape::Linear => 1.0 / *decay_steps as f64,
            DecayShape::OneMinusSqrt => (1.0 / *decay_steps as f64).sqrt(),
        },
    };
    down.max(1.0 / (warmup as f64 + 1.0))
}

fn final_fraction(schedule: &ScheduleConfig) -> f64 {
    match schedule {
        ScheduleConfig::Constant { .. } => 1.0,
        ScheduleConfig::Linear { final_fraction, .. }
        | ScheduleConfig::Cosine { final_fraction, .. }
        | ScheduleConfig::Wsd { final_fraction, .. } => *final_fraction,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn rates_rise_to_the_peak_stay_within_bounds_and_end_where_they_should(
        (schedule, steps) in schedules(),
        peak in 1e-6..10.0f64,
    ) {
        schedule.validate(steps).unwrap();
        let rate = |step| schedule.rate(peak, step, steps) / peak;
        let warmup = schedule.warmup_steps();
        let (slope, last) = (steepest(&schedule, steps) * (1.0 + 1e-9), final_fraction(&schedule));
        prop_assert!((rate(warmup) - 1.0).abs() < 1e-15, "the peak is reached at the end of the warm-up");
        prop_assert!((rate(steps - 1) - last).abs() < 1e-15);
        prop_assert!((rate(steps + 1000) - last).abs() < 1e-15, "later steps have the last one's");
        for step in 0..steps - 1 {
            let (now, next) = (rate(step), rate(step + 1));
            prop_assert!((now - next).abs() <= slope + 1e-12, "{} to {} at {}", now, next, step);
            let bounds = if step < warmup { 0.0..=1.0 } else { last - 1e-15..=1.0 + 1e-15 };
            prop_assert!(bounds.contains(&now), "{} at {}", now, step);
            prop_assert!(now > 0.0 || last == 0.0);
            let monotone = if step < warmup { next > now } else { next <= now + 1e-15 };
            prop_assert!(monotone, "{} to {} at {}", now, next, step);
        }
    }

    /// Whatever the numbers, an answer: `validate` is for people.
    #[test]
    fn any_numbers_have_a_rate(
        (schedule, _) in schedules(),
        step in any::<u64>(),
        steps in any::<u64>(),
    ) {
        for schedule in [schedule, ScheduleConfig::Wsd {
            warmup_steps: step,
            decay_steps: steps,
            decay: DecayShape::OneMinusSqrt,
            final_fraction: 0.5,
        }] {
            let rate = schedule.rate(1.0, step, steps);
            prop_assert!((0.0..=1.0 + 1e-15).contains(&rate), "{}", rate);
        }
    }
}

#[test]
fn values_of_each_schedule() {
    let rates = |schedule: ScheduleConfig, steps: u64| -> Vec<f64> {
        let rate = |step| schedule.rate(8.0, step, steps);
        (0..steps).map(rate).collect()
    };
    let warmup_steps = 3;
    assert_eq!(
        rates(ScheduleConfig::Constant { warmup_steps }, 5),
        [2.0, 4.0, 6.0, 8.0, 8.0]
    );
    let linear = ScheduleConfig::Linear {
        warmup_steps: 1,
        final_fraction: 0.5,
    };
    assert_eq!(rates(linear, 6), [4.0, 8.0, 7.0, 6.0, 5.0, 4.0]);
    let wsd = |decay| ScheduleConfig::Wsd {
        warmup_steps: 1,
        decay_steps: 4,
        decay,
        final_fraction: 0.0,
    };
    assert_eq!(
        rates(wsd(DecayShape::Linear), 8),
        [4.0, 8.0, 8.0, 8.0, 6.0, 4.0, 2.0, 0.0]
    );
    // 1 − √(1/4) = 1/2 after a quarter of the way.
    assert_eq!(rates(wsd(DecayShape::OneMinusSqrt), 8)[3..5], [8.0, 4.0]);
    let cosine = ScheduleConfig::Cosine {
        warmup_steps: 0,
        final_fraction: 0.25,
    };
    let found = rates(cosine, 5);
    assert_eq!((found[0], found[4]), (8.0, 2.0));
    assert!((found[2] - 5.0).abs() < 1e-14);
    // (1 − cos 45°) / 2 of the way down.
    assert!((found[1] - (8.0 - 6.0 * (1.0 - 0.5f64.sqrt()) / 2.0)).abs() < 1e-14);
}

#[test]
fn schedules_that_do_not_fit_are_refused_by_field() {
    let refuse = |schedule: ScheduleConfig, steps: u64, expected: &str| {
        let error = schedule.validate(steps).unwrap_err().to_string();
        assert_eq!(error, expected);
    };
    let warmup = |warmup_steps| ScheduleConfig::Constant { warmup_steps };
    refuse(warmup(0), 0, "steps: expected at least 1, found 0");
    warmup(9).validate(10).unwrap();
    refuse(
        warmup(10),
        10,
        "schedule.warmup_steps: expected at most 9, as there are 10 steps, found 10",
    );
    refuse(
        warmup(u64::MAX),
        10,
        "schedule.warmup_steps: expected at most 9, as there are 10 steps, found 18446744073709551615",
    );
    for final_fraction in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let schedule = ScheduleConfig::Cosine {
            warmup_steps: 0,
            final_fraction,
        };
        let expected =
            format!("schedule.final_fraction: expected a number from 0 to 1, found {final_fraction}");
        refuse(schedule, 10, &expected);
    }
    let wsd = |decay_steps| ScheduleConfig::Wsd {
        warmup_steps: 4,
        decay_steps,
        decay: DecayShape::Linear,
        final_fraction: 0.0,
    };
    wsd(5).validate(10).unwrap();
    for decay_steps in [0, 6, u64::MAX] {
        let expected = format!(
            "schedule.decay_steps: expected from 1 to 5, as 4 of 10 steps are warm-up and one has the peak, \
             found {decay_steps}"
        );
        refuse(wsd(decay_steps), 10, &expected);
    }
}
