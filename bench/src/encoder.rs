//! How a model with an encoder reads a prompt, as options of the command line.

use std::fmt;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use spillway_models::{Model, PromptReading, ShortPrompt};
use spillway_ssm_core::Padding;

use crate::error::ProgramError;

/// What of a prompt is read both ways.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct EncoderArgs {
    /// Tokens at the beginning of the prompt that a model with an encoder (JRT-RNN) reads both ways; 0 for none, which makes it causal
    /// [default: as many as it was trained to]
    #[arg(long, value_name = "TOKENS")]
    pub encoder_length: Option<usize>,
    /// How a prompt that is shorter than the encoder is read [default: left-pad]
    #[arg(long, value_enum, value_name = "HOW")]
    pub short_prompt: Option<Short>,
    /// The token that pads a short prompt [default: the tokenizer's for a space]
    #[arg(long, value_name = "ID")]
    pub pad_id: Option<u32>,
}

/// How a prompt that is shorter than the encoder is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Short {
    /// As it is: the encoder reads fewer tokens
    AsIs,
    /// Behind padding, which counts in the sums as in the published model
    #[default]
    LeftPad,
    /// Behind padding that counts for nothing
    LeftPadExact,
    /// Two times, one after the other
    ReadTwice,
    /// As it is, and all of it again with every new token
    Iterate,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsIs => "as-is",
            Self::LeftPad => "left-pad",
            Self::LeftPadExact => "left-pad-exact",
            Self::ReadTwice => "read-twice",
            Self::Iterate => "iterate",
        })
    }
}

impl EncoderArgs {
    /// How `model` reads a prompt; `None` for a model without an encoder.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for options that such a model has no use for, and for padding without a token that pads.
    pub fn reading(&self, model: &Model) -> Result<Option<PromptReading>, ProgramError> {
        if model.encoder_length() == 0 {
            let given = [
                ("--encoder-length", self.encoder_length.is_some()),
                ("--short-prompt", self.short_prompt.is_some()),
                ("--pad-id", self.pad_id.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                None => Ok(None),
                Some((option, _)) => {
                    let found = format!("{}, which has none", model.info().architecture);
                    Err(ProgramError::usage(
                        *option,
                        "a model with an encoder, such as jrt",
                        found,
                    ))
                }
            };
        }
        let short = match self.short_prompt.unwrap_or_default() {
            Short::AsIs => ShortPrompt::AsItIs,
            Short::LeftPad => self.padded(model, Padding::Counted)?,
            Short::LeftPadExact => self.padded(model, Padding::LeftOut)?,
            Short::ReadTwice => ShortPrompt::ReadTwice,
            Short::Iterate => ShortPrompt::Iterate,
        };
        Ok(Some(PromptReading {
            encoder_length: self.encoder_length,
            short,
        }))
    }

    fn padded(&self, model: &Model, padding: Padding) -> Result<ShortPrompt, ProgramError> {
        let vocab_size = model.info().vocab_size;
        let id = match self.pad_id {
            Some(id) if (id as usize) < vocab_size => id,
            Some(id) => {
                let expected = format!("an id below {vocab_size}");
                return Err(ProgramError::usage("--pad-id", expected, id.to_string()));
            }
            None => match model.tokenizer().encode(" ").as_deref() {
                Ok([id]) => *id,
                _ => {
                    let expected =
                        "--pad-id ID, or another --short-prompt: the tokenizer has no token for a space";
                    return Err(ProgramError::usage(
                        "--short-prompt left-pad",
                        expected,
                        "neither",
                    ));
                }
            },
        };
        Ok(ShortPrompt::LeftPad { id, padding })
    }
}

/// How a prompt of `tokens` tokens was read, in words.
pub fn described(model: &Model, reading: &PromptReading, tokens: usize) -> String {
    let encoder = reading.encoder_length(model);
    let how = match reading.short {
        _ if encoder == 0 => return "the encoder reads nothing".into(),
        _ if tokens >= encoder => return format!("the encoder reads the first {encoder} tokens"),
        ShortPrompt::AsItIs => "as it is".to_string(),
        ShortPrompt::LeftPad { id, padding } => {
            let counts = match padding {
                Padding::Counted => "which counts in the sums",
                Padding::LeftOut => "which counts for nothing",
            };
            format!("behind {} tokens {id} of padding, {counts}", encoder - tokens)
        }
        ShortPrompt::ReadTwice => "twice".to_string(),
        ShortPrompt::Iterate => "again with every new token".to_string(),
    };
    format!("the encoder of {encoder} tokens reads the {tokens} of the prompt {how}")
}
