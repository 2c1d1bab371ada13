//! Images of digits, a long stretch of noise, and only then the question.

use std::path::Path;

use rand::Rng;
use rand::rngs::StdRng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::digits::{Digits, PixelSequences};
use super::{Answers, Example, Item, Sequence, Shape, Split, Task, TaskError, When, expect_this_length};

/// [`Digits`] with `gap` steps of noise of deviation `noise` after them; the class is read from the last step alone, which is `gap`
/// steps from the nearest pixel. What forgets faster is left with chance.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DigitsWithGap {
    /// Steps of noise after the last pixel.
    #[serde(default = "gap")]
    pub gap: usize,
    /// Standard deviation of the noise.
    #[serde(default = "noise")]
    pub noise: f64,
    /// The images, and the order of their pixels.
    #[serde(default)]
    pub digits: Digits,
}

fn gap() -> usize {
    192
}

fn noise() -> f64 {
    0.5
}

/// The images of a [`DigitsWithGap`], opened: sequences of pixels with noise after them.
#[derive(Clone, Debug)]
pub struct GappedSequences {
    images: PixelSequences,
    gap: usize,
    noise: f64,
}

impl DigitsWithGap {
    /// Reads the images; relative paths start from `base`.
    ///
    /// # Errors
    /// As [`Digits::open`]; [`TaskError::Option`] for noise that is no deviation.
    pub fn open(&self, base: &Path) -> Result<GappedSequences, TaskError> {
        if !(self.noise.is_finite() && self.noise >= 0.0) {
            return Err(TaskError::option("noise", "a number from 0 on", self.noise));
        }
        Ok(GappedSequences {
            images: self.digits.open(base)?,
            gap: self.gap,
            noise: self.noise,
        })
    }
}

impl Task for GappedSequences {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        let pixels = self.images.pixels();
        let what = format!("{pixels} pixels and a gap of {} steps", self.gap);
        expect_this_length(length, pixels.saturating_add(self.gap), &what)
    }

    fn shape(&self) -> Shape {
        Shape {
            when: When::AtTheLastStep,
            ..self.images.shape()
        }
    }

    fn count(&self, part: Split) -> Option<u64> {
        self.images.count(part)
    }

    fn example(&self, length: usize, item: Item, rng: &mut StdRng) -> Example {
        let (mut sequence, label) = self.images.sequence(item);
        let noise = self.noise as f32;
        sequence.resize_with(length, || noise * rng.sample::<f32, _>(StandardNormal));
        Example::once(Sequence::Values(sequence), Answers::Classes(vec![label]), length)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_pixels_come_first_and_nothing_but_noise_after_them() {
        let task = DigitsWithGap {
            gap: 200,
            noise: 0.5,
            digits: Digits::default(),
        };
        let open = task.open(Path::new("")).unwrap();
        open.check(264).unwrap();
        assert!(open.check(64).is_err());
        let plain = task.digits.open(Path::new("")).unwrap();
        let draw = |seed| open.example(264, Item::training(5), &mut StdRng::seed_from_u64(seed));
        let (first, second) = (draw(1), draw(2));
        let (Sequence::Values(a), Sequence::Values(b)) = (&first.inputs, &second.inputs) else {
            panic!("values");
        };
        assert_eq!(a[..64], plain.sequence(Item::training(5)).0[..]);
        assert_eq!((&a[..64], &first.answers), (&b[..64], &second.answers));
        assert_ne!(a[64..], b[64..]);
        let variance = a[64..].iter().map(|value| value * value).sum::<f32>() / 200.0;
        assert!((variance - 0.25).abs() < 0.1, "variance {variance}");
    }
}
