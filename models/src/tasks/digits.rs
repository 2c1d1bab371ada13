//! Images of digits, pixel by pixel.

use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::images::{ImageSource, Images};
use super::{
    Answer, Answers, Example, Input, Item, Sequence, Shape, Split, Task, TaskError, When, expect_this_length,
};

/// What is taken off a pixel from 0 to 1: about the mean of the shipped digits.
const MEAN: f32 = 0.3;
/// What the rest is divided by: about their standard deviation.
const DEVIATION: f32 = 0.38;

/// Which digit an image shows, from its pixels one after another: (x − 0.3) / 0.38 for pixels x from 0 to 1.
///
/// Which images are held out, and a random order, depend on `shuffle` and not on the training's seed, so that trainings with different
/// seeds are asked the same. Sources: Le, Jaitly and Hinton, *A Simple Way to Initialize Recurrent Networks of Rectified Linear Units*
/// (1504.00941), for images as sequences and for permuted ones.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Digits {
    /// Where the images come from.
    #[serde(default)]
    pub source: ImageSource,
    /// Pixels in a row, each the mean of a square of the source's. Default: those of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<usize>,
    /// In which order pixels come.
    #[serde(default)]
    pub order: PixelOrder,
    /// Share of the images that is held out.
    #[serde(default = "held_out")]
    pub held_out: f64,
    /// Seed of what is held out, and of a random order.
    #[serde(default)]
    pub shuffle: u64,
}

/// In which order pixels come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PixelOrder {
    /// Row by row, as the pixels stand in the image.
    #[default]
    Rows,
    /// In a random order, the same for all images.
    Random,
    /// In bit-reversed order: by the numbers below the next power of two with their binary digits read backwards, those that are no
    /// place left out. What is called permuted MNIST in the code of S4 is this.
    BitReversed,
}

pub(super) fn held_out() -> f64 {
    0.2
}

impl Default for Digits {
    fn default() -> Self {
        Self {
            source: ImageSource::default(),
            side: None,
            order: PixelOrder::default(),
            held_out: held_out(),
            shuffle: 0,
        }
    }
}

/// Images in the order in which their pixels are read.
#[derive(Clone, Debug)]
pub struct PixelSequences {
    images: Images,
    order: Vec<usize>,
    training: Vec<usize>,
    held_out: Vec<usize>,
}

impl Digits {
    /// Reads the images; relative paths start from `base`.
    ///
    /// # Errors
    /// As [`ImageSource::read`]; [`TaskError::Option`] for a share that leaves one part without images, and for a side that does not divide
    /// that of the source.
    pub fn open(&self, base: &Path) -> Result<PixelSequences, TaskError> {
        let images = self.source.read(base)?;
        let images = match self.side {
            None => images,
            Some(side) => images.reduced(side).ok_or_else(|| {
                let expected = format!("a divisor of {}, the pixels in a row of an image", images.side);
                TaskError::option("side", expected, side)
            })?,
        };
        let mut rng = StdRng::seed_from_u64(self.shuffle);
        let (training, held_out) = split(images.count(), self.held_out, &mut rng)?;
        Ok(PixelSequences {
            order: self.order.of(images.side * images.side, &mut rng),
            images,
            training,
            held_out,
        })
    }
}

/// The numbers below `count` in random order, cut in two.
pub(super) fn split(
    count: usize,
    share: f64,
    rng: &mut StdRng,
) -> Result<(Vec<usize>, Vec<usize>), TaskError> {
    let mut all: Vec<usize> = (0..count).collect();
    all.shuffle(rng);
    let held_out = (count as f64 * share).round();
    if !(held_out >= 1.0 && held_out < count as f64) {
        let expected = format!("a share that leaves at least 1 of {count} examples on either side");
        return Err(TaskError::option("held_out", expected, share));
    }
    let held_out = all.split_off(count - held_out as usize);
    Ok((all, held_out))
}

impl PixelOrder {
    /// The places of `count` pixels in the order in which they are read.
    fn of(self, count: usize, rng: &mut StdRng) -> Vec<usize> {
        let mut places: Vec<usize> = (0..count).collect();
        match self {
            Self::Rows => {}
            Self::Random => places.shuffle(rng),
            Self::BitReversed => {
                let size = count.next_power_of_two();
                let unused = usize::BITS - size.trailing_zeros();
                let reversed = |place: usize| place.reverse_bits().checked_shr(unused).unwrap_or(0);
                places = (0..size).map(reversed).filter(|place| *place < count).collect();
            }
        }
        places
    }
}

impl PixelSequences {
    /// Pixels of an image.
    pub(super) fn pixels(&self) -> usize {
        self.order.len()
    }

    /// The pixels of an image, and its class.
    pub(super) fn sequence(&self, item: Item) -> (Vec<f32>, u32) {
        let part = match item.part {
            Split::Training => &self.training,
            Split::HeldOut => &self.held_out,
        };
        let (pixels, label) = self.images.image(part[item.index as usize]);
        let read = self.order.iter().map(|place| (pixels[*place] - MEAN) / DEVIATION);
        (read.collect(), label)
    }
}

impl Task for PixelSequences {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        expect_this_length(length, self.pixels(), "the pixels of an image")
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Values(1),
            answer: Answer::Class(self.images.classes),
            when: When::AtTheEnd,
        }
    }

    fn count(&self, part: Split) -> Option<u64> {
        Some(match part {
            Split::Training => self.training.len() as u64,
            Split::HeldOut => self.held_out.len() as u64,
        })
    }

    fn example(&self, length: usize, item: Item, _: &mut StdRng) -> Example {
        let (pixels, label) = self.sequence(item);
        Example::once(Sequence::Values(pixels), Answers::Classes(vec![label]), length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_have_no_image_in_common_and_all_together() {
        let sequences = Digits::default().open(Path::new("")).unwrap();
        assert_eq!(sequences.count(Split::Training), Some(1438));
        assert_eq!(sequences.count(Split::HeldOut), Some(359));
        let mut all = [sequences.training.clone(), sequences.held_out.clone()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1797));
        sequences.check(64).unwrap();
        assert!(sequences.check(63).is_err());
        for held_out in [0.0, 1.0, f64::NAN, -1.0] {
            assert!(
                Digits {
                    held_out,
                    ..Digits::default()
                }
                .open(Path::new(""))
                .is_err()
            );
        }
    }

    #[test]
    fn images_of_fewer_pixels_are_the_same_images() {
        let at = |side| Digits {
            side,
            ..Digits::default()
        };
        let (fine, coarse) = (at(None), at(Some(4)));
        let (fine, coarse) = (
            fine.open(Path::new("")).unwrap(),
            coarse.open(Path::new("")).unwrap(),
        );
        coarse.check(16).unwrap();
        for item in [Item::training(7), Item::held_out(3)] {
            let ((fine, label), (coarse, same)) = (fine.sequence(item), coarse.sequence(item));
            assert_eq!(label, same);
            let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
            assert!((mean(&fine) - mean(&coarse)).abs() < 1e-6);
        }
        for side in [0, 3, 16] {
            let error = at(Some(side)).open(Path::new("")).unwrap_err().to_string();
            assert!(error.contains("side: expected a divisor of 8"), "{error}");
        }
    }

    #[test]
    fn orders_are_permutations_and_the_reversed_one_is_known() {
        for order in [PixelOrder::Rows, PixelOrder::Random, PixelOrder::BitReversed] {
            for count in [1, 2, 64, 784] {
                let mut places = order.of(count, &mut StdRng::seed_from_u64(0));
                places.sort_unstable();
                assert!(places.into_iter().eq(0..count), "{order:?} of {count}");
            }
        }
        let reversed = |count| PixelOrder::BitReversed.of(count, &mut StdRng::seed_from_u64(0));
        assert_eq!(reversed(8), [0, 4, 2, 6, 1, 5, 3, 7]);
        // The reversals of 0 to 1023 that are below 784: 512, 256, then 768.
        assert_eq!(reversed(784)[..5], [0, 512, 256, 768, 128]);
    }

    #[test]
    fn a_sequence_holds_the_pixels_of_its_image() {
        let rows = Digits::default().open(Path::new("")).unwrap();
        let random = Digits {
            order: PixelOrder::Random,
            ..Digits::default()
        };
        let random = random.open(Path::new("")).unwrap();
        let (mut a, label) = rows.sequence(Item::held_out(3));
        let (mut b, same) = random.sequence(Item::held_out(3));
        assert!(label == same && a != b);
        a.sort_by(f32::total_cmp);
        b.sort_by(f32::total_cmp);
        assert_eq!(a, b);
    }
}
