//! Synthetic tasks: sequences without an end whose right answers are known.

mod compositional_mqar;
mod copy;
mod forgetting_mqar;
mod induction_heads;
mod mqar;
mod pairs_in_filler;
mod passkey_lite;
mod set_disjointness;

use rand::rngs::StdRng;

pub use compositional_mqar::CompositionalMqar;
pub use copy::CopyTask;
pub use forgetting_mqar::ForgettingMqar;
pub use induction_heads::InductionHeads;
pub use mqar::Mqar;
pub use pairs_in_filler::PairsInFiller;
pub use passkey_lite::{PasskeyLite, PasskeyPrompt};
pub use set_disjointness::SetDisjointness;

use super::error::DataError;
use super::seed::generator;
use super::stream::{Row, SequenceNumber, Sequences};

/// One sequence of a task, all three lists of the same length.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Ids that the model reads.
    pub ids: Vec<u32>,
    /// What is to be predicted after each token.
    pub targets: Vec<u32>,
    /// Weights of the targets in the loss.
    pub weights: Vec<f32>,
}

impl Example {
    /// The sequence in which every token but the first is the target of the one before it; one weight per target.
    fn next_token(tokens: &[u32], weights: Vec<f32>) -> Self {
        let (ids, targets) = match tokens {
            [] => (&[][..], &[][..]),
            [ids @ .., _] => (ids, &tokens[1..]),
        };
        Self {
            ids: ids.to_vec(),
            targets: targets.to_vec(),
            weights,
        }
    }
}

/// Something that sequences of any length can be drawn of.
pub trait Task: Send {
    /// Whether there are sequences of `time` tokens.
    ///
    /// # Errors
    /// [`DataError::Option`] for a length that is too short, or for an option of the task that is out of range.
    fn check(&self, time: usize) -> Result<(), DataError>;

    /// A sequence of `time` tokens, a length that [`Task::check`] accepts.
    fn example(&self, time: usize, rng: &mut StdRng) -> Example;

    /// All ids are below it.
    fn vocab_size(&self) -> usize;
}

/// The sequences of `time` tokens of a task, without an end; always the same ones for a seed.
///
/// # Errors
/// As [`Task::check`].
pub fn examples<T: Task>(
    task: T,
    time: usize,
    seed: u64,
) -> Result<impl Iterator<Item = Example>, DataError> {
    task.check(time)?;
    Ok((0..).map(move |index| task.example(time, &mut generator(seed, index, 0))))
}

/// A task as a part of a stream.
pub(super) struct Drawn<T>(pub(super) T, pub(super) u64);

impl<T: Task> Sequences for Drawn<T> {
    fn fill(&self, sequence: SequenceNumber, row: &mut Row<'_>) -> Result<bool, DataError> {
        let Self(task, seed) = self;
        let example = task.example(row.ids.len(), &mut generator(*seed, sequence.index(), 0));
        row.ids.copy_from_slice(&example.ids);
        row.targets.copy_from_slice(&example.targets);
        row.weights.copy_from_slice(&example.weights);
        Ok(false)
    }

    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn is_weighted(&self) -> bool {
        true
    }
}

/// A number of tokens that is large enough, or the error that says how many it takes.
fn expect_time(time: usize, least: usize, what: &str) -> Result<(), DataError> {
    match time >= least {
        true => Ok(()),
        false => Err(DataError::option(
            "time",
            format!("at least {least} tokens for {what}"),
            time,
        )),
    }
}
