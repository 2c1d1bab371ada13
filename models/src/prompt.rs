//! How a model with an encoder reads a prompt.
//!
//! A model of prefix linear attention was trained on texts whose first M tokens its encoder reads both ways. Of a prompt of M tokens
//! or more the first M are the prefix, and the rest is causal. For a shorter one there are four ways ([`ShortPrompt`]); the published
//! evaluations pad, and gain most by reading twice (Arora et al., *Just read twice*, 2407.05483, table 4).
//!
//! A model without an encoder reads every prompt as it is.

use burn::tensor::Tensor;
use spillway_ssm_core::{Padding, Prefix, PrefixMask};

use crate::error::ModelError;
use crate::model::{Logits, Model};
use crate::state::ModelState;

/// How a prompt shorter than the encoder is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortPrompt {
    /// As it is: all of it is the prefix.
    #[default]
    AsItIs,
    /// Behind padding, up to the encoder's length. Convolutions and windows of attention read the padding as tokens, as those
    /// of the published model do.
    LeftPad {
        /// The token that pads; 220, a space, in the published evaluations.
        id: u32,
        /// What the encoder makes of it.
        padding: Padding,
    },
    /// The prompt twice, one after the other, cut off in front where that is longer than the encoder.
    ReadTwice,
    /// As it is, and all of it again with every token that is generated, as long as the encoder has room.
    Iterate,
}

/// How a model with an encoder reads a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptReading {
    /// Tokens that the encoder reads; `None` for as many as it was trained to, and 0 for none, which makes the model causal.
    pub encoder_length: Option<usize>,
    /// How a prompt of fewer tokens is read.
    pub short: ShortPrompt,
}

impl PromptReading {
    /// The encoder's length in `model`.
    pub fn encoder_length(&self, model: &Model) -> usize {
        let trained = model.encoder_length();
        match self.encoder_length {
            // A length asks for an encoder, and does not make one.
            Some(length) if trained > 0 => length,
            _ => trained,
        }
    }

    /// What the model is to take in for `prompt`, and which of it is a prefix.
    fn tokens(&self, model: &Model, prompt: &[u32]) -> Result<(Vec<u32>, Option<Prefix>), ModelError> {
        let encoder = self.encoder_length(model);
        if encoder == 0 || prompt.is_empty() {
            return Ok((prompt.to_vec(), None));
        }
        if prompt.len() >= encoder {
            return Ok((prompt.to_vec(), Some(Prefix::new(encoder))));
        }
        match self.short {
            ShortPrompt::AsItIs | ShortPrompt::Iterate => {
                Ok((prompt.to_vec(), Some(Prefix::new(prompt.len()))))
            }
            ShortPrompt::LeftPad { id, padding } => {
                let pads = encoder - prompt.len();
                let keep: Vec<bool> = (0..encoder).map(|token| token >= pads).collect();
                let mask = PrefixMask::new(keep, encoder, padding)?;
                let tokens = std::iter::repeat_n(id, pads).chain(prompt.iter().copied());
                Ok((tokens.collect(), Some(Prefix::masked(mask))))
            }
            ShortPrompt::ReadTwice => {
                let twice = [prompt, prompt].concat();
                let tokens = twice[twice.len().saturating_sub(encoder)..].to_vec();
                let prefix = Prefix::new(tokens.len());
                Ok((tokens, Some(prefix)))
            }
        }
    }
}

impl Model {
    /// Tokens of a prompt that the model's encoder was trained to read both ways; 0 for a model without one.
    pub fn encoder_length(&self) -> usize {
        self.network().encoder_length()
    }

    /// Lets the first of `tokens` tokens to come be the prefix, as many as the encoder was trained to read. For a model without an
    /// encoder it does nothing.
    pub fn begin_prompt(&self, tokens: usize, state: &mut ModelState) {
        state.read_both_ways(Prefix::new(self.encoder_length().min(tokens)));
    }

    /// Takes in a prompt from `state` on, which is a model's before its first token, and returns the logits after its last token,
    /// `[1, vocab_size]`.
    ///
    /// # Errors
    /// [`ModelError::Option`] for an encoder of more tokens than can be counted on, otherwise as [`Model::logits`].
    pub fn read_prompt(
        &self,
        prompt: &[u32],
        reading: &PromptReading,
        state: &mut ModelState,
    ) -> Result<Tensor<2>, ModelError> {
        if let Some(length) = reading.encoder_length.filter(|length| *length > MOST_ENCODED) {
            return Err(ModelError::Option {
                option: "encoder length",
                expected: "at most 1048576 tokens",
                found: length.to_string(),
            });
        }
        let (tokens, prefix) = reading.tokens(self, prompt)?;
        if let Some(prefix) = prefix {
            state.read_both_ways(prefix);
        }
        self.logits(&tokens, state, Logits::Last)
    }
}

/// The longest encoder: what it reads goes through every layer at once.
const MOST_ENCODED: usize = 1 << 20;
