//! Parts of a mixture that are not texts: runs of one token, and texts that end as they began.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::config::DataConfig;
use super::error::DataError;
use super::seed::generator;
use super::stream::{Row, SequenceNumber, Sequences};
use super::text::Token;

/// Several sources, one of which is drawn for every row of every batch.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MixConfig {
    /// The sources of the mixture.
    pub parts: Vec<MixPart>,
}

/// One source of a mixture.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MixPart {
    /// How often it is drawn, relative to the others.
    pub weight: f64,
    /// What is read then.
    pub source: DataConfig,
}

impl MixConfig {
    /// The share of every part; they add up to 1.
    pub(super) fn shares(&self) -> Result<Vec<f64>, DataError> {
        let weights: Vec<f64> = self.parts.iter().map(|part| part.weight).collect();
        if let Some(wrong) = weights
            .iter()
            .find(|weight| !weight.is_finite() || **weight < 0.0)
        {
            return Err(DataError::option("weight", "a finite number, at least 0", wrong));
        }
        let total: f64 = weights.iter().sum();
        if !total.is_finite() || total <= 0.0 {
            let found = format!("weights of {total} together in {} parts", weights.len());
            return Err(DataError::option(
                "parts",
                "at least one with a weight above 0",
                found,
            ));
        }
        Ok(weights.into_iter().map(|weight| weight / total).collect())
    }
}

/// One token over and over: runs of newlines, for example, which a text may lack.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RepeatConfig {
    /// The separating token.
    pub token: Token,
}

/// Sequences of one token.
pub(super) struct Repeat(pub(super) u32);

impl Sequences for Repeat {
    fn fill(&self, _: SequenceNumber, row: &mut Row<'_>) -> Result<bool, DataError> {
        row.ids.fill(self.0);
        row.targets.fill(self.0);
        Ok(false)
    }

    fn vocab_size(&self) -> usize {
        self.0 as usize + 1
    }
}

/// Texts that begin with a rare string and end with the same, so that the whole text in between has to be remembered through.
///
/// A sequence of T + 1 tokens is: marker, n random tokens, T − 1 − 2n tokens of the source, marker, the same n tokens. All targets
/// weigh 1 but the first n, which nothing foretells: they weigh 0.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RepeatedHeaderConfig {
    /// Length n of the string, in tokens.
    pub length: usize,
    /// The token before it. It does not occur in the string.
    pub marker: Token,
    /// Where the text is from; not a mixture.
    pub source: Box<DataConfig>,
}

/// Sequences that end as they began.
pub(super) struct RepeatedHeader {
    source: Box<dyn Sequences>,
    length: usize,
    marker: u32,
    seed: u64,
}

impl RepeatedHeader {
    /// Around the sequences of `source`, of `time` tokens each.
    ///
    /// # Errors
    /// [`DataError::Option`] for an empty header, one that leaves no text between its two copies, or a vocabulary of one token.
    pub(super) fn new(
        source: Box<dyn Sequences>,
        length: usize,
        marker: u32,
        time: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        if length == 0 {
            return Err(DataError::option("length", "at least 1 token of header", length));
        }
        let least = length.saturating_mul(2).saturating_add(2);
        if time < least {
            let expected = format!("at least {least} tokens for two headers of {length} and some text");
            return Err(DataError::option("time", expected, time));
        }
        let vocab_size = source.vocab_size();
        if vocab_size < 2 {
            return Err(DataError::option(
                "source",
                "a vocabulary of at least 2 tokens",
                vocab_size,
            ));
        }
        Ok(Self {
            source,
            length,
            marker,
            seed,
        })
    }
}

impl Sequences for RepeatedHeader {
    fn fill(&self, sequence: SequenceNumber, row: &mut Row<'_>) -> Result<bool, DataError> {
        self.source.fill(sequence, row)?;
        let mut rng = generator(self.seed, sequence.index(), 0);
        // The marker is left out by moving the ids above it down and back.
        let others =
            self.source.vocab_size() as u32 - u32::from((self.marker as usize) < self.source.vocab_size());
        let draw = |_| {
            let id = rng.random_range(0..others);
            id + u32::from(id >= self.marker)
        };
        let header: Vec<u32> = std::iter::once(self.marker)
            .chain((0..self.length).map(draw))
            .collect();
        let (time, size) = (row.ids.len(), header.len());
        row.ids[..size].copy_from_slice(&header);
        row.targets[..size - 1].copy_from_slice(&header[1..]);
        row.targets[time - size..].copy_from_slice(&header);
        row.ids[time - size + 1..].copy_from_slice(&header[..size - 1]);
        if let Some(weights) = row.weights.get_mut(..self.length) {
            weights.fill(0.0);
        }
        Ok(false)
    }

    fn vocab_size(&self) -> usize {
        self.source.vocab_size().max(self.marker as usize + 1)
    }

    fn is_weighted(&self) -> bool {
        true
    }

    fn checksum(&self) -> u64 {
        self.source.checksum()
    }
}
