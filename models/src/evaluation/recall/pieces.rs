//! Documents read in pieces: each piece ends in a state of its own, each state hears the question, and the one that is surest answers.
//!
//! A state of fixed size overflows when it is told more than it holds. A document of many pieces never puts more into one state
//! than a piece does, or than was read up to there:
//!
//! | text | the state of piece i has read |
//! |---|---|
//! | `oprm=L` | what stands before the document, and piece i alone |
//! | `cached=L` | what stands before the document, and pieces 1 to i: states kept in passing, at the price of one reading |
//!
//! Each then reads what the answer follows upon. The answer is that of the state whose distribution p of the first token has the least
//! entropy −Σ p ln p; of equals, of the earliest. Nothing is trained.
//!
//! Sources: Ben-Kish et al., *Overflow Prevention Enhances Long-Context Recurrent LLMs* (2505.07793), for the first, with entropy as
//! the criterion; *Memory Caching* (2602.24281) for states kept in passing, which is trained there to read them all.

use std::fmt;
use std::str::FromStr;

/// How a document is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pieces {
    /// Tokens of a piece, at least 1.
    pub tokens: usize,
    /// What the state of a piece has read.
    pub read: Read,
}

/// What the state of a piece has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Read {
    /// What stands before the document, and that piece alone (`oprm`).
    Alone,
    /// Everything up to the end of that piece (`cached`).
    Everything,
}

impl Read {
    fn name(self) -> &'static str {
        match self {
            Self::Alone => "oprm",
            Self::Everything => "cached",
        }
    }
}

impl fmt::Display for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.read.name(), self.tokens)
    }
}

impl FromStr for Pieces {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (name, tokens) = text.split_once('=').ok_or(())?;
        let read = [Read::Alone, Read::Everything]
            .into_iter()
            .find(|read| read.name() == name)
            .ok_or(())?;
        let tokens = tokens.parse().ok().filter(|tokens| *tokens > 0).ok_or(())?;
        Ok(Self { tokens, read })
    }
}
