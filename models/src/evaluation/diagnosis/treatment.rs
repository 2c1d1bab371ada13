//! What a model reads a stream under: interventions in its layers, and starting the whole model again at regular positions.
//!
//! Emptying recurrent states is an intervention like any other; it says nothing about the keys and values of attention layers and
//! nothing to a model that has no recurrence. A restart is the same idea for every model: all of its state goes, short convolutions
//! and caches included. It cannot act inside a layer, so it stands beside the chain.

use std::sync::Arc;

use spillway_ssm_core::{Chain, Intervention};

use crate::error::ModelError;
use crate::model::Model;
use crate::state::ModelState;

/// Interventions, and after how many tokens the whole model starts again; the default is the model alone.
#[derive(Clone, Debug, Default)]
pub struct Treatment {
    chain: Chain,
    restart: Option<u64>,
}

impl Treatment {
    /// Interventions alone.
    pub fn of(chain: Chain) -> Self {
        Self { chain, restart: None }
    }

    /// The model started again every `period` tokens, 1 at least: with the training length as the period, the baseline that never
    /// leaves it.
    pub fn restart(period: u64) -> Self {
        Self {
            chain: Chain::default(),
            restart: Some(period.max(1)),
        }
    }

    /// The same with something else acting innermost.
    #[must_use]
    pub fn with(mut self, intervention: Arc<dyn Intervention>) -> Self {
        self.chain = self.chain.with(intervention);
        self
    }

    /// What acts in the model's layers.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Tokens after which the whole model is started again.
    pub fn restart_period(&self) -> Option<u64> {
        self.restart
    }

    /// The state of one sequence before the first token.
    ///
    /// # Errors
    /// [`ModelError::Incompatible`] when an intervention cannot work with the model.
    pub fn start(&self, model: &Model) -> Result<ModelState, ModelError> {
        model.start(&self.chain, 1)
    }

    /// Starts the model again where that is due before the token at `position`; how many of `count` tokens from there on are read
    /// before the next start.
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
        if self.starts_again_at(position) {
            *state = self.start(model)?;
        }
        Ok(self.segment(position, count))
    }

    /// Whether the model starts again before the token at `position`.
    pub fn starts_again_at(&self, position: u64) -> bool {
        self.restart
            .is_some_and(|period| position > 0 && position.is_multiple_of(period))
    }

    /// How many of `count` tokens from `position` on are read before the model starts again.
    pub fn segment(&self, position: u64, count: u64) -> u64 {
        self.restart
            .map_or(count, |period| count.min(period - position % period))
    }
}
