//! The Wilson score interval of a share of successes.
//!
//! ```text
//! (p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n)        z = 1.959964 for 95 %
//! ```
//!
//! Unlike p̂ ± z·σ it stays inside [0, 1] and has a width at 0 and n successes, which is where most cells of a passkey grid
//! are. Source: Wilson, *Probable inference, the law of succession, and statistical inference*, JASA 22 (1927).

/// The two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The 95 % interval of the probability behind `correct` successes in `samples` trials; [0, 1] for no trials.
///
/// ```
/// let (low, high) = spillway_models::evaluation::wilson::interval(10, 10);
/// assert!((low - 0.7225).abs() < 1e-4 && high == 1.0);
/// ```
pub fn interval(correct: u64, samples: u64) -> (f64, f64) {
    if samples == 0 {
        return (0.0, 1.0);
    }
    let n = samples as f64;
    let share = correct as f64 / n;
    let z2 = Z * Z;
    let centre = share + z2 / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // At 0 and n successes the bound is 0 or 1 exactly; rounding would leave 1e-17 over.
    let low = if correct == 0 {
        0.0
    } else {
        (centre - half) / scale
    };
    let high = if correct >= samples {
        1.0
    } else {
        (centre + half) / scale
    };
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::interval;

    #[test]
    fn known_intervals_are_met() {
        // Computed by hand from the formula: 0 of 10 → z²/(n + z²); 10 of 10 mirrors it; 81 of 263 is Newcombe's (1998) example.
        for ((correct, samples), (low, high)) in [
            ((0, 10), (0.0, 0.277_533)),
            ((10, 10), (0.722_467, 1.0)),
            ((5, 10), (0.236_593, 0.763_407)),
            ((81, 263), (0.2553, 0.3662)),
            ((0, 0), (0.0, 1.0)),
        ] {
            let found = interval(correct, samples);
            let close = |a: f64, b: f64| (a - b).abs() < 5e-5;
            assert!(
                close(found.0, low) && close(found.1, high),
                "{correct} of {samples}: {found:?}"
            );
        }
    }

    #[test]
    fn the_interval_holds_the_share_and_narrows_with_samples() {
        for samples in [1u64, 7, 50, 1000] {
            for correct in 0..=samples {
                let (low, high) = interval(correct, samples);
                let share = correct as f64 / samples as f64;
                assert!((0.0..=share).contains(&low) && (share..=1.0).contains(&high));
            }
        }
        let width = |(low, high): (f64, f64)| high - low;
        assert!(width(interval(50, 100)) < width(interval(5, 10)));
    }
}
