//! What is asked of the engine, and what comes back.

use crate::generation::{Finish, Sampling};
use crate::state::Mark;

/// A prompt to continue.
pub struct Job {
    /// The ids from the first token on, those of [`Job::from`] included.
    pub ids: Vec<u32>,
    /// A state that has read a beginning of the ids, to go on from where no longer one is known.
    pub from: Option<Mark>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens after which the text ends; 0 reads the prompt and no more.
    pub max_tokens: usize,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// With the log probability of every chosen token, and of as many of the likeliest.
    pub logprobs: Option<usize>,
    /// Takes the events in order; false when nobody wants more.
    pub events: Box<dyn FnMut(Event) -> bool + Send>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            ids,
            sampling,
            max_tokens,
            stop,
            ..
        } = self;
        f.debug_struct("Job")
            .field("ids", &ids.len())
            .field("sampling", sampling)
            .field("max_tokens", max_tokens)
            .field("stop", stop)
            .finish_non_exhaustive()
    }
}

/// What happens to a job.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt has been read.
    Read {
        /// Number of tokens in the prompt.
        prompt_tokens: usize,
        /// Tokens of the prompt that were read for this job: all but those that a kept state had read.
        read_tokens: usize,
    },
    /// More of the text.
    Text {
        /// In whole characters; empty while what was chosen may become a stop string.
        text: String,
        /// The tokens chosen since the last event, where [`Job::logprobs`] are wanted.
        tokens: Vec<ChosenToken>,
    },
    /// The end. Nothing comes after it.
    Finished(Ending),
    /// The end of a job that cannot be done, and why. Nothing comes after it.
    Failed(String),
}

/// How a job ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Why the generation ended.
    pub finish: Finish,
    /// Number of tokens generated for the job.
    pub new_tokens: usize,
    /// The state, and the ids that it has read: all but a last one that was chosen and not read.
    pub mark: Mark,
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct ChosenToken {
    /// Id of the token.
    pub id: u32,
    /// ln of its probability, before temperature and penalties.
    pub logprob: f32,
    /// The likeliest, first the likeliest, as (id, ln p).
    pub top: Vec<(u32, f32)>,
}
