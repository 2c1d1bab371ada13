//! Mean loss against position, kept as sums: memory does not grow with the number of tokens.

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

    /// How many numbers there are.
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

/// The three divisions of positions that losses are averaged over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// The training length as one bucket, then two buckets to a doubling.
    pub geometric: Buckets,
    /// Buckets of one width.
    pub fixed: Buckets,
    /// Equal parts of the training length.
    pub inside: Buckets,
}

impl Grid {
    /// The divisions for a training length and a length.
    pub fn new(train_length: u64, length: u64) -> Self {
        Self {
            geometric: Buckets::geometric(train_length, length),
            fixed: Buckets::fixed(train_length, length),
            inside: Buckets::inside(train_length),
        }
    }

    /// The training length, and the last training length of each of the lengths `factors` · T, in the place of the geometric
    /// buckets.
    pub fn windows(train_length: u64, factors: &[u64]) -> Self {
        let length = train_length * factors.iter().copied().max().unwrap_or(1);
        Self {
            geometric: Buckets::windows(train_length, factors),
            ..Self::new(train_length, length)
        }
    }
}

/// Loss tallies of one stream, or of several together, over a [`Grid`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossTally {
    /// Over [`Grid::geometric`].
    pub geometric: Vec<Tally>,
    /// Over [`Grid::fixed`].
    pub fixed: Vec<Tally>,
    /// Over [`Grid::inside`].
    pub inside: Vec<Tally>,
}

impl LossTally {
    /// No losses yet.
    pub fn new(grid: &Grid) -> Self {
        Self {
            geometric: vec![Tally::default(); grid.geometric.len()],
            fixed: vec![Tally::default(); grid.fixed.len()],
            inside: vec![Tally::default(); grid.inside.len()],
        }
    }

    /// Whether this has the buckets of `other`.
    pub fn fits(&self, other: &Self) -> bool {
        let lengths = |tally: &Self| [tally.geometric.len(), tally.fixed.len(), tally.inside.len()];
        lengths(self) == lengths(other)
    }

    /// Takes the losses of consecutive positions in, the first at `position`.
    pub fn add(&mut self, grid: &Grid, position: u64, losses: &[f32]) {
        let divisions = [
            (&grid.geometric, &mut self.geometric),
            (&grid.fixed, &mut self.fixed),
            (&grid.inside, &mut self.inside),
        ];
        for (buckets, tallies) in divisions {
            for (offset, &loss) in losses.iter().enumerate() {
                if let Some(bucket) = buckets.find(position + offset as u64) {
                    tallies[bucket].add(f64::from(loss));
                }
            }
        }
    }

    /// Takes another stream's losses in.
    pub fn merge(&mut self, other: &Self) {
        let divisions = [
            (&mut self.geometric, &other.geometric),
            (&mut self.fixed, &other.fixed),
            (&mut self.inside, &other.inside),
        ];
        for (mine, theirs) in divisions {
            mine.iter_mut()
                .zip(theirs)
                .for_each(|(mine, theirs)| mine.merge(theirs));
        }
    }
}

/// Mean loss over one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BucketLoss {
    /// First position.
    pub start: u64,
    /// Position after the last.
    pub end: u64,
    /// Mean loss in nats per token.
    pub mean: f64,
    /// exp(mean).
    pub perplexity: f64,
    /// Standard error of the mean, tokens taken as independent; absent for a single token.
    pub standard_error: Option<f64>,
    /// Tokens averaged over.
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
    fn losses_land_in_the_bucket_of_their_position_whatever_the_segments() {
        let grid = Grid::new(8, 100);
        let losses: Vec<f32> = (0..100_u8).map(|position| f32::from(position) * 0.1).collect();
        let mut whole = LossTally::new(&grid);
        whole.add(&grid, 0, &losses);
        let mut parts = LossTally::new(&grid);
        for (index, part) in losses.chunks(7).enumerate() {
            parts.add(&grid, 7 * index as u64, part);
        }
        assert_eq!(whole, parts);
        for bucket in curve(&grid.geometric, &whole.geometric) {
            let inside = &losses[bucket.start as usize..bucket.end as usize];
            let mean = inside.iter().map(|&loss| f64::from(loss)).sum::<f64>() / inside.len() as f64;
            assert!((bucket.mean - mean).abs() < 1e-9, "{bucket:?} {mean}");
        }
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
