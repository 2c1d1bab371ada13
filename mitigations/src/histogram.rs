//! How positive numbers are distributed, in little memory: counts in bins an eighth of an octave wide.
//!
//! Step sizes of one head spread over a few octaves, so a histogram is some tens of bins, whatever the number of tokens. A bin knows the
//! least and the largest of its numbers, between which they count as evenly spread: thresholds are off by less than the width of a
//! bin, at most an eighth of their size, and by less where numbers differ by less than that.

use serde::{Deserialize, Serialize};

/// Bits of an f32 below those that number its bin: its exponent and the first three bits of its mantissa.
const BIN_BITS: u32 = 20;

/// Numbers that differ by less than this share of their size may be one number with other rounding.
const ALIKE: f64 = 1e-5;

/// A histogram of positive numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Number of the first bin.
    first: u32,
    bins: Vec<Bin>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Bin {
    count: u64,
    sum: f64,
    /// Meaningless without a count, as is `largest`.
    least: f32,
    largest: f32,
}

impl Bin {
    fn add(&mut self, number: f32) {
        let (least, largest) = match self.count {
            0 => (number, number),
            _ => (self.least.min(number), self.largest.max(number)),
        };
        *self = Self {
            count: self.count + 1,
            sum: self.sum + f64::from(number),
            least,
            largest,
        };
    }

    /// A number that `share` of these numbers reach, rounded up to whole ones; half way to the next number, `below` where that is not
    /// among them. Numbers that are alike are kept as a whole.
    fn cut(&self, share: f64, below: Option<f32>) -> f32 {
        let count = self.count as f64;
        // Less a trifle, as 0.3 · 10 is more than 3.
        let kept = (share * count - 1e-9).ceil().max(1.0);
        let (low, high) = (f64::from(self.least), f64::from(self.largest));
        let are_alike = high - low <= ALIKE * high;
        match below {
            _ if kept < count && !are_alike => (high - (kept - 0.5) * (high - low) / (count - 1.0)) as f32,
            Some(below) => (0.5 * (low + f64::from(below))) as f32,
            None => 0.0,
        }
    }
}

impl Histogram {
    /// Adds a number; what is not above 0 counts as the smallest number there is.
    pub fn add(&mut self, number: f32) {
        let number = if number > 0.0 {
            number.min(f32::MAX)
        } else {
            f32::MIN_POSITIVE
        };
        let place = number.to_bits() >> BIN_BITS;
        if self.bins.is_empty() {
            self.first = place;
        }
        if place < self.first {
            let missing = (self.first - place) as usize;
            self.bins
                .splice(0..0, std::iter::repeat_n(Bin::default(), missing));
            self.first = place;
        }
        let index = (place - self.first) as usize;
        if index >= self.bins.len() {
            self.bins.resize(index + 1, Bin::default());
        }
        self.bins[index].add(number);
    }

    /// How many numbers have been added.
    pub fn count(&self) -> u64 {
        self.bins.iter().map(|bin| bin.count).sum()
    }

    /// Sum of the values.
    pub fn sum(&self) -> f64 {
        self.bins.iter().map(|bin| bin.sum).sum()
    }

    /// The number that a share of all numbers reaches; 0 for all of them.
    pub fn reached_by(&self, share: f64) -> f32 {
        self.cut(share * self.count() as f64, |bin| bin.count as f64)
    }

    /// The number g for which Σ min(x, c) over the numbers x ≥ g is `share` of Σ min(x, c) over all; c is the number that
    /// `clamp` of all numbers exceed (0 for no clamp). 0 for the whole sum.
    pub fn reached_by_sum(&self, share: f64, clamp: f64) -> f32 {
        let limit = if clamp > 0.0 {
            f64::from(self.reached_by(clamp))
        } else {
            f64::INFINITY
        };
        // A bin is clamped as if all of it were its mean.
        let weight = |bin: &Bin| bin.sum.min(bin.count as f64 * limit);
        let whole: f64 = self.bins.iter().map(weight).sum();
        self.cut(share * whole, weight)
    }

    /// A number that only as many of the largest numbers reach as weigh `target` together, counted as evenly spread and of one weight
    /// inside a bin; 0 when all of them weigh less.
    ///
    /// It lies half way between two numbers, never on one: a number computed again in another order of sums, so with other rounding,
    /// is to come down on the same side.
    fn cut(&self, target: f64, weight: impl Fn(&Bin) -> f64) -> f32 {
        let mut missing = target;
        let mut bins = self.bins.iter().rev().filter(|bin| bin.count > 0).peekable();
        while let Some(bin) = bins.next() {
            let weight = weight(bin);
            if weight < missing {
                missing -= weight;
                continue;
            }
            let below = bins.peek().map(|bin| bin.largest);
            return bin.cut(missing / weight, below);
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    fn of(numbers: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        numbers.iter().for_each(|&number| histogram.add(number));
        histogram
    }

    #[test]
    fn numbers_that_are_nearly_alike_are_told_apart() {
        // Far less than a bin between the least and the largest.
        let numbers: Vec<f32> = (0..1000).map(|i| 0.5 + i as f32 * 1e-6).collect();
        let cut = of(&numbers).reached_by(0.25);
        let reached = numbers.iter().filter(|&&number| number >= cut).count();
        assert!((249..=252).contains(&reached), "{reached}");
    }

    #[test]
    fn what_is_alike_is_kept_as_a_whole() {
        assert_eq!(of(&[0.3; 10]).reached_by(0.5), 0.0);
        let again = 0.3f32.next_up();
        let cut = of(&[0.3, again, 0.1, again, 0.3]).reached_by(0.5);
        assert!((cut - 0.2).abs() < 1e-6, "{cut}");
    }

    #[test]
    fn a_cut_lies_half_way_between_numbers() {
        let numbers = [0.1, 0.2, 0.3, 0.31, 0.5];
        for (share, expected) in [(0.2, 0.405), (0.4, 0.305), (0.6, 0.25), (0.8, 0.15), (1.0, 0.0)] {
            let cut = of(&numbers).reached_by(share);
            assert!((cut - expected).abs() < 1e-6, "{share}: {cut}");
        }
    }

    #[test]
    fn a_share_of_the_numbers_reaches_the_cut() {
        let numbers: Vec<f32> = (1..=1000).map(|i| i as f32 / 1000.0).collect();
        let histogram = of(&numbers);
        assert_eq!(histogram.count(), 1000);
        for share in [0.05, 0.3, 0.5, 0.9] {
            let cut = f64::from(histogram.reached_by(share));
            assert!(
                (cut - (1.0 - share)).abs() < 0.02 * (1.0 - share),
                "{share}: {cut}"
            );
        }
        assert_eq!(histogram.reached_by(1.0), 0.0);
        assert_eq!(Histogram::default().reached_by(0.5), 0.0);
    }

    #[test]
    fn a_share_of_the_sum_reaches_the_cut() {
        // Of x uniform in (0, 1], those above g hold 1 − g² of the sum.
        let numbers: Vec<f32> = (1..=1000).rev().map(|i| i as f32 / 1000.0).collect();
        let histogram = of(&numbers);
        for share in [0.1f64, 0.5, 0.9] {
            let cut = f64::from(histogram.reached_by_sum(share, 0.0));
            let expected = (1.0 - share).sqrt();
            assert!((cut - expected).abs() < 0.02 * expected, "{share}: {cut}");
        }
        assert_eq!(histogram.reached_by_sum(1.0, 0.0), 0.0);
        // One huge number holds nearly everything until it is clamped.
        let mut skewed = of(&numbers);
        skewed.add(1e6);
        assert!(skewed.reached_by_sum(0.5, 0.0) > 1.0);
        assert!(skewed.reached_by_sum(0.5, 0.05) < 1.0);
    }

    #[test]
    fn zeros_are_the_smallest_numbers() {
        let histogram = of(&[0.0, 0.0, 0.0, 2.0]);
        assert_eq!(histogram.reached_by(0.25), 1.0);
        assert!(histogram.reached_by(0.5) < 1e-30);
    }
}
