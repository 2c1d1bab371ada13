//! Many conversations at once: an engine that decodes sequences of any lengths side by side, and goes on from states that it kept.
//!
//! | module | what is in it |
//! |---|---|
//! | [`engine`] | the loop: takes jobs in, reads prompts piece by piece, decodes all sequences by one token at a time |
//! | [`job`] | what is asked, and what comes back |
//! | [`metrics`] | what the engine has done and is doing |
//! | `row` | one sequence of the batch |
//!
//! States are the rows of a batch. A job that comes joins it after its prompt was read, one that ends leaves it, and others are not held up:
//! between two tokens of theirs at most one piece of a new prompt is read. The engine knows nothing of networks; whoever hands jobs in
//! chooses where their events go.

pub mod engine;
pub mod job;
pub mod metrics;
mod row;

pub use engine::{Engine, EngineOptions, Refused, Submitter};
pub use job::{ChosenToken, Ending, Event, Job};
pub use metrics::Metrics;
