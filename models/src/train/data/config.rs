//! What a configuration can name as data, and how it is opened.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::audio::AudioConfig;
use super::corpus::{Corpus, Ids, Split};
use super::error::DataError;
use super::mixture::{Repeat, RepeatedHeader};
use super::questions::{Questions, QuestionsConfig};
use super::seed::mix;
use super::stream::{MixturePart, Sequences, Source, Stream};
use super::tasks::{
    CompositionalMqar, CopyTask, Drawn, ForgettingMqar, InductionHeads, Mqar, PairsInFiller, PasskeyLite,
    SetDisjointness, Task,
};
use super::text::{TextConfig, Token};
use super::token_file::TokenFile;
use super::windows::{Order, Windows};
use crate::budget;
use crate::tokenizer::Tokenizer;

/// Where batches come from.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataConfig {
    /// Text files and folders.
    Text(TextConfig),
    /// WAV files and folders.
    Audio(AudioConfig),
    /// A file of tokens.
    Tokens(TokensConfig),
    /// Several sources by turns.
    Mix(MixConfig),
    /// One token over and over.
    Repeat(RepeatConfig),
    /// Texts that end with the rare string that they began with.
    RepeatedHeader(RepeatedHeaderConfig),
    /// Generated documents, and questions about them.
    Questions(QuestionsConfig),
    /// A random block and its copy.
    Copy(CopyTask),
    /// Multi-query associative recall: pairs of keys and values, then each key once more.
    Mqar(Mqar),
    /// Multi-query associative recall in which some keys get another value.
    ForgettingMqar(ForgettingMqar),
    /// Multi-query associative recall by two keys at once.
    CompositionalMqar(CompositionalMqar),
    /// Two lists, and what is in both.
    SetDisjointness(SetDisjointness),
    /// Pairs of keys and values hidden in filler, then each key once more.
    PairsInFiller(PairsInFiller),
    /// Five digits hidden in filler.
    PasskeyLite(PasskeyLite),
    /// The token after the marker.
    InductionHeads(InductionHeads),
}

/// A file of tokens that `spillway tokens` made.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Path of the file of tokens.
    pub path: PathBuf,
    /// In which order it is read.
    #[serde(default)]
    pub order: Order,
    /// Fraction of the tokens, at the end, that is held out.
    #[serde(default)]
    pub held_out: f64,
    /// Part of the tokens that is read: all but the end that is held out, or that end.
    #[serde(default)]
    pub split: Split,
    /// Whether everything is read once at the start and compared with its checksum, at the speed of the disk. Ids that the
    /// vocabulary does not have are noticed without it.
    #[serde(default = "verify")]
    pub verify: bool,
}

fn verify() -> bool {
    true
}

/// What every part of a source is opened with.
#[derive(Clone, Copy)]
struct Opening<'a> {
    base: &'a Path,
    time: usize,
    tokenizer: &'a Tokenizer,
}

impl DataConfig {
    /// Opens the source of batches of `sequences` sequences of `time` tokens. Relative paths start from `base`; text is read with
    /// `tokenizer`, which files of tokens and tasks do not need.
    ///
    /// # Errors
    /// Every [`DataError`] but [`DataError::Position`].
    pub fn open(
        &self,
        base: &Path,
        sequences: usize,
        time: usize,
        tokenizer: &Tokenizer,
        seed: u64,
    ) -> Result<Box<dyn Source>, DataError> {
        for (option, found) in [("sequences", sequences), ("time", time)] {
            if found == 0 || u32::try_from(found).is_err() {
                return Err(DataError::option(option, "1 to 2^32 - 1", found));
            }
        }
        // Ids, targets and weights of a batch, and a counter for each row.
        let needed = budget::product([sequences as u64, time as u64, 12]);
        let needed = budget::sum([needed, budget::product([sequences as u64, 8])]);
        budget::ask(
            "the tokens of a batch",
            needed,
            "take fewer sequences, or shorter ones",
        )?;
        let opening = Opening {
            base,
            time,
            tokenizer,
        };
        let mut parts = Vec::new();
        self.add_parts(opening, 1.0, seed, &mut parts)?;
        Ok(Box::new(Stream::new(parts, sequences, time, seed)))
    }

    /// The held-out part of the same texts, in the order of the documents, if this is the training part of some. Opened with n
    /// sequences, its first batch has n places spread evenly over that part.
    pub fn held_out(&self) -> Option<Self> {
        let is_split = |split: Split, held_out: f64| split == Split::Training && held_out > 0.0;
        match self {
            Self::Text(text) if is_split(text.split, text.held_out) => Some(Self::Text(TextConfig {
                split: Split::HeldOut,
                order: Order::Documents,
                ..text.clone()
            })),
            Self::Audio(audio) if is_split(audio.split, audio.held_out) => Some(Self::Audio(AudioConfig {
                split: Split::HeldOut,
                order: Order::Documents,
                ..audio.clone()
            })),
            Self::Tokens(tokens) if is_split(tokens.split, tokens.held_out) => {
                Some(Self::Tokens(TokensConfig {
                    split: Split::HeldOut,
                    order: Order::Documents,
                    ..tokens.clone()
                }))
            }
            Self::Mix(mixed) => {
                let held_out = |part: &MixPart| {
                    let (weight, source) = (part.weight, part.source.held_out()?);
                    Some(MixPart { weight, source })
                };
                let parts: Vec<MixPart> = mixed.parts.iter().filter_map(held_out).collect();
                (!parts.is_empty()).then_some(Self::Mix(MixConfig { parts }))
            }
            _ => None,
        }
    }

    /// The sound among the data: what its tokens are codes of.
    pub fn audio(&self) -> Option<&AudioConfig> {
        match self {
            Self::Audio(audio) => Some(audio),
            Self::Mix(mixed) => mixed.parts.iter().find_map(|part| part.source.audio()),
            _ => None,
        }
    }

    /// Adds the source, or its parts if it is a mixture, with `share` of the sequences.
    fn add_parts(
        &self,
        opening: Opening<'_>,
        share: f64,
        seed: u64,
        parts: &mut Vec<MixturePart>,
    ) -> Result<(), DataError> {
        let Self::Mix(mixed) = self else {
            // Two parts alike should not give the same sequences.
            let sequences = self.sequences(opening, mix(seed, u64::MAX, parts.len() as u64))?;
            parts.push(MixturePart { share, sequences });
            return Ok(());
        };
        for (part, of_mixture) in mixed.parts.iter().zip(mixed.shares()?) {
            part.source.add_parts(opening, share * of_mixture, seed, parts)?;
        }
        Ok(())
    }

    fn sequences(&self, opening: Opening<'_>, seed: u64) -> Result<Box<dyn Sequences>, DataError> {
        let Opening {
            base,
            time,
            tokenizer,
        } = opening;
        match self {
            Self::Text(text) => {
                let corpus = text.corpus(base, tokenizer, time)?;
                Ok(Box::new(Windows::new(corpus, text.order, time, seed)))
            }
            Self::Audio(audio) => {
                let corpus = audio.corpus(base, time)?;
                Ok(Box::new(Windows::new(corpus, audio.order, time, seed)))
            }
            Self::Tokens(tokens) => {
                let corpus = tokens.corpus(base, time)?;
                Ok(Box::new(Windows::new(corpus, tokens.order, time, seed)))
            }
            Self::Repeat(repeat) => Ok(Box::new(Repeat(repeat.token.id("token", tokenizer)?))),
            Self::RepeatedHeader(header) => {
                let source = header.source.sequences(opening, seed)?;
                let marker = header.marker.id("marker", tokenizer)?;
                Ok(Box::new(RepeatedHeader::new(
                    source,
                    header.length,
                    marker,
                    time,
                    seed,
                )?))
            }
            Self::Questions(config) => Ok(Box::new(Questions::new(config, tokenizer, time, seed)?)),
            Self::Copy(task) => drawn(task, time, seed),
            Self::Mqar(task) => drawn(task, time, seed),
            Self::ForgettingMqar(task) => drawn(task, time, seed),
            Self::CompositionalMqar(task) => drawn(task, time, seed),
            Self::SetDisjointness(task) => drawn(task, time, seed),
            Self::PairsInFiller(task) => drawn(task, time, seed),
            Self::PasskeyLite(task) => drawn(task, time, seed),
            Self::InductionHeads(task) => drawn(task, time, seed),
            Self::Mix(_) => Err(DataError::option("source", "anything but a mixture", "a mixture")),
        }
    }
}

fn drawn<T: Task + Clone + 'static>(
    task: &T,
    time: usize,
    seed: u64,
) -> Result<Box<dyn Sequences>, DataError> {
    task.check(time)?;
    Ok(Box::new(Drawn(task.clone(), seed)))
}

impl TokensConfig {
    fn corpus(&self, base: &Path, time: usize) -> Result<Corpus, DataError> {
        let path = base.join(&self.path);
        let file = TokenFile::open(&path)?;
        if self.verify {
            file.verify()?;
        }
        let (name, vocab_size) = (path.display().to_string(), file.header().vocab_size);
        Corpus::new(
            &name,
            Ids::File(file),
            vocab_size,
            (self.split, self.held_out),
            time,
        )
    }
}

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
    /// How often the source is drawn, relative to the others.
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
    /// The token that is repeated.
    pub token: Token,
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
