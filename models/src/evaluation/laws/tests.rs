//! The published points, data of known laws, and censoring.

use super::bootstrap::bootstrap;
use super::profile::exponent;
use super::published::{FORGET, FORGET_LINE, RECALL, RECALL_EXPONENTIAL, SIZES, as_fitted, intervals, real};
use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance,
        "found {found}, expected {expected}"
    );
}

#[test]
fn the_published_line_is_the_least_squares_of_all_six_points() {
    let fit = fit(Law::Linear, ErrorModel::Additive, &as_fitted(&FORGET)).expect("fitted");
    close(fit.parameters[0], 5.164, 5e-4);
    close(fit.parameters[1], -4.456, 5e-4);
    close(fit.r_squared.expect("exact points"), 0.985, 5e-4);
    let pairs: Vec<(f64, f64)> = SIZES.into_iter().zip(FORGET).collect();
    close(
        r_squared(Law::Linear, ErrorModel::Additive, &FORGET_LINE, &pairs),
        0.985,
        5e-4,
    );
}

#[test]
fn a_power_law_through_the_five_models_needs_no_negative_intercept() {
    let fit = fit(Law::Power, ErrorModel::LogNormal, &real(&FORGET)).expect("fitted");
    close(fit.parameters[0], 1.0905, 5e-4);
    close(fit.parameters[1], 1.6654, 5e-4);
    close(fit.r_squared.expect("exact points"), 0.9619, 5e-4);
    assert!(fit.aicc.is_some() && fit.at(0.5) > 0.0);
}

#[test]
fn the_published_exponential_of_recall_explains_nearly_all_variance() {
    let pairs: Vec<(f64, f64)> = SIZES.into_iter().zip(RECALL).collect();
    let published = r_squared(
        Law::Exponential,
        ErrorModel::Additive,
        &RECALL_EXPONENTIAL,
        &pairs,
    );
    close(published, 0.99992, 5e-6);
    let fit = fit(Law::Exponential, ErrorModel::Additive, &as_fitted(&RECALL)).expect("fitted");
    close(fit.parameters[0], 4.7845, 2e-3);
    close(fit.parameters[1], -0.7463, 2e-3);
    close(fit.parameters[2], 0.31017, 1e-4);
    assert!(fit.r_squared.expect("exact points") >= published);
    // k = 4 parameters with σ and 6 points: 2k(k + 1)/(n − k − 1) = 40.
    close(fit.aicc.expect("defined for 6 points") - fit.aic, 40.0, 1e-9);
}

#[test]
fn aicc_is_undefined_where_there_are_hardly_more_points_than_parameters() {
    let fit = fit(Law::Exponential, ErrorModel::LogNormal, &real(&RECALL)).expect("fitted");
    assert_eq!(fit.aicc, None);
    assert_eq!(fit.criterion(), fit.aic);
}

#[test]
fn the_search_finds_what_the_closed_form_gives() {
    // Additive errors of the power law and log-normal ones of the line have no closed form here; the others do.
    let points = real(&FORGET);
    let closed = fit(Law::Power, ErrorModel::LogNormal, &points).expect("fitted");
    let problem = Problem::new(Law::Power, ErrorModel::LogNormal, &points);
    let (start, edges) = problem.coordinates(&[2.0, 1.0]);
    let (found, value) = simplex::minimise(
        &|at: &[f64]| problem.objective(at),
        &start,
        &edges,
        simplex::THOROUGH,
    );
    close(-value, closed.log_likelihood, 1e-6);
    let (parameters, sigma) = problem.parameters(&found);
    close(parameters[1], closed.parameters[1], 1e-4);
    close(sigma, closed.sigma, 1e-4);
}

#[test]
fn error_models_are_compared_by_densities_of_the_same_lengths() {
    // The same points in another unit: a density per token is one per thousand tokens over 1000, whatever the error model, so that
    // differences of AIC do not depend on the unit.
    let scaled: Vec<Point> = real(&FORGET)
        .into_iter()
        .map(|point| Point {
            length: Observation::Exact(1000.0 * point.length.representative()),
            ..point
        })
        .collect();
    let difference = |points: &[Point]| {
        let aic = |error| fit(Law::Power, error, points).expect("fitted").aic;
        aic(ErrorModel::Additive) - aic(ErrorModel::LogNormal)
    };
    close(difference(&real(&FORGET)), difference(&scaled), 1e-3);
}

fn synthetic(
    law: Law,
    parameters: &[f64],
    sigma: f64,
    (sizes, repeats): (usize, usize),
    rng: &mut StdRng,
) -> Vec<Point> {
    let mut points = Vec::new();
    for index in 0..sizes {
        let size = 0.5 * 1.8f64.powi(index as i32);
        for _ in 0..repeats {
            let noise: f64 = rng.sample(StandardNormal);
            let length = law.at(parameters, size) * (sigma * noise).exp();
            points.push(Point {
                size,
                length: Observation::Exact(length),
            });
        }
    }
    points
}

/// What trying lengths in powers of two from `shortest` to `longest` leaves of a length.
fn tried(point: &Point, shortest: f64, longest: f64) -> Point {
    let value = point.length.representative();
    let high = value.log2().ceil().exp2();
    let length = match value {
        v if v <= shortest => Observation::Within {
            low: 0.0,
            high: Some(shortest),
        },
        v if v > longest => Observation::Within {
            low: longest,
            high: None,
        },
        _ => Observation::halved(high),
    };
    Point { length, ..*point }
}

#[test]
fn parameters_of_known_laws_are_found_again() {
    let mut rng = StdRng::seed_from_u64(5);
    for (law, parameters) in [
        (Law::Linear, vec![40.0, 8.0]),
        (Law::Power, vec![30.0, 1.5]),
        (Law::Exponential, vec![20.0, 5.0, 0.15]),
    ] {
        let points = synthetic(law, &parameters, 0.0, (8, 1), &mut rng);
        for error in ErrorModel::ALL {
            let fit = fit(law, error, &points).expect("fitted");
            for (found, expected) in fit.parameters.iter().zip(&parameters) {
                close(*found / expected, 1.0, 2e-2);
            }
            assert!(fit.r_squared.expect("exact points") > 0.9999, "{fit:?}");
        }
        let noisy = synthetic(law, &parameters, 0.05, (8, 20), &mut rng);
        let (fits, errors) = fit_all(&noisy);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(
            (fits[0].law, fits[0].error),
            (law, ErrorModel::LogNormal),
            "{fits:?}"
        );
    }
}

#[test]
fn bounds_from_one_side_move_a_fit_and_a_cut_off_value_would_not_do() {
    // A proportional law, tried up to a length that the larger half of the sizes goes beyond.
    let mut rng = StdRng::seed_from_u64(7);
    let points = synthetic(Law::Power, &[100.0, 1.0], 0.4, (8, 12), &mut rng);
    let censored: Vec<Point> = points.iter().map(|point| tried(point, 32.0, 512.0)).collect();
    assert!(
        censored
            .iter()
            .any(|point| matches!(point.length, Observation::Within { high: None, .. }))
    );
    let found = fit(Law::Power, ErrorModel::LogNormal, &censored).expect("fitted");
    close(found.parameters[1], 1.0, 0.15);
    let cut: Vec<Point> = censored
        .iter()
        .map(|point| Point {
            length: Observation::Exact(point.length.representative()),
            ..*point
        })
        .collect();
    let cut = fit(Law::Power, ErrorModel::LogNormal, &cut).expect("fitted");
    assert!(cut.parameters[1] < 0.85, "{cut:?}");
}

#[test]
fn intervals_through_which_a_law_passes_leave_its_scatter_open() {
    let points: Vec<Point> = [1.0, 2.0, 4.0, 8.0]
        .map(|size| Point {
            size,
            length: Observation::halved(16.0 * size),
        })
        .to_vec();
    let fit = fit(Law::Power, ErrorModel::LogNormal, &points).expect("fitted");
    assert!(fit.at_floor && fit.log_likelihood > -1e-3, "{fit:?}");
    let profile = exponent(&points, &[1.0]).expect("profile");
    assert!(
        profile.allows(1.0) && !profile.allows(2.0) && !profile.allows(0.0),
        "{profile:?}"
    );
}

#[test]
fn intervals_of_the_exponent_hold_the_true_one_about_as_often_as_they_say() {
    let (trials, exponent_true) = (40, 1.5);
    let (mut by_profile, mut by_bootstrap) = (0, 0);
    for trial in 0..trials {
        let mut rng = StdRng::seed_from_u64(trial);
        let points = synthetic(Law::Power, &[60.0, exponent_true], 0.35, (6, 2), &mut rng);
        let points: Vec<Point> = points.iter().map(|point| tried(point, 32.0, 1024.0)).collect();
        let profile = exponent(&points, &[]).expect("profile");
        by_profile += usize::from(profile.allows(exponent_true));
        let resampled =
            bootstrap(Law::Power, ErrorModel::LogNormal, &points, &[], (60, trial)).expect("resampled");
        let interval = resampled.parameters[1];
        by_bootstrap += usize::from((interval.low..=interval.high).contains(&exponent_true));
    }
    let share = |hits: usize| hits as f64 / trials as f64;
    // The standard error of a share of 0.95 among 40 is 0.035.
    assert!(share(by_profile) >= 0.85, "profile: {}", share(by_profile));
    assert!(share(by_bootstrap) >= 0.75, "bootstrap: {}", share(by_bootstrap));
}

#[test]
fn resampling_repeats_itself_and_counts_what_it_cannot_fit() {
    let points = intervals(&FORGET);
    let run = |seed| {
        bootstrap(
            Law::Power,
            ErrorModel::LogNormal,
            &points,
            &[1.0, 10.0],
            (100, seed),
        )
        .expect("resampled")
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let (low, high) = (run(1).band[1].1.low, run(1).band[1].1.high);
    let fitted = fit(Law::Power, ErrorModel::LogNormal, &points)
        .expect("fitted")
        .at(10.0);
    assert!(low < fitted && fitted < high, "{low} {fitted} {high}");
    let two: Vec<Point> = points[..2].to_vec();
    let resampled = bootstrap(Law::Power, ErrorModel::LogNormal, &two, &[], (100, 0)).expect("resampled");
    // Half of all draws of two sizes hold one size twice.
    assert!((30..=70).contains(&resampled.failed), "{resampled:?}");
}

#[test]
fn what_cannot_be_fitted_is_refused_with_its_reason() {
    let points = intervals(&FORGET);
    let refused = |law, error, points: &[Point]| fit(law, error, points).expect_err("refused").to_string();
    let text = refused(Law::Exponential, ErrorModel::Additive, &points[..2]);
    assert!(text.contains("at least 3 sizes, found 2"), "{text}");
    let text = refused(Law::Linear, ErrorModel::LogNormal, &as_fitted(&FORGET));
    assert!(text.contains("above 0") && text.contains("size 0"), "{text}");
    let above: Vec<Point> = points
        .iter()
        .map(|point| Point {
            length: Observation::Within {
                low: 64.0,
                high: None,
            },
            ..*point
        })
        .collect();
    let text = refused(Law::Power, ErrorModel::LogNormal, &above);
    assert!(text.contains("only bounds from below"), "{text}");
}
