//! Tokens of a text, in memory or mapped, as a ring: after the last comes the first again.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::error::DataError;
use super::token_file::TokenFile;

/// Which part of a text is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// All but the end that is held out.
    #[default]
    Training,
    /// The end that is held out.
    HeldOut,
}

/// Ids as narrow as their vocabulary allows.
#[derive(Debug)]
pub(super) enum Ids {
    One(Vec<u8>),
    Two(Vec<u16>),
    Four(Vec<u32>),
    File(TokenFile),
}

impl Ids {
    /// No ids yet, but room of the width that ids below `vocab_size` need.
    pub(super) fn empty(vocab_size: usize) -> Self {
        match vocab_size {
            0..=0x100 => Self::One(Vec::new()),
            0x101..=0x1_0000 => Self::Two(Vec::new()),
            _ => Self::Four(Vec::new()),
        }
    }

    /// Adds ids, which are below the vocabulary size given; nothing can be added to a file.
    pub(super) fn push(&mut self, ids: &[u32]) {
        match self {
            Self::One(all) => all.extend(ids.iter().map(|id| *id as u8)),
            Self::Two(all) => all.extend(ids.iter().map(|id| *id as u16)),
            Self::Four(all) => all.extend(ids),
            Self::File(_) => {}
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(ids) => ids.len(),
            Self::Two(ids) => ids.len(),
            Self::Four(ids) => ids.len(),
            // A file that is mapped is not longer than the address space.
            Self::File(file) => file.header().count as usize,
        }
    }

    fn read(&self, start: usize, into: &mut [u32]) -> Result<(), DataError> {
        let place = start..start + into.len();
        match self {
            Self::One(ids) => widen(&ids[place], into),
            Self::Two(ids) => widen(&ids[place], into),
            Self::Four(ids) => into.copy_from_slice(&ids[place]),
            Self::File(file) => file.read(start, into)?,
        }
        Ok(())
    }

    fn checksum(&self) -> u64 {
        let mut hash = Xxh3::new();
        match self {
            Self::One(ids) => hash.update(ids),
            Self::Two(ids) => hash.update(bytemuck::cast_slice(ids)),
            Self::Four(ids) => hash.update(bytemuck::cast_slice(ids)),
            Self::File(file) => hash.update(&file.header().checksum.to_le_bytes()),
        }
        hash.digest()
    }
}

fn widen<T: Copy + Into<u32>>(ids: &[T], into: &mut [u32]) {
    into.iter_mut()
        .zip(ids)
        .for_each(|(to, from)| *to = (*from).into());
}

/// A part of a text as tokens.
#[derive(Debug)]
pub(super) struct Corpus {
    ids: Ids,
    range: Range<usize>,
    vocab_size: usize,
    checksum: u64,
}

impl Corpus {
    /// The part `split` of `ids`, of which the fraction `held_out` at the end is held out; `name` is for errors.
    ///
    /// # Errors
    /// [`DataError::Option`] for a fraction that is none, or for the held-out part when there is none;
    /// [`DataError::Short`] when a sequence of `time` tokens with its targets does not fit into the part.
    pub(super) fn new(
        name: &str,
        ids: Ids,
        vocab_size: usize,
        (split, held_out): (Split, f64),
        time: usize,
    ) -> Result<Self, DataError> {
        if !(0.0..1.0).contains(&held_out) {
            return Err(DataError::option(
                "held_out",
                "a fraction from 0 to below 1",
                held_out,
            ));
        }
        if split == Split::HeldOut && held_out == 0.0 {
            return Err(DataError::option(
                "held_out",
                "a fraction above 0 for the held-out split",
                held_out,
            ));
        }
        let all = ids.len();
        // The product is below the length, so nothing is cut off.
        let border = all - (all as f64 * held_out).round() as usize;
        let (range, part) = match split {
            Split::Training => (0..border, "training"),
            Split::HeldOut => (border..all, "held-out"),
        };
        if range.len() <= time {
            return Err(DataError::Short {
                name: if held_out == 0.0 {
                    name.into()
                } else {
                    format!("{name}, {part} part")
                },
                expected: time.saturating_add(1),
                found: range.len() as u64,
            });
        }
        let checksum = ids.checksum();
        Ok(Self {
            ids,
            range,
            vocab_size,
            checksum,
        })
    }

    /// Tokens of the part, at least 2.
    pub(super) fn len(&self) -> u64 {
        self.range.len() as u64
    }

    /// Every id is below it.
    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Tells one text from another.
    pub(super) fn checksum(&self) -> u64 {
        self.checksum
    }

    /// Copies tokens from place `start` on, which is taken modulo the length.
    ///
    /// # Errors
    /// [`DataError::Id`] from a file that is damaged.
    pub(super) fn read(&self, start: u64, mut into: &mut [u32]) -> Result<(), DataError> {
        // Below the length, which is an usize.
        let mut start = (start % self.len()) as usize;
        while !into.is_empty() {
            let run = into.len().min(self.range.len() - start);
            let (now, later) = into.split_at_mut(run);
            self.ids.read(self.range.start + start, now)?;
            (into, start) = (later, 0);
        }
        Ok(())
    }
}
