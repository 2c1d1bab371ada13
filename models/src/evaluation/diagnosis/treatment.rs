//! What a model reads a stream under: interventions in its layers, and starting the model, or its attention, again at regular
//! positions.
//!
//! Emptying recurrent states is an intervention like any other; it says nothing about the keys and values of attention layers and
//! nothing to a model that has no recurrence. A restart is the same idea for every model: all of its state goes, short convolutions
//! and caches included. A restart of the attention layers alone leaves the recurrences of a hybrid as they are: beside the run in which
//! they are emptied it tells which of the two fails. Restarts cannot act inside a layer, so they stand beside the chain.

use std::sync::Arc;

use spillway_ssm_core::{Chain, Intervention};

use crate::error::ModelError;
use crate::model::Model;
use crate::state::ModelState;

/// Interventions, and what starts again and when; the default is the model alone.
#[derive(Clone, Debug, Default)]
pub struct Treatment {
    chain: Chain,
    restart: Option<Restart>,
}

/// What starts again at regular positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Tokens from one start to the next, 1 at least.
    pub period: u64,
    /// What of the model.
    pub scope: RestartScope,
}

/// What of a model starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartScope {
    /// All of it, positions included.
    Model,
    /// The keys and values of its attention layers; positions go on.
    Attention,
}

impl Treatment {
    /// The interventions of `chain` alone, without any restart.
    pub fn of(chain: Chain) -> Self {
        Self { chain, restart: None }
    }

    /// The model started again every `period` tokens, 1 at least: with the training length as the period, the baseline that never
    /// leaves it.
    pub fn restart(period: u64) -> Self {
        Self::restart_of(RestartScope::Model, period)
    }

    /// The attention layers alone started again every `period` tokens: none attends to one before the last multiple of `period`.
    pub fn restart_attention(period: u64) -> Self {
        Self::restart_of(RestartScope::Attention, period)
    }

    fn restart_of(scope: RestartScope, period: u64) -> Self {
        Self {
            chain: Chain::default(),
            restart: Some(Restart {
                period: period.max(1),
                scope,
            }),
        }
    }

    /// The same treatment with `intervention` acting innermost.
    #[must_use]
    pub fn with(mut self, intervention: Arc<dyn Intervention>) -> Self {
        self.chain = self.chain.with(intervention);
        self
    }

    /// What acts in the model's layers.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// What starts again, and when.
    pub fn restarts(&self) -> Option<Restart> {
        self.restart
    }

    /// The state of one sequence before the first token.
    ///
    /// # Errors
    /// [`ModelError::Incompatible`] when an intervention cannot work with the model.
    pub fn start(&self, model: &Model) -> Result<ModelState, ModelError> {
        model.start(&self.chain, 1)
    }

    /// Starts again what is due before the token at `position`; how many of `count` tokens from there on are read before the next
    /// start.
    ///
    /// # Errors
    /// As [`Treatment::start`].
    pub fn enter(
        &self,
        model: &Model,
        state: &mut ModelState,
        position: u64,
        count: u64,
    ) -> Result<u64, ModelError> {
        if let Some(restart) = self.restart.filter(|_| self.starts_again_at(position)) {
            let fresh = self.start(model)?;
            match restart.scope {
                RestartScope::Model => *state = fresh,
                RestartScope::Attention => state.take_attention_of(fresh),
            }
        }
        Ok(self.segment(position, count))
    }

    /// Whether something starts again before the token at `position`.
    pub fn starts_again_at(&self, position: u64) -> bool {
        self.restart
            .is_some_and(|restart| position > 0 && position.is_multiple_of(restart.period))
    }

    /// How many of `count` tokens from `position` on are read before something starts again.
    pub fn segment(&self, position: u64, count: u64) -> u64 {
        self.restart.map_or(count, |restart| {
            count.min(restart.period - position % restart.period)
        })
    }
}
