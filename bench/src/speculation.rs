//! `generate --speculate` and `--draft`: drafts that the model checks several tokens at a time, and what came of them.

use crate::context::Context;
use crate::error::ProgramError;
use crate::model_args::ModelArgs;
use clap::Args;
use serde::Serialize;
use spillway_models::speculation::{Acceptance, DraftModel, Drafter, Lookup};
use spillway_models::{Logits, Model, ModelError, ModelState};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

/// Tokens of a draft of look-up, unless said otherwise.
const LOOKED_UP: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);
/// More are slower to check than to do without.
const MOST_DRAFTED: usize = 64;
/// Tokens that are decoded one by one, to compare with.
const COMPARED: usize = 4;

/// Where drafts come from.
#[derive(Clone, Debug, Args)]
pub struct SpeculationArgs {
    /// Draft what followed when the last few tokens occurred before, K tokens at a time (1 to 64; 8 where no K is given), and let the model
    /// check each draft in one call: the same text, sooner where it repeats itself [default: no drafts]
    #[arg(long, value_name = "lookup[:K]", value_parser = parse_lookup, conflicts_with = "draft")]
    pub speculate: Option<NonZeroUsize>,
    /// Smaller model with the same tokenizer that drafts, for the model to check: the same text, sooner where both agree; a path or
    /// hf:OWNER/NAME, as of the model [default: no drafts]
    #[arg(long, value_name = "CHECKPOINT")]
    pub draft: Option<PathBuf>,
    /// Tokens that the smaller model drafts at a time, 1 to 64 [default: 4]
    #[arg(long, value_name = "N", requires = "draft", value_parser = clap::value_parser!(u32).range(1..=MOST_DRAFTED as i64))]
    pub draft_tokens: Option<u32>,
}

/// Tokens that a smaller model drafts at a time, unless chosen otherwise.
const DRAFTED: u32 = 4;

/// Reads `lookup` or `lookup:K`.
fn parse_lookup(text: &str) -> Result<NonZeroUsize, String> {
    let tokens = match text.strip_prefix("lookup") {
        Some("") => Some(LOOKED_UP),
        Some(rest) => rest.strip_prefix(':').and_then(|tokens| tokens.parse().ok()),
        None => None,
    };
    tokens
        .filter(|tokens: &NonZeroUsize| tokens.get() <= MOST_DRAFTED)
        .ok_or_else(|| {
            format!("expected lookup, or lookup:K for drafts of K tokens, from 1 to {MOST_DRAFTED}, found '{text}'")
        })
}

impl SpeculationArgs {
    /// Whether there are drafts at all.
    pub fn is_asked_for(&self) -> bool {
        self.speculate.is_some() || self.draft.is_some()
    }

    /// Loads what drafts, kept as the model's own weights are and where it runs.
    ///
    /// # Errors
    /// [`ProgramError`] for a draft model that cannot be loaded, and for the length of its drafts without one.
    pub fn load(&self, model: &ModelArgs) -> Result<Drafts, ProgramError> {
        if let (None, Some(tokens)) = (&self.draft, self.draft_tokens) {
            // Clap asks for no --draft beside --speculate, which excludes it.
            let expected =
                "--draft CHECKPOINT, whose drafts are that long; --speculate lookup:K for those of the text";
            return Err(ProgramError::usage(
                "--draft-tokens",
                expected,
                tokens.to_string(),
            ));
        }
        let tokens = usize::try_from(self.draft_tokens.unwrap_or(DRAFTED)).unwrap_or(MOST_DRAFTED);
        let tokens = NonZeroUsize::new(tokens).unwrap_or(NonZeroUsize::MIN);
        Ok(match (&self.draft, self.speculate) {
            (Some(checkpoint), _) => {
                let mut smaller = model.clone();
                smaller.checkpoint = Some(checkpoint.clone());
                // The tokenizer that was named is of both.
                Drafts::Model(Box::new(smaller.load()?), tokens)
            }
            (None, Some(tokens)) => Drafts::Lookup(tokens),
            (None, None) => Drafts::None,
        })
    }
}

/// A drafter, and the most tokens of a draft.
type Bounded<'a> = (Box<dyn Drafter + 'a>, NonZeroUsize);

/// What makes drafts, and the most tokens of each.
#[derive(Debug)]
pub enum Drafts {
    /// No drafts: tokens are decoded one by one.
    None,
    /// The text, so many tokens at a time.
    Lookup(NonZeroUsize),
    /// A model, so many tokens at a time.
    Model(Box<Model>, NonZeroUsize),
}

impl Drafts {
    /// The drafter for `model`, and the most tokens of a draft.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for a draft model of another vocabulary.
    pub fn drafter(&self, model: &Model) -> Result<Option<Bounded<'_>>, ProgramError> {
        Ok(match self {
            Self::None => None,
            Self::Lookup(tokens) => Some((Box::new(Lookup::default()), *tokens)),
            Self::Model(smaller, tokens) => {
                let drafter = DraftModel::new(smaller, model).map_err(|error| match error {
                    ModelError::Draft { expected, found } => ProgramError::usage("--draft", expected, found),
                    other => other.into(),
                })?;
                Some((Box::new(drafter), *tokens))
            }
        })
    }
}

/// What came of drafts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Outcome {
    /// Calls of the model.
    calls: usize,
    /// Number of tokens that were drafted.
    drafted: usize,
    /// Number of drafted tokens that the model chose too.
    accepted: usize,
    /// Time of a generated token, drafts included, in seconds.
    seconds_per_token: f64,
    /// Time of a token decoded by itself, in seconds, measured on a few tokens afterwards.
    plain_seconds_per_token: f64,
    /// `plain_seconds_per_token` over `seconds_per_token`.
    speed_up: f64,
}

impl Outcome {
    /// Holds `tokens` tokens that took so many seconds against tokens that are decoded one by one from `state`, which is used up.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub fn measure(
        acceptance: Acceptance,
        (tokens, seconds): (usize, f64),
        model: &Model,
        mut state: ModelState,
        last: u32,
    ) -> Result<Self, ProgramError> {
        let begin = Instant::now();
        for _ in 0..COMPARED {
            model.logits(&[last], &mut state, Logits::Last)?.into_data();
        }
        let plain = begin.elapsed().as_secs_f64() / COMPARED as f64;
        let seconds_per_token = seconds / tokens.max(1) as f64;
        Ok(Self {
            calls: acceptance.calls,
            drafted: acceptance.drafted,
            accepted: acceptance.accepted,
            seconds_per_token,
            plain_seconds_per_token: plain,
            speed_up: plain / seconds_per_token,
        })
    }

    /// Says so in a line.
    pub fn tell(&self, context: &Context) {
        context.remark(format_args!(
            "{} of {} drafted tokens accepted, in {} calls; {:.2} times as fast as {COMPARED} tokens decoded one by one afterwards",
            self.accepted, self.drafted, self.calls, self.speed_up
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_up_is_written_with_or_without_a_number_of_tokens() {
        assert_eq!(parse_lookup("lookup"), Ok(LOOKED_UP));
        assert_eq!(parse_lookup("lookup:3").map(NonZeroUsize::get), Ok(3));
        for text in [
            "",
            "look",
            "lookup:",
            "lookup:0",
            "lookup:65",
            "lookup3",
            "lookup:x",
        ] {
            let error = parse_lookup(text).unwrap_err();
            assert!(error.contains("lookup:K") && error.contains(text), "{error}");
        }
    }
}
