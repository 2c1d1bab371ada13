//! Mean loss against position, kept as sums: memory does not grow with the number of tokens.

use serde::{Deserialize, Serialize};

use crate::evaluation::positions::Buckets;
use crate::evaluation::tally::Tally;

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
    /// Losses in each bucket of [`Grid::geometric`].
    pub geometric: Vec<Tally>,
    /// Losses in each bucket of [`Grid::fixed`].
    pub fixed: Vec<Tally>,
    /// Losses in each bucket of [`Grid::inside`].
    pub inside: Vec<Tally>,
}

impl LossTally {
    /// Tallies over the buckets of `grid` with no losses in them yet.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::tally::curve;

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
}
