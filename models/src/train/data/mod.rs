//! Where batches come from: texts, files of tokens, and synthetic tasks.
//!
//! | `kind` | what | options (with their defaults) |
//! |---|---|---|
//! | `text` | files and folders of text, or of JSON lines with a field `text`, read with the model's tokenizer | `paths`, `extensions` (txt, text, md, jsonl), `separator` and `end_of_text` (none), `order` (`shuffled` or `documents`), `held_out` (0) and `split` (`training` or `held-out`) |
//! | `audio` | WAV files and folders, a code for each sample | `paths`, `sample_rate`, `codec` (`law`: mu-law or linear, `bits`: 8, `level`: clip or as-stored), `channels` (one or mean), `resample` (false), `order`, `held_out`, `split` |
//! | `tokens` | a file that `spillway tokens` made, mapped | `path`, `order`, `held_out`, `split`, `verify` (true) |
//! | `mix` | several sources, one drawn for every row of a batch | `parts`, each a `weight` and a `source` |
//! | `repeat` | one token over and over | `token` |
//! | `repeated-header` | texts that end with the rare string that they began with | `length`, `marker`, `source` |
//! | `questions` | documents as `spillway recall` generates them, and questions about them | `prompt` (none), `tasks` (fda), `facts` (3 to 16), `forms` (d-q), `passkeys` (0, a share), `other_weight` (0.1) |
//! | `copy` | a random block and its copy | `vocab_size` (64) |
//! | `mqar` | multi-query associative recall | `pairs`, `vocab_size` (8192), `power` (0.01), `random_filler` (true), `passes` (1) |
//! | `forgetting-mqar` | the same, where some keys get another value before they are asked | `pairs`, `updates` (4), and those of `mqar` |
//! | `compositional-mqar` | the same by two keys at once | `side`, and those of `mqar` but `pairs` |
//! | `set-disjointness` | two lists: what is in both? | `sizes`, a list of pairs, `vocab_size` (2048) |
//! | `pairs-in-filler` | pairs of keys and values hidden in filler, then each key once more | `pairs` (numbers, one drawn for each sequence), `keys` (64), `values` (64), `other_weight` (0.1) |
//! | `passkey-lite` | five digits hidden in filler | `other_weight` (0.1) |
//! | `induction-heads` | the token after the marker | `vocab_size` (16) |
//!
//! A source is a function of its configuration, its seed and its position: which sequence comes where is computed, not
//! remembered, so that its position is a few counters and going to one costs nothing.
//!
//! ```
//! use std::path::Path;
//! use spillway_models::Tokenizer;
//! use spillway_models::train::data::DataConfig;
//!
//! let config: DataConfig = toml::from_str(r#"
//!     kind = "mix"
//!     parts = [
//!         { weight = 63, source = { kind = "copy", vocab_size = 128 } },
//!         { weight = 1, source = { kind = "repeat", token = "\n" } },
//!     ]
//! "#)?;
//! let mut source = config.open(Path::new("."), 16, 64, &Tokenizer::bytes(), 1)?;
//! source.next()?;
//! let position = source.position();
//! let batch = source.next()?;
//! let mut resumed = config.open(Path::new("."), 16, 64, &Tokenizer::bytes(), 1)?;
//! resumed.seek(&position)?;
//! assert_eq!(resumed.next()?, batch);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod audio;
mod config;
mod corpus;
mod error;
mod files;
mod lines;
mod mixture;
pub(super) mod permutation;
mod questions;
pub(super) mod seed;
mod stream;
mod tasks;
mod text;
mod token_file;
mod windows;

pub use audio::AudioConfig;
pub use config::{DataConfig, MixConfig, MixPart, RepeatConfig, RepeatedHeaderConfig, TokensConfig};
pub use corpus::Split;
pub use error::DataError;
pub use lines::plain_text;
pub use questions::QuestionsConfig;
pub use stream::{Source, batches};
pub use tasks::{
    CompositionalMqar, CopyTask, Example, ForgettingMqar, InductionHeads, Mqar, PairsInFiller, PasskeyLite,
    PasskeyPrompt, SetDisjointness, Task, examples,
};
pub use text::{Documents, TextConfig, Token, default_extensions};
pub use token_file::{TokenFile, TokenHeader, TokenWriter};
pub use windows::Order;
