//! The text that is streamed, and the streams it is read in.
//!
//! A stream is a segment of the text that the model reads from an empty state. The text is a ring: a stream that reaches
//! its end goes on at its beginning. Losses are averaged over streams. A few *long* streams cover the whole length; *short*
//! ones, which cost little, make the means at small positions as sharp as those at large ones.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Tokens that the long streams together should have, if the model is small enough.
const LONG_TOKENS: u64 = 262_144;
/// Operations that they together may take, unless asked for more streams.
const LONG_OPERATIONS: u64 = 500_000_000_000;
/// Most long streams, unless asked for more.
const MOST_LONG: u64 = 8;
/// Tokens that all streams together should have inside the training length.
const TOKENS_INSIDE: u64 = 16_384;
/// Length of a short stream, in training lengths.
const SHORT_LENGTHS: u64 = 16;

/// Token ids, read as a ring.
#[derive(Clone, Debug)]
pub struct Text {
    name: String,
    ids: Vec<u32>,
}

/// A text that is too short for what is done with it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{name}: expected {expected}, found {found}")]
pub struct TextError {
    /// What the text is called.
    pub name: String,
    /// Number of tokens that was expected, in words.
    pub expected: String,
    /// Number of tokens that the text has.
    pub found: usize,
}

impl Text {
    /// A text of these ids, called so in reports.
    ///
    /// # Errors
    /// [`TextError`] for fewer than two ids: nothing is predicted in them.
    pub fn new(name: impl Into<String>, ids: Vec<u32>) -> Result<Self, TextError> {
        let name = name.into();
        match ids.len() {
            found @ 0..2 => Err(TextError {
                name,
                expected: "at least 2 tokens".into(),
                found,
            }),
            _ => Ok(Self { name, ids }),
        }
    }

    /// The first `share` of the text for fitting, and the rest for judging: no token is in both, but in a text that
    /// repeats itself.
    ///
    /// # Errors
    /// [`TextError`] when one of them would hold fewer than two tokens.
    pub fn split(&self, share: f64) -> Result<(Self, Self), TextError> {
        let at = (self.ids.len() as f64 * share) as usize;
        if self.is_constant() {
            return Ok((self.clone(), self.clone()));
        }
        if at < 2 || self.ids.len() - at < 2 {
            return Err(TextError {
                name: self.name.clone(),
                expected: format!("enough tokens to keep a share of {share} for calibration"),
                found: self.ids.len(),
            });
        }
        let part = |ids: &[u32]| Self {
            name: self.name.clone(),
            ids: ids.to_vec(),
        };
        Ok((part(&self.ids[..at]), part(&self.ids[at..])))
    }

    /// Name of the text in reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of tokens before it repeats.
    pub fn tokens(&self) -> u64 {
        self.ids.len() as u64
    }

    /// Whether every token is the same, so that all streams are one.
    pub fn is_constant(&self) -> bool {
        self.ids.iter().all(|id| *id == self.ids[0])
    }

    /// A number that differs between texts (FNV-1a of the ids).
    pub fn fingerprint(&self) -> u64 {
        let bytes = self.ids.iter().flat_map(|id| id.to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// `count` ids from `start` on, around the ring.
    pub fn read(&self, start: u64, count: usize) -> Vec<u32> {
        let start = usize::try_from(start % self.tokens()).unwrap_or(0);
        self.ids.iter().cycle().skip(start).take(count).copied().collect()
    }
}

/// One stream: a segment of the text, taken as a ring, that is read from an empty state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Position in the text of its first token.
    pub offset: u64,
    /// Number of losses: tokens read as context, the one after each predicted.
    pub length: u64,
}

/// What the streams are to be like.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Tokens of a long stream.
    pub length: u64,
    /// Training length T of the model, in tokens.
    pub train_length: u64,
    /// Number of long streams; `None` to choose by what a token costs.
    pub long: Option<u64>,
    /// Operations that a token takes.
    pub operations_per_token: u64,
    /// Turns the ring by a random amount.
    pub seed: Option<u64>,
}

/// The long streams, then the short ones, which together read at most half as much as the long ones.
pub fn streams(text: &Text, options: &StreamOptions) -> Vec<Stream> {
    let (length, train_length) = (options.length.max(1), options.train_length.max(1));
    let affordable = LONG_TOKENS.min(LONG_OPERATIONS / options.operations_per_token.max(1));
    let long = match options.long {
        _ if text.is_constant() => 1,
        Some(long) => long,
        None => (affordable / length).clamp(1, MOST_LONG),
    };
    let short_length = SHORT_LENGTHS * train_length;
    let short = if text.is_constant() || short_length >= length {
        0
    } else {
        let wanted = TOKENS_INSIDE.div_ceil(train_length).saturating_sub(long);
        wanted.min(long.saturating_mul(length) / 2 / short_length)
    };
    let turn = options.seed.map_or(0, |seed| {
        StdRng::seed_from_u64(seed).random_range(0..text.tokens())
    });
    let spread = |count: u64, length: u64, shift: u64| {
        (0..count).map(move |index| Stream {
            offset: turn + shift + text.tokens() * index / count,
            length,
        })
    };
    // Short streams start off the long ones: half a step of theirs along.
    let shift = text.tokens() / (2 * short.max(1));
    spread(long, length, 0)
        .chain(spread(short, short_length, shift))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: Vec<u32>) -> Text {
        Text::new("test", ids).expect("two tokens at least")
    }

    #[test]
    fn a_short_text_is_read_around_and_around() {
        let text = of(vec![1, 2, 3]);
        assert_eq!(text.read(0, 7), [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(text.read(5, 2), [3, 1]);
    }

    #[test]
    fn calibration_and_evaluation_share_no_token() {
        let text = of((0..1000).collect());
        let (calibration, evaluated) = text.split(0.125).expect("enough tokens");
        assert_eq!((calibration.tokens(), evaluated.tokens()), (125, 875));
        assert!(calibration.ids.iter().all(|id| !evaluated.ids.contains(id)));
        assert!(of(vec![1, 2, 3]).split(0.125).is_err());
    }

    const SMALL: StreamOptions = StreamOptions {
        length: 65_536,
        train_length: 64,
        long: None,
        operations_per_token: 500_000,
        seed: None,
    };

    #[test]
    fn streams_fill_the_training_length_and_the_budget() {
        let text = of((0..100_000).collect());
        let plan = streams(&text, &SMALL);
        assert_eq!(plan.iter().filter(|stream| stream.length == 65_536).count(), 4);
        assert_eq!(plan.len(), 132);
        assert!(plan[4..].iter().all(|stream| stream.length == 1024));
        let mut offsets: Vec<u64> = plan.iter().map(|stream| stream.offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets.len(), 132, "no two streams alike");
    }

    #[test]
    fn a_large_model_reads_less() {
        let text = of((0..100_000).collect());
        let large = StreamOptions {
            train_length: 2048,
            operations_per_token: 300_000_000,
            ..SMALL
        };
        let lengths: Vec<u64> = streams(&text, &large)
            .iter()
            .map(|stream| stream.length)
            .collect();
        assert_eq!(lengths, [65_536, 32_768]);
        assert_eq!(
            streams(
                &text,
                &StreamOptions {
                    long: Some(3),
                    ..large
                }
            )[2]
            .length,
            65_536
        );
    }

    #[test]
    fn a_constant_text_is_one_stream() {
        let text = of(vec![10; 5]);
        assert_eq!(
            streams(
                &text,
                &StreamOptions {
                    length: 4096,
                    ..SMALL
                }
            ),
            [Stream {
                offset: 0,
                length: 4096
            }]
        );
    }

    #[test]
    fn a_seed_turns_the_text() {
        let text = of((0..1000).collect());
        let offsets = |seed| streams(&text, &StreamOptions { seed, ..SMALL })[0].offset;
        assert_eq!(offsets(Some(1)), offsets(Some(1)));
        assert_ne!(offsets(Some(1)), offsets(Some(2)));
        assert_eq!(offsets(None), 0);
    }
}
