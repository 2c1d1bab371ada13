//! Where an axis has ticks and what they say: round values inside its range whose labels differ.

use super::format::{grouped, minus, position};

/// A value on an axis, and its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Value on the axis at which the tick stands.
    pub at: f64,
    /// What is written beside it.
    pub label: String,
}

/// Larger values, and positive ones below its reciprocal, have no place on an axis: its ends would leave the range of f64.
pub const LARGEST: f64 = 1e150;
/// How far values may lie apart, as a share of the largest, and still be drawn as one.
const SAME: f64 = 1e-9;
/// Fewer ticks than this on a logarithmic axis give way to those of a linear one.
const FEW: usize = 3;

/// The smallest and the largest of what is finite, up to [`LARGEST`]; `None` if nothing is.
pub fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|value| value.abs() <= LARGEST);
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    (low <= high).then_some((low, high))
}

/// A range that an axis can have: with a margin, and of some width for values that are all the same. Without values, 0 to 1.
pub fn widened(values: Option<(f64, f64)>, margin: f64) -> (f64, f64) {
    let Some((low, high)) = values else {
        return (0.0, 1.0);
    };
    let size = low.abs().max(high.abs());
    let middle = low / 2.0 + high / 2.0;
    match high - low {
        // Zeros lie on the floor of an axis that begins there.
        _ if size < f64::MIN_POSITIVE / SAME => (0.0, 1.0),
        width if width <= SAME * size => (middle - 0.1 * size, middle + 0.1 * size),
        width => (low - margin * width, high + margin * width),
    }
}

/// As [`widened`], for positive values on a logarithmic axis: the margin is a share of the range's logarithm.
pub fn widened_logarithmic(values: Option<(f64, f64)>, margin: f64) -> (f64, f64) {
    match values {
        Some((low, high)) if low > 0.0 && (high / low).ln() > SAME => {
            let margin = margin * (high / low).ln();
            (low * (-margin).exp(), high * margin.exp())
        }
        Some((low, high)) if low > 0.0 => (low / 1.5, high * 1.5),
        _ => (1.0, 2.0),
    }
}

/// Ticks from `low` to `high`: at most `most` (5 or more) multiples of 1, 2 or 5 times a power of ten.
pub fn linear(low: f64, high: f64, most: usize) -> Vec<Tick> {
    stepped(low, high, most, f64::MIN_POSITIVE)
}

/// As [`linear`], for things that are counted: whole numbers only.
pub fn whole(low: f64, high: f64, most: usize) -> Vec<Tick> {
    stepped(low, high, most, 1.0)
}

fn stepped(low: f64, high: f64, most: usize, least: f64) -> Vec<Tick> {
    let steps = (-1..).flat_map(|power| [1.0, 2.0, 5.0].map(|step| (step, power)));
    let scale = ((high - low) / most as f64).log10().floor() as i32;
    for (mantissa, power) in steps {
        let exponent = scale + power;
        let step = mantissa * 10f64.powi(exponent);
        let (first, last) = ((low / step).ceil(), (high / step).floor());
        if step >= least && last - first < most as f64 {
            let multiples = (0..=(last - first) as i64).map(|index| first + index as f64);
            // Division by a power of ten is exact where multiplication by a negative one is not: 3 / 10 is 0.3.
            let at = |multiple: f64| match exponent {
                ..0 => multiple * mantissa / 10f64.powi(-exponent),
                _ => multiple * step,
            };
            return labelled(multiples.map(at).collect(), exponent);
        }
    }
    Vec::new()
}

/// Labels with the decimals that the step between the values, of the size 10^`exponent`, asks for.
fn labelled(values: Vec<f64>, exponent: i32) -> Vec<Tick> {
    let largest = values
        .iter()
        .fold(0.0f64, |largest, value| largest.max(value.abs()));
    let decimals = (-exponent).max(0) as usize;
    let plain = decimals <= 5 && largest < 1e7;
    let power = if largest > 0.0 {
        largest.log10().floor() as i32
    } else {
        0
    };
    let label = |value: f64| match () {
        () if value == 0.0 => "0".into(),
        () if plain => grouped(value, decimals),
        () => {
            let decimals = (power - exponent).max(0) as usize;
            minus(format!("{:.decimals$}e{power}", value / 10f64.powi(power)))
        }
    };
    let tick = |at: f64| Tick { at, label: label(at) };
    values.into_iter().map(tick).collect()
}

/// Powers of two with labels as lengths have them, or round values where the range holds too few of them.
pub fn binary(low: f64, high: f64, most: usize) -> Vec<Tick> {
    let (first, last) = (low.log2().ceil() as i32, high.log2().floor() as i32);
    let powers: Vec<i32> = (first..=last).collect();
    if powers.len() < FEW {
        return between(low, high, most);
    }
    let stride = powers.len().div_ceil(most);
    let tick = |power: i32| Tick {
        at: f64::from(power).exp2(),
        label: position(f64::from(power).exp2()),
    };
    powers.into_iter().step_by(stride).map(tick).collect()
}

/// 1, 2 and 5 times powers of ten, powers of ten alone where these are too many, or round values where they are too few.
pub fn decimal(low: f64, high: f64, most: usize) -> Vec<Tick> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let inside = |mantissas: &[f64]| -> Vec<Tick> {
        let all = (first..=last).flat_map(|power| mantissas.iter().map(move |mantissa| (*mantissa, power)));
        let tick = |(mantissa, power): (f64, i32)| Tick {
            at: mantissa * 10f64.powi(power),
            label: match power {
                -5..0 => format!("{:.*}", -power as usize, mantissa * 10f64.powi(power)),
                0..7 => grouped(mantissa * 10f64.powi(power), 0),
                _ => format!("{mantissa}e{power}"),
            },
        };
        let ticks = all.map(tick);
        ticks.filter(|tick| (low..=high).contains(&tick.at)).collect()
    };
    let fine = inside(&[1.0, 2.0, 5.0]);
    if fine.len() < FEW {
        return between(low, high, most);
    }
    if fine.len() <= most {
        return fine;
    }
    let coarse = inside(&[1.0]);
    let stride = coarse.len().div_ceil(most).max(1);
    coarse.into_iter().step_by(stride).collect()
}

/// Linear ticks on a logarithmic axis, without those that crowd towards its end.
fn between(low: f64, high: f64, most: usize) -> Vec<Tick> {
    let apart = (high / low).ln() / (1.5 * most as f64);
    let mut kept: Vec<Tick> = Vec::new();
    for tick in linear(low, high, most).into_iter().filter(|tick| tick.at > 0.0) {
        if kept.last().is_none_or(|last| (tick.at / last.at).ln() >= apart) {
            kept.push(tick);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    fn check(ticks: &[Tick], (low, high): (f64, f64), most: usize) -> Result<(), TestCaseError> {
        prop_assert!((2..=most).contains(&ticks.len()), "{ticks:?} of {low} to {high}");
        for pair in ticks.windows(2) {
            prop_assert!(
                pair[0].at < pair[1].at && pair[0].label != pair[1].label,
                "{pair:?}"
            );
        }
        let slack = 1e-9 * (high - low);
        for tick in ticks {
            prop_assert!(
                tick.at >= low - slack && tick.at <= high + slack,
                "{tick:?} of {low} to {high}"
            );
            let number = tick.label.replace(',', "").replace('\u{2212}', "-");
            let read: f64 = match number.strip_suffix(['K', 'M', 'G']) {
                Some(_) => continue,
                None => number.parse().expect("a label is a number"),
            };
            prop_assert!(
                (read - tick.at).abs() <= 1e-6 * (high - low),
                "{tick:?} of {low} to {high}"
            );
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn ticks_differ_lie_in_range_and_say_where_they_are(
            middle in -1e6..1e6f64, scale in -8i32..12, relative in 1e-6..4.0f64, most in 5usize..12,
        ) {
            let middle = middle * 10f64.powi(scale - 6);
            let width = relative * middle.abs().max(1e-12);
            let range = (middle - width, middle + width);
            check(&linear(range.0, range.1, most), range, most)?;
        }

        #[test]
        fn ticks_of_logarithmic_axes_differ_and_lie_in_range(
            low in -12.0..12.0f64, octaves in 0.01..40.0f64, most in 5usize..12,
        ) {
            let range = (low.exp2(), (low + octaves).exp2());
            check(&decimal(range.0, range.1, most), range, most)?;
            // Lengths from 1 on; those beyond 2⁵⁰ are written with four digits.
            let lengths = (range.0 * 4096.0, (range.1 * 4096.0).min(49f64.exp2()));
            check(&binary(lengths.0, lengths.1, most), lengths, most)?;
        }

        #[test]
        fn any_values_give_an_axis_with_ticks(values in prop::collection::vec(prop::num::f64::ANY, 0..4)) {
            let range = widened(extent(values.iter().copied()), 0.06);
            prop_assert!(range.0 < range.1 && linear(range.0, range.1, 6).len() >= 2, "{range:?}");
            let positive = values.iter().copied().filter(|value| *value > 1.0 / LARGEST);
            let range = widened_logarithmic(extent(positive), 0.06);
            prop_assert!(range.0 < range.1 && decimal(range.0, range.1, 6).len() >= 2, "{range:?}");
        }
    }

    #[test]
    fn labels_have_the_digits_that_tell_them_apart() {
        assert_eq!(
            labels(&linear(10.85, 11.15, 8)),
            ["10.85", "10.90", "10.95", "11.00", "11.05", "11.10", "11.15"]
        );
        assert_eq!(labels(&linear(0.0, 1.0, 5)), ["0", "0.5", "1.0"]);
        assert_eq!(
            labels(&linear(0.0, 0.002, 5)),
            ["0", "0.0005", "0.0010", "0.0015", "0.0020"]
        );
        assert_eq!(
            labels(&linear(-30_000.0, 30_000.0, 5)),
            ["\u{2212}20,000", "0", "20,000"]
        );
        assert_eq!(
            labels(&linear(0.0, 4e-7, 5)),
            ["0", "1e-7", "2e-7", "3e-7", "4e-7"]
        );
        assert_eq!(labels(&whole(0.0, 2.0, 8)), ["0", "1", "2"]);
        assert_eq!(
            labels(&binary(64.0, 4096.0, 10)),
            ["64", "128", "256", "512", "1K", "2K", "4K"]
        );
        assert_eq!(
            labels(&decimal(0.2, 40.0, 8)),
            ["0.2", "0.5", "1", "2", "5", "10", "20"]
        );
    }

    #[test]
    fn zeros_constants_and_nothing_have_an_axis() {
        assert_eq!(widened(Some((0.0, 0.0)), 0.1), (0.0, 1.0));
        assert_eq!(widened(Some((-5.0, -5.0)), 0.1), (-5.5, -4.5));
        assert_eq!(
            widened(extent([f64::NAN, f64::INFINITY].into_iter()), 0.1),
            (0.0, 1.0)
        );
        assert_eq!(widened_logarithmic(Some((3.0, 3.0)), 0.1), (2.0, 4.5));
    }
}
