//! Which values each of several ranks has the moments of, and the values of many tensors as one row.
//!
//! The values of all parameters, in the order of the list, are one row, which is cut into a part for each rank. Slices are dealt
//! out, not whole tensors: AdamW treats every value by itself, so a cut may be anywhere, and no rank has more than its share
//! however large the largest tensor is. Of whole tensors one rank would have to take all of the embedding, which is more than
//! half of many a small model.
//!
//! With n values and R ranks no part is longer than ⌈n / R⌉ + 7: cuts lie at multiples of eight values of a tensor, so that
//! [squares](super::shared_norm) are added in the same rows as on one rank.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use super::host::{self, LANES};
use crate::parallel::collectives::share;
use crate::parallel::reduction::{Numbers, Parts};
use crate::train::Parameter;

/// The values of a list of parameters, in parts.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Where in the row each parameter begins, and the number of values of all.
    begins: Vec<usize>,
    parts: Parts,
}

impl Partition {
    /// Parts for `ranks` ranks of parameters with so many values.
    pub fn new(counts: impl IntoIterator<Item = usize>, ranks: usize) -> Self {
        let mut begins = vec![0];
        let mut all = 0;
        for count in counts {
            all += count;
            begins.push(all);
        }
        let end = |rank| {
            let end = share(all, rank, ranks).end;
            // The last one that is not behind it; the first one is at 0.
            let begin = begins[begins.partition_point(|begin| *begin <= end) - 1];
            end - (end - begin) % LANES
        };
        let parts = Parts::ending_at((0..ranks).map(end));
        Self { begins, parts }
    }

    /// The same parts, which go out in pieces of so many values.
    #[must_use]
    pub fn in_pieces_of(self, piece: usize) -> Self {
        let parts = self.parts.in_pieces_of(piece);
        Self { parts, ..self }
    }

    /// The parts as places in the row of all values.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Which values of each parameter are rank `rank`'s; of most parameters all or none.
    pub fn places(&self, rank: usize) -> Vec<Range<usize>> {
        let part = self.parts.part(rank);
        let within = |bounds: &[usize]| {
            let place = |place: usize| place.clamp(bounds[0], bounds[1]) - bounds[0];
            place(part.start)..place(part.end)
        };
        self.begins.windows(2).map(within).collect()
    }

    /// Number of values of parameter `index`.
    pub fn count(&self, index: usize) -> usize {
        self.begins[index + 1] - self.begins[index]
    }

    /// The pieces of parameters that lie at these places of the row, each with its parameter.
    pub fn pieces(&self, places: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let first = self.begins.partition_point(|begin| *begin <= places.start) - 1;
        let bounds = self.begins[first..].windows(2).enumerate();
        bounds
            .take_while({
                let end = places.end;
                move |(_, bounds)| bounds[0] < end
            })
            .map(move |(after, bounds)| {
                let place = |place: usize| place.clamp(bounds[0], bounds[1]) - bounds[0];
                (first + after, place(places.start)..place(places.end))
            })
            .filter(|(_, piece)| !piece.is_empty())
    }
}

/// The weights of all parameters as one row.
pub(in crate::train) struct Weights<'a> {
    pub(in crate::train) partition: &'a Partition,
    pub(in crate::train) parameters: &'a mut [Parameter],
}

impl Numbers for Weights<'_> {
    fn read(&self, places: Range<usize>) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(places.len());
        for (index, piece) in self.partition.pieces(places) {
            append(&mut numbers, &self.parameters[index].value, piece);
        }
        numbers
    }

    fn write(&mut self, places: Range<usize>, mut numbers: &[f32]) {
        for (index, piece) in self.partition.pieces(places) {
            let (these, rest) = numbers.split_at(piece.len());
            let value = &mut self.parameters[index].value;
            let old = std::mem::replace(value, Tensor::zeros([0], &Device::flex()));
            *value = replaced(old, piece, these);
            numbers = rest;
        }
    }
}

/// The gradients of all parameters as one row; a parameter without a gradient has zeros there. What is written, which is of this
/// rank's own part, is kept apart.
pub(in crate::train) struct Gradients<'a> {
    partition: &'a Partition,
    all: &'a [Option<Tensor<1>>],
    own: Vec<Vec<f32>>,
}

impl<'a> Gradients<'a> {
    /// These gradients, and as yet none of rank `rank`'s own.
    pub(in crate::train) fn new(partition: &'a Partition, rank: usize, all: &'a [Option<Tensor<1>>]) -> Self {
        let places = partition.places(rank).into_iter();
        Self {
            partition,
            all,
            own: places.map(|places| Vec::with_capacity(places.len())).collect(),
        }
    }

    /// What has been written, in this machine's memory, of every parameter that has a gradient.
    pub(in crate::train) fn into_own(self) -> Vec<Option<Tensor<1>>> {
        let own = |(whole, own): (&Option<Tensor<1>>, Vec<f32>)| {
            let count = own.len();
            let tensor = || Tensor::from_data(TensorData::new(own, [count]), &Device::flex());
            whole.as_ref().map(|_| tensor())
        };
        self.all.iter().zip(self.own).map(own).collect()
    }
}

impl Numbers for Gradients<'_> {
    fn read(&self, places: Range<usize>) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(places.len());
        for (index, piece) in self.partition.pieces(places) {
            match &self.all[index] {
                Some(gradient) => append(&mut numbers, gradient, piece),
                None => numbers.resize(numbers.len() + piece.len(), 0.0),
            }
        }
        numbers
    }

    fn write(&mut self, places: Range<usize>, mut numbers: &[f32]) {
        for (index, piece) in self.partition.pieces(places) {
            let (these, rest) = numbers.split_at(piece.len());
            self.own[index].extend_from_slice(these);
            numbers = rest;
        }
    }
}

/// Appends some values of a tensor.
fn append(numbers: &mut Vec<f32>, tensor: &Tensor<1>, places: Range<usize>) {
    match host::is_host(tensor) {
        true => host::look_at(tensor, |values| numbers.extend_from_slice(&values[places])),
        false => {
            let piece = tensor.clone().narrow(0, places.start, places.len());
            numbers.extend(piece.into_data().iter::<f32>());
        }
    }
}

/// The tensor with other values at these places.
fn replaced(tensor: Tensor<1>, places: Range<usize>, values: &[f32]) -> Tensor<1> {
    match host::is_host(&tensor) {
        true => host::replaced(tensor, places.start, values),
        false => {
            let data = TensorData::new(values.to_vec(), [values.len()]);
            let values = Tensor::from_data(data, &tensor.device());
            tensor.slice_assign([places], values)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_is_in_one_part_and_no_part_is_longer_than_its_share(
            counts in prop::collection::vec(prop_oneof![0usize..9, 0usize..5000], 0..12),
            ranks in 1usize..9,
        ) {
            let partition = Partition::new(counts.iter().copied(), ranks);
            let all: usize = counts.iter().sum();
            let mut owners: Vec<Vec<usize>> = counts.iter().map(|count| vec![0; *count]).collect();
            for rank in 0..ranks {
                let places = partition.places(rank);
                prop_assert_eq!(places.len(), counts.len());
                let held: usize = places.iter().map(Range::len).sum();
                prop_assert!(held < all.div_ceil(ranks) + LANES, "{} of {}", held, all);
                for (owners, places) in owners.iter_mut().zip(places) {
                    prop_assert!(places.is_empty() || places.start.is_multiple_of(LANES));
                    owners[places].iter_mut().for_each(|owner| *owner += 1);
                }
                let pieces: Vec<_> = partition.pieces(partition.parts().part(rank)).collect();
                let places = partition.places(rank).into_iter().enumerate();
                let expected: Vec<_> = places.filter(|(_, places)| !places.is_empty()).collect();
                prop_assert_eq!(pieces, expected);
            }
            prop_assert!(owners.iter().flatten().all(|owner| *owner == 1));
        }
    }

    #[test]
    fn a_row_is_read_and_written_across_tensors() {
        let device = Device::flex();
        let parameter = |name: &str, values: &[f32]| Parameter {
            name: name.into(),
            shape: vec![values.len()],
            value: Tensor::from_floats(values, &device),
            twin: None,
        };
        let mut parameters = [
            parameter("a", &[1.0, 2.0]),
            parameter("b", &[]),
            parameter("c", &[3.0]),
            parameter("d", &[4.0, 5.0, 6.0]),
        ];
        let partition = Partition::new([2, 0, 1, 3], 2);
        let held = parameters[3].value.clone();
        let mut row = Weights {
            partition: &partition,
            parameters: &mut parameters,
        };
        assert_eq!(row.read(1..5), [2.0, 3.0, 4.0, 5.0]);
        row.write(1..5, &[7.0, 8.0, 9.0, 10.0]);
        assert_eq!(row.read(0..6), [1.0, 7.0, 8.0, 9.0, 10.0, 6.0]);
        assert!(row.read(6..6).is_empty());
        let held: Vec<f32> = held.to_data().iter::<f32>().collect();
        assert_eq!(held, [4.0, 5.0, 6.0], "what others hold has changed");
    }
}
