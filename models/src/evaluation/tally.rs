//! Means kept as sums, so that memory does not grow with the number of losses.

use super::not_finite_is_null;
use super::positions::Buckets;
use serde::{Deserialize, Serialize};

/// Count, sum and sum of squares of numbers, exactly as added: saving and loading loses no bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    count: u64,
    #[serde(with = "bits")]
    sum: f64,
    #[serde(with = "bits")]
    sum_of_squares: f64,
}

impl Tally {
    /// Takes one number in.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.sum_of_squares += value * value;
    }

    /// Takes many numbers in, in eight sums side by side: one after another they would wait for each other.
    pub fn add_all(&mut self, values: &[f32]) {
        let (mut sums, mut squares) = ([0.0_f64; 8], [0.0_f64; 8]);
        let (eights, rest) = values.as_chunks::<8>();
        for eight in eights {
            for lane in 0..8 {
                let value = f64::from(eight[lane]);
                sums[lane] += value;
                squares[lane] += value * value;
            }
        }
        rest.iter().for_each(|&value| self.add(f64::from(value)));
        self.count += (values.len() - rest.len()) as u64;
        self.sum += sums.iter().sum::<f64>();
        self.sum_of_squares += squares.iter().sum::<f64>();
    }

    /// Takes another tally's numbers in.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
    }

    /// Count, sum and sum of squares; the count is exact below 2⁵³.
    pub fn to_array(self) -> [f64; 3] {
        [self.count as f64, self.sum, self.sum_of_squares]
    }

    /// The inverse of [`Self::to_array`].
    pub fn from_array([count, sum, sum_of_squares]: [f64; 3]) -> Self {
        Self {
            count: count as u64,
            sum,
            sum_of_squares,
        }
    }

    /// Count n of the numbers that were added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Σx / n; `None` without numbers.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// √(Σx² / n); `None` without numbers.
    pub fn root_mean_square(&self) -> Option<f64> {
        (self.count > 0).then(|| (self.sum_of_squares / self.count as f64).sqrt())
    }

    /// Unbiased variance (Σx² − n·mean²) / (n − 1); `None` below two numbers.
    pub fn variance(&self) -> Option<f64> {
        let mean = self.mean().filter(|_| self.count > 1)?;
        let n = self.count as f64;
        Some(((self.sum_of_squares - n * mean * mean) / (n - 1.0)).max(0.0))
    }

    /// √(variance / n), as if the numbers were independent.
    pub fn standard_error(&self) -> Option<f64> {
        Some((self.variance()? / self.count as f64).sqrt())
    }
}

/// Floats as their 64 bits: JSON's decimal numbers know neither NaN nor infinity.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.to_bits())
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

/// Mean loss over one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BucketLoss {
    /// First position of the bucket.
    pub start: u64,
    /// Position after the last.
    pub end: u64,
    /// Mean loss in nats per token.
    #[serde(deserialize_with = "not_finite_is_null")]
    pub mean: f64,
    /// Perplexity over the bucket, exp(mean).
    #[serde(deserialize_with = "not_finite_is_null")]
    pub perplexity: f64,
    /// Standard error of the mean, tokens taken as independent; absent for a single token.
    pub standard_error: Option<f64>,
    /// Number of tokens that the loss is averaged over.
    pub tokens: u64,
}

/// The buckets that hold tokens, with their means.
pub fn curve(buckets: &Buckets, tallies: &[Tally]) -> Vec<BucketLoss> {
    let filled = |((start, end), tally): ((u64, u64), &Tally)| {
        let mean = tally.mean()?;
        let (perplexity, standard_error) = (mean.exp(), tally.standard_error());
        Some(BucketLoss {
            start,
            end,
            mean,
            perplexity,
            standard_error,
            tokens: tally.count(),
        })
    };
    buckets.ranges().zip(tallies).filter_map(filled).collect()
}

/// Mean loss over several buckets, every token counted once.
pub fn mean_over<'a>(buckets: impl IntoIterator<Item = &'a BucketLoss>) -> Option<f64> {
    let (sum, tokens) = buckets.into_iter().fold((0.0, 0.0), |(sum, tokens), bucket| {
        (
            sum + bucket.mean * bucket.tokens as f64,
            tokens + bucket.tokens as f64,
        )
    });
    (tokens > 0.0).then(|| sum / tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_agree_with_the_definition_of_mean_and_variance() {
        let values = [1.5, -2.0, 0.25, 7.0, 3.0];
        let mut tally = Tally::default();
        values.iter().for_each(|&value| tally.add(value));
        let mean = values.iter().sum::<f64>() / 5.0;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 4.0;
        assert!((tally.mean().expect("numbers") - mean).abs() < 1e-12);
        assert!((tally.variance().expect("numbers") - variance).abs() < 1e-12);
        assert_eq!(Tally::default().mean(), None);

        let many: Vec<f32> = (0..37_u8).map(|i| f32::from(i) * 0.5 - 3.0).collect();
        let (mut one_by_one, mut at_once) = (Tally::default(), Tally::default());
        many.iter().for_each(|&value| one_by_one.add(f64::from(value)));
        at_once.add_all(&many);
        assert_eq!(one_by_one, at_once, "sums of halves are exact");
    }

    #[test]
    fn saving_loses_no_bit_even_of_infinite_sums() {
        let mut tally = Tally::default();
        for value in [0.1, 1.0 / 3.0, f64::INFINITY] {
            tally.add(value);
        }
        let text = serde_json::to_string(&tally).expect("serialised");
        let back: Tally = serde_json::from_str(&text).expect("read");
        assert_eq!(tally.sum.to_bits(), back.sum.to_bits());
        assert_eq!(tally.sum_of_squares.to_bits(), back.sum_of_squares.to_bits());
    }
}
