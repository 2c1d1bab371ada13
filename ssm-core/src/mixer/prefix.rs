//! The tokens of a call that are read both ways.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use crate::error::{Error, Result};

/// What becomes of padding in a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Keys of padding are 0 before the feature map, and its values stay: φ(0) = \[1, 0, …\] still counts in both sums. Published prefix
    /// linear attention does this, and its checkpoints were trained so.
    #[default]
    Counted,
    /// It counts in neither sum.
    LeftOut,
}

/// Which tokens of a prefix are padding, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixMask {
    keep: Arc<[bool]>,
    tokens: usize,
    padding: Padding,
}

impl PrefixMask {
    /// The mask of `tokens` tokens of every sequence, sequence by sequence: true for a token, false for padding.
    ///
    /// # Errors
    /// [`Error::Value`] for a mask of another length than whole sequences.
    pub fn new(keep: impl Into<Arc<[bool]>>, tokens: usize, padding: Padding) -> Result<Self> {
        let keep = keep.into();
        match tokens > 0 && keep.len().is_multiple_of(tokens) {
            true => Ok(Self {
                keep,
                tokens,
                padding,
            }),
            false => Err(Error::Value {
                what: "mask of a prefix",
                expected: "as many values as its sequences have tokens, at least one",
                found: format!("{} values for sequences of {tokens} tokens", keep.len()),
            }),
        }
    }

    /// Sequences that it is for.
    pub fn batch(&self) -> usize {
        self.keep.len() / self.tokens
    }

    /// Whether there is no padding at all.
    pub fn keeps_all(&self) -> bool {
        self.keep.iter().all(|kept| *kept)
    }

    /// What becomes of padding.
    pub fn padding(&self) -> Padding {
        self.padding
    }
}

/// The first tokens of a call, of which every token of the call and of later ones sees all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    tokens: usize,
    mask: Option<PrefixMask>,
}

impl Prefix {
    /// A prefix of `tokens` tokens without padding.
    pub fn new(tokens: usize) -> Self {
        Self { tokens, mask: None }
    }

    /// A prefix of as many tokens as the mask has.
    pub fn masked(mask: PrefixMask) -> Self {
        Self {
            tokens: mask.tokens,
            mask: Some(mask).filter(|mask| !mask.keeps_all()),
        }
    }

    /// Tokens of every sequence.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The mask of the prefix, where some of its tokens are padding.
    pub fn mask(&self) -> Option<&PrefixMask> {
        self.mask.as_ref()
    }

    /// The prefix of these sequences of the batch, in this order.
    ///
    /// # Errors
    /// [`Error::Value`] for a sequence that the mask has no row for.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let Some(mask) = &self.mask else {
            return Ok(self.clone());
        };
        if let Some(row) = rows.iter().find(|row| **row >= mask.batch()) {
            return Err(Error::Value {
                what: "row of a prefix's mask",
                expected: "the index of one of its sequences",
                found: format!("{row} of {}", mask.batch()),
            });
        }
        let keep = rows
            .iter()
            .flat_map(|row| &mask.keep[row * mask.tokens..][..mask.tokens]);
        let keep: Arc<[bool]> = keep.copied().collect();
        Ok(Self {
            tokens: self.tokens,
            mask: Some(PrefixMask { keep, ..mask.clone() }),
        })
    }

    /// Whether a call of `time` tokens of `batch` sequences holds it.
    ///
    /// # Errors
    /// [`Error::Value`] when it does not.
    pub fn expect_within(&self, batch: usize, time: usize) -> Result<()> {
        let wrong = |what, expected, found: usize| {
            Err(Error::Value {
                what,
                expected,
                found: format!("{found} in a call of {time} tokens of {batch} sequences"),
            })
        };
        if self.tokens > time {
            return wrong(
                "prefix",
                "as many tokens as the call that reads it, or fewer",
                self.tokens,
            );
        }
        match &self.mask {
            Some(mask) if mask.batch() != batch => {
                wrong("mask of a prefix", "one row per sequence", mask.batch())
            }
            _ => Ok(()),
        }
    }

    /// 1 for every token and 0 for padding, `[batch, time, 1, 1]`, where there is padding; tokens behind the prefix are none.
    pub fn keep(&self, time: usize, device: &Device) -> Option<Tensor<4>> {
        let mask = self.mask.as_ref()?;
        let rows = mask.keep.chunks_exact(mask.tokens);
        let row = |row: &[bool]| -> Vec<f32> {
            let kept = row.iter().map(|kept| f32::from(u8::from(*kept)));
            kept.chain(std::iter::repeat(1.0)).take(time).collect()
        };
        let values: Vec<f32> = rows.flat_map(row).collect();
        let data = TensorData::new(values, [mask.batch(), time, 1, 1]);
        Some(Tensor::from_data(data, device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_covers_the_prefix_and_what_follows_is_kept() {
        let mask = PrefixMask::new([false, true, true, true], 2, Padding::Counted).expect("two sequences");
        let prefix = Prefix::masked(mask);
        assert_eq!(prefix.tokens(), 2);
        assert!(prefix.expect_within(2, 3).is_ok());
        let kept = prefix.keep(3, &Device::flex()).expect("padding").into_data();
        assert_eq!(
            kept.iter::<f32>().collect::<Vec<_>>(),
            [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        );
        let second = prefix.select(&[1]).expect("the second row");
        let kept = second.keep(2, &Device::flex()).expect("a mask").into_data();
        assert_eq!(kept.iter::<f32>().collect::<Vec<_>>(), [1.0, 1.0]);
        assert!(prefix.select(&[2]).is_err());
        for (batch, time) in [(2, 1), (1, 3)] {
            assert!(prefix.expect_within(batch, time).is_err());
        }
    }

    #[test]
    fn a_mask_of_parts_of_sequences_is_refused() {
        for (values, tokens) in [(3, 2), (2, 0)] {
            assert!(PrefixMask::new(vec![true; values], tokens, Padding::LeftOut).is_err());
        }
        let all = PrefixMask::new([true; 4], 4, Padding::Counted).expect("one sequence");
        assert_eq!(Prefix::masked(all), Prefix::new(4));
    }
}
