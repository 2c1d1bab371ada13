//! Images as sequences: the sizes of their axes, and which of them a number of positions belongs to.

use crate::error::{Error, Result};
use crate::mixer::Context;

/// The largest number of axes that an image may have.
const MOST: usize = 3;

/// The sizes of the axes of the images that a layer was made for, the last one fastest in memory; the same shape at another resolution is
/// an image of it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageShape {
    sizes: Vec<usize>,
}

/// An image of a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolution {
    /// Positions on every axis.
    pub sizes: Vec<usize>,
    /// r, the distance between its positions over that in the images which the layer was made for: 1/2 for twice as many.
    pub rate: f64,
}

impl ImageShape {
    /// An image of one to three axes of these sizes.
    ///
    /// # Errors
    /// [`Error::Value`] for no axes or more than three, and for one without positions.
    pub fn new(sizes: Vec<usize>) -> Result<Self> {
        match (1..=MOST).contains(&sizes.len()) && !sizes.contains(&0) {
            true => Ok(Self { sizes }),
            false => Err(Error::Value {
                what: "axes of an image",
                expected: "1 to 3, with at least 1 position on each",
                found: format!("{sizes:?}"),
            }),
        }
    }

    /// The sizes of the axes.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// The image of so many positions that has this shape at some resolution.
    ///
    /// # Errors
    /// [`Error::Value`] where there is none: another shape, whose axes nothing tells.
    pub fn at(&self, positions: usize) -> Result<Resolution> {
        let common = self.sizes.iter().copied().fold(0, greatest_common_divisor);
        let unit: Vec<usize> = self.sizes.iter().map(|size| size / common).collect();
        let multiple = (1..=positions).find_map(|multiple| {
            let mut sizes = unit.iter().map(|size| size.checked_mul(multiple));
            let found = sizes.try_fold(1_usize, |product, size| product.checked_mul(size?))?;
            (found >= positions).then_some((multiple, found))
        });
        match multiple {
            Some((multiple, found)) if found == positions => Ok(Resolution {
                sizes: unit.iter().map(|size| size * multiple).collect(),
                rate: common as f64 / multiple as f64,
            }),
            _ => Err(Error::Value {
                what: "positions of an image",
                expected: "as many as the layer's axes have at some resolution",
                found: format!("{positions} for axes in the proportions {:?}", self.sizes),
            }),
        }
    }

    /// Refuses what is not a batch of whole images of one size: a layer of images has no state to go on from.
    ///
    /// # Errors
    /// [`Error::Value`].
    pub(crate) fn expect_images(&self, positions: usize, context: &Context<'_>) -> Result<()> {
        if let Some(earlier) = context.positions.iter().find(|earlier| **earlier > 0) {
            return Err(Error::Value {
                what: "positions before those of a call",
                expected: "none: a layer of images reads them whole",
                found: earlier.to_string(),
            });
        }
        let lengths = context.lengths.unwrap_or_default();
        match lengths.iter().all(|length| *length == positions) {
            true => Ok(()),
            false => Err(Error::Value {
                what: "images of a batch",
                expected: "all of one size",
                found: format!("images of {lengths:?} positions"),
            }),
        }
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => greatest_common_divisor(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sizes: &[usize]) -> ImageShape {
        ImageShape::new(sizes.to_vec()).expect("axes")
    }

    #[test]
    fn a_number_of_positions_is_one_resolution_of_a_shape() {
        for (made_for, positions, sizes, rate) in [
            (&[8, 8][..], 64, vec![8, 8], 1.0),
            (&[8, 8], 256, vec![16, 16], 0.5),
            (&[8, 8], 49, vec![7, 7], 8.0 / 7.0),
            (&[8, 8], 1, vec![1, 1], 8.0),
            (&[4, 6], 6, vec![2, 3], 2.0),
            (&[5], 7, vec![7], 5.0 / 7.0),
            (&[4, 8, 8], 2 * 4 * 4, vec![2, 4, 4], 2.0),
        ] {
            let found = shape(made_for).at(positions).expect("a resolution");
            assert_eq!(found, Resolution { sizes, rate }, "{made_for:?} of {positions}");
        }
    }

    #[test]
    fn other_shapes_and_no_axes_are_refused() {
        for (made_for, positions) in [(&[8, 8][..], 60), (&[4, 6], 9), (&[4, 8, 8], 64), (&[2, 2], 0)] {
            let error = shape(made_for).at(positions).expect_err("no such image");
            assert!(
                error.to_string().contains(&format!("found {positions} for axes")),
                "{error}"
            );
        }
        for sizes in [vec![], vec![1; 4], vec![3, 0]] {
            let error = ImageShape::new(sizes).expect_err("no such axes");
            assert!(error.to_string().contains("1 to 3"), "{error}");
        }
    }
}
