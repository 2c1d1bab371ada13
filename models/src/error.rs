//! Everything that can go wrong with a model in use.

use std::path::PathBuf;

use thiserror::Error;

use crate::budget::BudgetError;
use crate::checkpoint::CheckpointError;
use crate::output::OutputError;
use crate::parallel::ParallelError;
use crate::tokenizer::TokenizerError;

/// Why a model cannot be loaded or run.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The files are wrong.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer is missing or wrong.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// There is not as much memory.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// A layer, or an intervention in it, cannot go on.
    #[error(transparent)]
    Layer(#[from] spillway_ssm_core::Error),
    /// An intervention cannot work with this model.
    #[error(transparent)]
    Incompatible(#[from] spillway_ssm_core::Incompatible),
    /// An intervention on attention, in a model without any that reads all tokens.
    #[error(
        "{intervention} acts on attention over all earlier tokens and no layer of this model has it; use what acts on recurrent states \
         instead, such as reset:N"
    )]
    NoAttention {
        /// The intervention's text form.
        intervention: String,
    },
    /// A model whose layers see later tokens, asked what comes next.
    #[error(
        "layer {layer} is bidirectional and has seen the next token: such a model answers tasks about whole sequences, and \
         foretells nothing (train it with a table [task])"
    )]
    SeesLater {
        /// Index of the block.
        layer: usize,
    },
    /// A model that foretells the next token, asked for hidden ones.
    #[error(
        "no layer sees later tokens: such a model foretells the next token, and has no answer for hidden ones where they stand (ask \
         it for logits or losses)"
    )]
    SeesNoLater,
    /// A weight cannot be packed.
    #[error(transparent)]
    Packing(#[from] spillway_kernel_dsl::linear::LinearError),
    /// An id has no row in the embedding.
    #[error("token {index}: expected an id below the vocabulary size {vocab_size}, found {id}")]
    Id {
        /// Position in the ids given.
        index: usize,
        /// The id that has no row.
        id: u32,
        /// Number of ids that exist; the largest is one less.
        vocab_size: usize,
    },
    /// There is nothing to continue.
    #[error("empty prompt: expected at least one token")]
    EmptyPrompt,
    /// Ids do not divide into sequences, or targets not into ids.
    #[error("{what}: expected {expected}, found {found}")]
    Count {
        /// What was counted: "ids", "targets".
        what: &'static str,
        /// Number that was expected, in words.
        expected: String,
        /// Number that was found.
        found: usize,
    },
    /// A state of another model.
    #[error("state: {what}: this model has {expected}, found {found}")]
    State {
        /// What of the state does not fit, as a phrase: "number of layers".
        what: &'static str,
        /// What the model has or needs.
        expected: String,
        /// What the state has.
        found: String,
    },
    /// A saved state that cannot be continued with this model and chain.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    SavedState {
        /// Path of the file that holds the saved state.
        path: PathBuf,
        /// Name of the entry in the file that does not fit.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What the file has in the entry, in words.
        found: String,
    },
    /// Sequences that do not go into one batch.
    #[error("sequences of one batch: {what}: expected {expected}, found {found}")]
    Batch {
        /// What of the sequences does not fit, as a phrase: "lengths".
        what: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was found in its place, in words.
        found: String,
    },
    /// A state that is not remembered.
    #[error(
        "rollback by {tokens} tokens from position {position}: expected a state remembered then, found those of positions {kept}"
    )]
    Rollback {
        /// Number of tokens that were to be taken back.
        tokens: u64,
        /// Position to go back from: tokens that the state has seen.
        position: u64,
        /// The positions that are remembered.
        kept: String,
    },
    /// A draft model that reads other ids than the model that it drafts for.
    #[error("draft model: expected {expected}, as the model has it, found {found}")]
    Draft {
        /// What the model has.
        expected: String,
        /// What the draft model has.
        found: String,
    },
    /// A cache of prefixes cannot be used.
    #[error(transparent)]
    PrefixCache(#[from] PrefixCacheError),
    /// Ranks cannot go on together.
    #[error(transparent)]
    Parallel(#[from] ParallelError),
    /// The system starts no threads to share the work among.
    #[error("cannot start threads: {0}")]
    Threads(String),
    /// A logit is NaN.
    #[error("logit of id {id} is NaN: expected numbers; the state has left the range of f32")]
    NotANumber {
        /// The id whose logit is NaN.
        id: usize,
    },
    /// A sampling option is out of range.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Name of the option that is out of range.
        option: &'static str,
        /// What would have been accepted.
        expected: &'static str,
        /// Value that was given for the option.
        found: String,
    },
}

impl From<OutputError> for ModelError {
    fn from(error: OutputError) -> Self {
        CheckpointError::from(error).into()
    }
}

/// Why an entry of a prefix cache, or the cache, cannot be used.
#[derive(Debug, Error)]
pub enum PrefixCacheError {
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    File(#[from] CheckpointError),
    /// A file of another kind.
    #[error("{}: expected an entry of a prefix cache, which starts with \"SPILLPFX\", found {found}", path.display())]
    NotAnEntry {
        /// Path of the file that is no entry.
        path: PathBuf,
        /// First bytes of the file, at most eight, escaped and in quotation marks.
        found: String,
    },
    /// An entry of another version of the form.
    #[error("{}: expected version {expected} of the file form, found {found}", path.display())]
    Version {
        /// Path of the entry's file.
        path: PathBuf,
        /// Version of the file form that is read.
        expected: u32,
        /// Version that the file names.
        found: u32,
    },
    /// An entry that has changed since it was written.
    #[error("{}: expected contents of checksum {expected}, found {found}: the file is damaged or cut off", path.display())]
    Damaged {
        /// Path of the damaged file.
        path: PathBuf,
        /// Checksum that the file names, or what a whole file has.
        expected: String,
        /// Checksum of what the file holds, or its size in bytes where it is cut off.
        found: String,
    },
    /// An entry for something else.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    Foreign {
        /// Path of the entry's file.
        path: PathBuf,
        /// What of the entry differs, as a phrase: "tokens".
        what: &'static str,
        /// What was looked for.
        expected: String,
        /// What the entry is for.
        found: String,
    },
    /// The state in an entry does not fit the model, or cannot be written.
    #[error("{}: {source}", path.display())]
    State {
        /// Path of the entry's file.
        path: PathBuf,
        /// Why the state does not fit, or cannot be written.
        source: Box<ModelError>,
    },
    /// An option of the cache is out of range.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Name of the option that is out of range.
        option: &'static str,
        /// What would have been accepted.
        expected: &'static str,
        /// Value that was given for the option.
        found: String,
    },
}

impl From<OutputError> for PrefixCacheError {
    fn from(error: OutputError) -> Self {
        CheckpointError::from(error).into()
    }
}
