//! How the tokens of a recurrence are taken.

/// How the tokens of a recurrence are taken. All ways give the same result up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunking {
    /// Chunked or token by token, whichever is faster for the shape; one token is a step.
    #[default]
    Fastest,
    /// Token by token: a step of the recurrence for each.
    Sequential,
    /// Matrix products inside chunks of this many tokens.
    Chunked {
        /// Tokens in a chunk.
        chunk_size: usize,
    },
    /// Elements of chunks of this many tokens, combined by the monoid law; each chunk is read out with matrix products.
    Scan {
        /// Tokens in a chunk.
        chunk_size: usize,
    },
}
