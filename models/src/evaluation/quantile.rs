//! Quantiles: of numbers, and of Student's distribution.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// The number that `share` of the ascending values lie below, linear between the two nearest of them; NaN of none.
///
/// ```
/// use spillway_models::evaluation::quantile::of_sorted;
///
/// assert_eq!(of_sorted(&[1.0, 2.0, 4.0], 0.25), 1.5);
/// ```
pub fn of_sorted(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share * last as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (place - place.floor()) * (sorted[above] - sorted[below])
}

/// The quantile of ½ of ascending values; NaN of none.
pub fn median(sorted: &[f64]) -> f64 {
    of_sorted(sorted, 0.5)
}

/// t of the two-sided 95 % interval mean ± t s / √n: the 97.5 % quantile of Student's distribution with n − 1 degrees of
/// freedom. Infinite without a degree of freedom.
///
/// ```
/// use spillway_models::evaluation::quantile::student;
///
/// assert!((student(2) - 4.3027).abs() < 1e-4 && (student(120) - 1.9799).abs() < 1e-4);
/// ```
pub fn student(freedom: usize) -> f64 {
    StudentsT::new(0.0, 1.0, freedom as f64).map_or(f64::INFINITY, |student| student.inverse_cdf(0.975))
}
