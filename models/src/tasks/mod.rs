//! Tasks that are not next-token prediction: what is read, what is to be answered, and how an answer is judged.
//!
//! | `kind` | read | answered | by |
//! |---|---|---|---|
//! | [`delay`](Delay) | a band-limited signal | the same signal some steps ago, at every step | error |
//! | [`reconstruction`](Reconstruction) | a band-limited signal | its last stretch, at the end | error |
//! | [`copying`](Copying) | tokens, a pause, markers | the tokens, at the markers | accuracy |
//! | [`selective-copying`](SelectiveCopying) | tokens at random places, markers | the tokens, at the markers | accuracy |
//! | [`continuous-mqar`](ContinuousMqar) | vectors: pairs of keys and values, then keys | which value, at the keys | accuracy |
//! | [`adding`](Adding) | values, two of them marked | the sum of the two, at the end | error |
//! | [`digits`](Digits) | an image, pixel by pixel, in one of several orders | the digit | accuracy |
//! | [`digits-with-gap`](DigitsWithGap) | the same, and noise after it | the digit, at the end | accuracy |
//! | [`listops`](ListOps) | a nested expression | its value | accuracy |
//! | [`pathfinder`](Pathfinder) | an image of dashed curves, pixel by pixel | whether two discs lie on one curve | accuracy |
//! | [`text`](TextClasses) | the bytes of a text | its class | accuracy |
//! | [`masked-tokens`](MaskedTokens) | the bytes of a text, some of them hidden | the hidden ones | accuracy |
//! | [`forecasting`](Forecasting) | sinusoids or chirps | the signal some steps ahead, at every step | error |
//! | [`missing-samples`](MissingSamples) | the same with gaps | what is missing | error |
//!
//! The error is the mean square over the variance of what was to be answered, so that the best constant answer has error 1 whatever
//! the task's scale. An example is a function of the task, its length, and a generator of random numbers; nothing is remembered.
//!
//! ```
//! use rand::SeedableRng;
//! use rand::rngs::StdRng;
//! use spillway_models::tasks::{Item, SelectiveCopying, Sequence, Task};
//!
//! let task = SelectiveCopying { tokens: 4, vocab_size: 8 };
//! task.check(16)?;
//! let example = task.example(16, Item::training(0), &mut StdRng::seed_from_u64(1));
//! let Sequence::Tokens(tokens) = &example.inputs else { panic!() };
//! assert!(tokens[12..].iter().all(|token| *token == 7));
//! # Ok::<(), spillway_models::tasks::TaskError>(())
//! ```

mod adding;
mod config;
mod continuous_mqar;
mod copying;
mod delay;
mod digits;
mod digits_with_gap;
mod error;
mod forecasting;
mod images;
mod listops;
mod masked_tokens;
mod missing_samples;
mod pathfinder;
mod reconstruction;
mod selective_copying;
mod text;
mod waves;
mod white_signal;

use std::fmt;

use rand::rngs::StdRng;

pub use adding::Adding;
pub use config::TaskData;
pub use continuous_mqar::ContinuousMqar;
pub use copying::Copying;
pub use delay::Delay;
pub use digits::{Digits, PixelOrder, PixelSequences};
pub use digits_with_gap::{DigitsWithGap, GappedSequences};
pub use error::TaskError;
pub use forecasting::Forecasting;
pub use images::{ImageSource, Images};
pub use listops::ListOps;
pub use masked_tokens::{MaskedBytes, MaskedTokens};
pub use missing_samples::MissingSamples;
pub use pathfinder::Pathfinder;
pub use reconstruction::Reconstruction;
pub use selective_copying::SelectiveCopying;
pub use text::{LabelledTexts, TextClasses};
pub use waves::Waves;
pub use white_signal::white_signal;

/// What a model reads at every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// One token, whose id is below this number.
    Tokens(usize),
    /// This many real values.
    Values(usize),
}

/// What a model answers, once or at every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One of so many classes; judged by accuracy.
    Class(usize),
    /// So many real values; judged by their mean square error over their variance.
    Values(usize),
}

/// When the task asks for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Once, of the whole sequence.
    AtTheEnd,
    /// Once, from the last step alone: what comes earlier has to be remembered.
    AtTheLastStep,
    /// At every step that has a weight.
    AtEveryStep,
}

/// What a task asks of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What the model reads at every step.
    pub input: Input,
    /// What the model answers.
    pub answer: Answer,
    /// When the model answers: once, or at every step.
    pub when: When,
}

/// What is read, step by step.
#[derive(Clone, Debug, PartialEq)]
pub enum Sequence {
    /// Token ids, `[length]`.
    Tokens(Vec<u32>),
    /// Real values, `[length, width]`.
    Values(Vec<f32>),
}

/// The right answers: one, or one for every step.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// Indices of the right classes, `[1 or length]`.
    Classes(Vec<u32>),
    /// The right real values, `[1 or length, width]`.
    Values(Vec<f32>),
}

/// One sequence and its right answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The sequence that the model reads.
    pub inputs: Sequence,
    /// The right answers to the sequence.
    pub answers: Answers,
    /// Weight of each answer, `[1 or length]`; an answer of weight 0 does not count.
    pub weights: Vec<f32>,
    /// Steps before the padding at the end, at least 1.
    pub steps: usize,
}

impl Example {
    /// A sequence of which every step counts, with one answer.
    pub(crate) fn once(inputs: Sequence, answers: Answers, steps: usize) -> Self {
        Self {
            inputs,
            answers,
            weights: vec![1.0],
            steps,
        }
    }
}

/// Part of a task's examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Examples that a model is trained on.
    Training,
    /// Examples that are held out of the training.
    HeldOut,
}

/// Which example of a task: its part, and its number in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Part of the examples that it belongs to.
    pub part: Split,
    /// Number of the example in its part, from 0; below [`Task::count`] where that is a number.
    pub index: u64,
}

impl Item {
    /// An example of the training part.
    pub fn training(index: u64) -> Self {
        let part = Split::Training;
        Self { part, index }
    }

    /// An example of the part that is held out.
    pub fn held_out(index: u64) -> Self {
        let part = Split::HeldOut;
        Self { part, index }
    }
}

/// Something that examples can be had of.
pub trait Task: fmt::Debug + Send + Sync {
    /// Whether there are examples of `length` steps.
    ///
    /// # Errors
    /// [`TaskError::Option`] for another length than there can be, or for an option of the task that is out of range.
    fn check(&self, length: usize) -> Result<(), TaskError>;

    /// What the task asks of a model: what is read, what is answered, and when.
    fn shape(&self) -> Shape;

    /// How many different examples a part has; `None` where they are drawn without end.
    fn count(&self, _part: Split) -> Option<u64> {
        None
    }

    /// An example of `length` steps, a length that [`Task::check`] accepts. Tasks whose examples are drawn go by `rng` alone.
    fn example(&self, length: usize, item: Item, rng: &mut StdRng) -> Example;
}

/// Refuses a length that is too short.
pub(crate) fn expect_length(length: usize, least: usize, what: &str) -> Result<(), TaskError> {
    match length >= least {
        true => Ok(()),
        false => {
            let expected = format!("at least {least} steps for {what}");
            Err(TaskError::option("length", expected, length))
        }
    }
}

/// Refuses any length but one.
pub(crate) fn expect_this_length(length: usize, wanted: usize, what: &str) -> Result<(), TaskError> {
    match length == wanted {
        true => Ok(()),
        false => Err(TaskError::option("length", format!("{wanted}, {what}"), length)),
    }
}
