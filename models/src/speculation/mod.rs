//! Continuing a text by drafts: something cheap guesses the next k tokens, and the model reads all of them in one call.
//!
//! A token costs a pass over the weights, and so do k + 1 tokens in one call, as long as memory is slower than arithmetic. The logits after
//! token i of a call say what the model would have chosen there: the draft is right up to the first place where another token is chosen.
//! What was wrong is taken back ([`Rewind`]), and what was right need not be computed again.
//!
//! The choice at every place is made as without drafts, by the same sampler from the logits after the same tokens, and a draft token
//! counts where it is the one that was chosen. So the distribution of the text does not depend on the drafts, whatever they are; and with
//! one seed it is the same text, token for token, up to the rounding of longer matrix products: where the two best logits differ by less
//! than that (some 10⁻⁶ of their size), the other one may win.
//!
//! How often is a draft token x accepted? With the probability p(x) of drawing it. For drafts without chance in them, such as those of
//! look-up, that is the rule of Leviathan et al., *Fast Inference from Transformers via Speculative Decoding* (2211.17192), section 2.3. For
//! a draft model with the distribution q that rule accepts Σ min(p, q), the most that is possible. Here the draft model draws with the
//! random numbers that the model will choose with, the same point of two cumulative sums, which comes close to it where p and q are
//! alike; in exchange, a seed gives one text with and without drafts.

mod drafts;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use burn::tensor::Tensor;

use crate::error::ModelError;
use crate::generation::{Generated, Sampler, Sampling, TakenIn, continue_by};
use crate::model::{Logits, Model};
use crate::state::{ModelState, Replay, Rewind};
pub use drafts::{DraftModel, Drafter, Lookup};

/// How a text was continued by drafts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// Calls of the model. Without drafts there is one for every token but the last.
    pub calls: usize,
    /// Tokens that were drafted.
    pub drafted: usize,
    /// Number of the drafted tokens that were accepted.
    pub accepted: usize,
}

/// A model with something that makes drafts for it.
///
/// ```
/// use std::num::NonZeroUsize;
/// use std::ops::ControlFlow;
/// use spillway_models::generation::{Sampling, TakenIn};
/// use spillway_models::speculation::{Lookup, Speculation};
/// use spillway_models::{LoadOptions, Logits, Model};
/// use spillway_ssm_core::Chain;
///
/// let model = Model::shipped(&LoadOptions::default())?;
/// let prompt = model.tokenizer().encode("and the morning were the first day, and the evening and the morn")?;
/// let mut state = model.start(&Chain::default(), 1)?;
/// let logits = model.logits(&prompt, &mut state, Logits::Last)?;
/// let taken_in = TakenIn { prompt: &prompt, last: &prompt, logits };
/// let mut lookup = Lookup::default();
/// let mut speculation = Speculation::new(&model, &mut lookup, NonZeroUsize::new(4).unwrap());
/// let new = speculation
///     .continue_from(&mut state, taken_in, &Sampling::greedy(), 8, &[], |_| ControlFlow::Continue(()))?;
/// assert_eq!(new.ids.len(), 8);
/// assert!(speculation.acceptance().calls <= 7);
/// # Ok::<(), spillway_models::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Speculation<'a> {
    model: &'a Model,
    drafter: &'a mut dyn Drafter,
    tokens: NonZeroUsize,
    acceptance: Acceptance,
}

impl<'a> Speculation<'a> {
    /// Drafts of at most `tokens` tokens.
    pub fn new(model: &'a Model, drafter: &'a mut dyn Drafter, tokens: NonZeroUsize) -> Self {
        Self {
            model,
            drafter,
            tokens,
            acceptance: Acceptance::default(),
        }
    }

    /// As [`continue_from`](crate::generation::continue_from). Drafts are made of [`TakenIn::last`], the whole prompt at best, and of what
    /// follows.
    ///
    /// # Errors
    /// As there, and from the drafter.
    pub fn continue_from(
        &mut self,
        state: &mut ModelState,
        prompt: TakenIn<'_>,
        sampling: &Sampling,
        max_tokens: usize,
        stop: &[String],
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, ModelError> {
        // Two drafts: one that is being checked, and one whose right part may have to be taken in again.
        let reach = self.tokens.saturating_mul(NonZeroUsize::MIN.saturating_add(1));
        let mut checking = Checking {
            text: Rewind::new(self.model, state.clone(), reach, Replay::Joined)?,
            read: prompt.last.to_vec(),
            draft: Vec::new(),
            right: 0,
            logits: None,
        };
        let generated = continue_by(
            self.model,
            prompt,
            sampling,
            max_tokens,
            stop,
            on_text,
            |id, sampler| checking.next(id, sampler, self),
        )?;
        *state = checking.into_state()?;
        Ok(generated)
    }

    /// What came of all drafts so far.
    pub fn acceptance(&self) -> Acceptance {
        self.acceptance
    }
}

/// A draft that is being checked.
struct Checking<'m> {
    /// What the model has read: what was chosen, then the draft.
    text: Rewind<'m>,
    /// The prompt and what was chosen.
    read: Vec<u32>,
    draft: Vec<u32>,
    /// Number of the draft's tokens, from the first on, that have been chosen.
    right: usize,
    /// After the token before the draft and after each of its tokens, `[1 + drafted, vocab_size]`.
    logits: Option<Tensor<2>>,
}

impl Checking<'_> {
    /// The logits after a token that was chosen, from those at hand where it is the draft's, else from the model.
    fn next(
        &mut self,
        id: u32,
        sampler: &Sampler,
        speculation: &mut Speculation<'_>,
    ) -> Result<Tensor<2>, ModelError> {
        self.read.push(id);
        if let (Some(logits), Some(drafted)) = (&self.logits, self.draft.get(self.right))
            && *drafted == id
        {
            self.right += 1;
            speculation.acceptance.accepted += 1;
            return Ok(logits.clone().narrow(0, self.right, 1));
        }
        self.take_back()?;
        let most = speculation.tokens.get();
        self.draft = match self.text.behind() <= most {
            true => speculation.drafter.draft(&self.read, most, sampler)?,
            // A call without a draft cannot be taken back, and what is behind becomes a state.
            false => Vec::new(),
        };
        let call = [&[id], self.draft.as_slice()].concat();
        let logits = self.text.logits(&call, Logits::All)?;
        speculation.acceptance.calls += 1;
        speculation.acceptance.drafted += self.draft.len();
        let after_it = logits.clone().narrow(0, 0, 1);
        self.logits = Some(logits);
        Ok(after_it)
    }

    /// Takes back what of the draft was not chosen.
    fn take_back(&mut self) -> Result<(), ModelError> {
        let wrong = self.draft.len() - self.right;
        self.draft.clear();
        self.right = 0;
        self.text.rollback(wrong as u64)
    }

    /// The state after what was chosen, the last token apart.
    fn into_state(mut self) -> Result<ModelState, ModelError> {
        self.take_back()?;
        self.text.into_state()
    }
}
