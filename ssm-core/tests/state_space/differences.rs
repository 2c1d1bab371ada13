//! How far two lists of numbers are apart.

/// ‖found − expected‖₂ / ‖expected‖₂; NaN and lists of different lengths are infinitely far.
pub fn relative(found: &[f64], expected: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let size = norm(&mut expected.iter().copied());
    if found.len() != expected.len() || difference.is_nan() {
        return f64::INFINITY;
    }
    if difference == 0.0 { 0.0 } else { difference / size }
}

/// Panics where two lists are further apart than `bound`.
#[track_caller]
pub fn assert_close(found: &[f64], expected: &[f64], bound: f64, what: &str) {
    let error = relative(found, expected);
    assert!(
        error <= bound,
        "{what}: relative error {error:e} above {bound:e}\nfound {found:?}\nexpected {expected:?}"
    );
}

/// Panics where an element is further than `bound` times the larger of 1 and the largest expected size from where it should be.
#[track_caller]
pub fn assert_near(found: &[f64], expected: &[f64], bound: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let size = expected.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= bound * size,
            "{what}: index {i}: found {a:e}, expected {b:e}, apart by {:e}, size {size:e}",
            (a - b).abs()
        );
    }
}
