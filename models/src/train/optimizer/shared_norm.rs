//! Σ g² of every parameter where the values of gradients lie in parts on several ranks, to the bits of one rank.
//!
//! One rank adds the squares of a tensor in rows of 2²⁰ values, each in eight lanes, and then the rows. A row that two ranks have
//! parts of is begun by the one and ended by the other, to which the lanes are sent:
//!
//! ```text
//! tensor   ├────────── row 0 ─────────┼────────── row 1 ─────────┼─ row 2 ─┤
//!          └──── rank 0 ────┘└────────── rank 1 ─────────┘└───── rank 2 ───┘
//!                       lanes ──►                    lanes ──►
//! ```
//!
//! A rank that has a whole row or more sends its lanes on before it waits for others. The sums of all rows, one number for 4 MiB
//! of gradients, then go to every rank.

use std::ops::Range;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::host::{self, LANES, SUMMED, Squares};
use super::partition::Partition;
use crate::parallel::collectives::{decoded, join};
use crate::parallel::{Communicator, ParallelError, Tag};

const SO_FAR: Tag = Tag::new(24, "the sums of squares so far");
const ROWS: Tag = Tag::new(25, "the sums of all squares");

/// A part of a row of one parameter's gradient.
struct Stretch {
    parameter: usize,
    places: Range<usize>,
    /// Number of the parameter's values.
    count: usize,
}

impl Stretch {
    /// Whether the row begins on a rank before.
    fn continues(&self) -> bool {
        !self.places.start.is_multiple_of(SUMMED)
    }

    /// Whether the row ends on a rank behind.
    fn is_continued(&self) -> bool {
        !self.places.end.is_multiple_of(SUMMED) && self.places.end < self.count
    }
}

/// Σ g² over all values of every gradient, of which this rank has those of its own part. The sum of one is NaN or infinite
/// exactly if one of its values is.
///
/// # Errors
/// As [`Communicator::receive`]; [`ParallelError::Message`] when a rank has other gradients.
pub(in crate::train) fn square_sums(
    ranks: &dyn Communicator,
    partition: &Partition,
    own: &[Option<Tensor<1>>],
) -> Result<Vec<Option<f64>>, ParallelError> {
    let number = |index: usize| partition.count(index).div_ceil(SUMMED);
    let present = own.iter().enumerate().filter(|(_, gradient)| gradient.is_some());
    let expected = present.map(|(index, _)| number(index)).sum();
    let mine = bytemuck::cast_slice(&rows(ranks, partition, own)?).to_vec();
    let rows: Vec<f64> = decoded(&join(ranks, mine)?, expected, (ROWS, 0))?;
    let mut all = rows.iter();
    let sum = |(index, gradient): (usize, &Option<Tensor<1>>)| {
        let gradient = gradient.as_ref();
        gradient.map(|_| all.by_ref().take(number(index)).sum())
    };
    Ok(own.iter().enumerate().map(sum).collect())
}

/// The sums of the rows that end on this rank, in their order.
fn rows(
    ranks: &dyn Communicator,
    partition: &Partition,
    own: &[Option<Tensor<1>>],
) -> Result<Vec<f64>, ParallelError> {
    let places = partition.places(ranks.rank());
    let stretches = stretches(partition, &places, own);
    let continues = stretches.first().is_some_and(Stretch::continues);
    let is_continued = stretches.last().is_some_and(Stretch::is_continued);
    let add = |before: Squares, stretch: &Stretch| {
        let Some(gradient) = &own[stretch.parameter] else {
            return before;
        };
        let first = places[stretch.parameter].start;
        let here = stretch.places.start - first..stretch.places.end - first;
        host::look_at(gradient, |values| before.and(&values[here]))
    };
    // First what waits for nobody.
    let alone = stretches[usize::from(continues)..].par_iter();
    let mut sums: Vec<Squares> = alone.map(|stretch| add(Squares::default(), stretch)).collect();
    let is_known = !sums.is_empty();
    let send_on = |sums: &[Squares]| match sums.last() {
        Some(Squares(lanes)) if is_continued => {
            let next = neighbour(partition, ranks, true);
            ranks.send(next, SO_FAR, bytemuck::cast_slice(lanes).to_vec())
        }
        _ => Ok(()),
    };
    send_on(&sums)?;
    if continues {
        let before = neighbour(partition, ranks, false);
        let lanes: Vec<f64> = decoded(&ranks.receive(before, SO_FAR)?, LANES, (SO_FAR, before))?;
        let mut so_far = Squares::default();
        so_far.0.copy_from_slice(&lanes);
        sums.insert(0, add(so_far, &stretches[0]));
        if !is_known {
            send_on(&sums)?;
        }
    }
    if is_continued {
        sums.pop();
    }
    Ok(sums.into_iter().map(Squares::sum).collect())
}

/// Everything that a rank has of the gradients, row by row.
fn stretches(partition: &Partition, places: &[Range<usize>], own: &[Option<Tensor<1>>]) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    for (parameter, places) in places.iter().enumerate() {
        let (mut begin, end) = (places.start, places.end);
        while begin < end && own[parameter].is_some() {
            let next = end.min((begin / SUMMED + 1) * SUMMED);
            stretches.push(Stretch {
                parameter,
                places: begin..next,
                count: partition.count(parameter),
            });
            begin = next;
        }
    }
    stretches
}

/// The next rank that has values: the one behind this one, or before it.
fn neighbour(partition: &Partition, ranks: &dyn Communicator, behind: bool) -> usize {
    let has_values = |rank: &usize| !partition.parts().part(*rank).is_empty();
    let (rank, size) = (ranks.rank(), ranks.size());
    let found = match behind {
        true => (rank + 1..size).find(has_values),
        false => (0..rank).rev().find(has_values),
    };
    // A row that is not whole here goes on there.
    found.unwrap_or(rank)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use burn::tensor::Device;

    use super::*;
    use crate::parallel::Threads;
    use crate::train::optimizer::gradients;

    fn gradient(seed: usize, count: usize) -> Tensor<1> {
        let values: Vec<f32> = (0..count)
            .map(|index| ((index + seed) as f32 * 0.37).sin())
            .collect();
        Tensor::from_floats(values.as_slice(), &Device::flex())
    }

    /// The sums on every one of `size` ranks.
    fn shared(gradients: &[Option<Tensor<1>>], counts: &[usize], size: usize) -> Vec<Vec<Option<u64>>> {
        let partition = Partition::new(counts.iter().copied(), size);
        let results = Threads::run(size, Duration::from_secs(60), |ranks| {
            let places = partition.places(ranks.rank()).into_iter();
            let own = |(gradient, places): (&Option<Tensor<1>>, Range<usize>)| {
                let part = |gradient: &Tensor<1>| {
                    let part = host::look_at(gradient, |values| values[places].to_vec());
                    Tensor::from_floats(part.as_slice(), &Device::flex())
                };
                gradient.as_ref().map(part)
            };
            let own: Vec<_> = gradients.iter().zip(places).map(own).collect();
            square_sums(ranks, &partition, &own)
        });
        let of_rank = |result: Result<Vec<Option<f64>>, ParallelError>| bits(&result.expect("no rank fails"));
        results.into_iter().map(of_rank).collect()
    }

    fn bits(sums: &[Option<f64>]) -> Vec<Option<u64>> {
        sums.iter().map(|sum| sum.map(f64::to_bits)).collect()
    }

    #[test]
    fn the_norm_of_parts_has_the_bits_of_that_of_the_whole() {
        // Several rows and a part of one, tensors in which several ranks meet, and ranks without values.
        for counts in [
            vec![2 * SUMMED + 13, 5, SUMMED, 0, 999, 7],
            vec![3, 0, 40, 1],
            vec![1, 2],
            vec![0],
        ] {
            let mut gradients: Vec<_> = counts
                .iter()
                .enumerate()
                .map(|(index, count)| Some(gradient(1000 * index, *count)))
                .collect();
            for absent in [None, Some(1)] {
                if let Some(gradient) = absent.and_then(|absent| gradients.get_mut::<usize>(absent)) {
                    *gradient = None;
                }
                let expected = bits(&gradients::square_sums(&gradients));
                for size in [1, 2, 3, 5, 8] {
                    for found in shared(&gradients, &counts, size) {
                        assert_eq!(found, expected, "{counts:?} on {size} ranks");
                    }
                }
            }
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_found_on_every_rank() {
        let mut values = vec![1.0f32; 100];
        values[70] = f32::NAN;
        let gradients = [
            Some(gradient(0, 50)),
            Some(Tensor::from_floats(values.as_slice(), &Device::flex())),
        ];
        for found in shared(&gradients, &[50, 100], 3) {
            let finite = found
                .iter()
                .map(|sum| sum.is_some_and(|sum| f64::from_bits(sum).is_finite()));
            assert_eq!(finite.collect::<Vec<_>>(), [true, false]);
        }
    }
}
