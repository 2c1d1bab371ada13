//! Sequences that are longer than one rank's share, and the gradients of all their parameters.
//!
//! Every sequence of a batch is cut into stretches, dealt out to the ranks in turn. Forward, a stretch goes through the model layer by
//! layer, and each layer's state goes on to the rank of the stretch behind, as in [`crate::parallel::ring`]. Backward, the last stretch
//! begins: a layer's backward pass gives the cotangent of the state that came to it, which goes to the rank of the stretch before.
//!
//! ```text
//!            time ─►  forward                    backward
//! rank 0    l₀ l₁ l₂ l₃                                  l₃ l₂ l₁ l₀         states go down, from layer to layer of the stretch behind,
//! rank 1       l₀ l₁ l₂ l₃                         l₃ l₂ l₁ l₀               their cotangents up
//! rank 2          l₀ l₁ l₂ l₃ loss           l₃ l₂ l₁ l₀
//! ```
//!
//! Each layer of each stretch has a graph of its own, from leaves for what the layer was given to what it gives. So whatever a layer
//! carries is differentiated alike: recurrences, convolutions, token shifts, linear state spaces, the keys and values of attention. A
//! rank holds the graphs of its own stretches, or with [`ParallelConfig::recompute`] only what their layers were given, and one graph at
//! a time.
//!
//! A rank's gradients are those of its own uses of the parameters; their sum over the ranks, in the order of the ranks, is the gradient
//! of the summed loss of the whole batch. It differs from that of one process by the order of additions.

mod plan;
mod stretch;
mod tape;

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};

use self::stretch::Recorded;
use super::batch::Batch;
use super::error::TrainError;
use super::forward::{Differentiable, Leaves};
use super::optimizer::Accumulator;
use super::parallel_config::ParallelConfig;
use super::parameters::Parameter;
use crate::parallel::collectives::all_sum;
use crate::parallel::reduction::all_reduce_sum;
use crate::parallel::{Communicator, or_fail};

/// Leaves, and the network over them.
pub type Graph = (Leaves, Differentiable);

/// Makes new leaves of the same parameters, and the network over them: each backward pass uses up its own.
pub type Graphs<'a> = dyn Fn() -> Result<Graph, TrainError> + 'a;

/// Ranks that go through the sequences of a batch together, each with some of the tokens of every sequence.
#[derive(Clone, Debug)]
pub struct SequenceParallel {
    ranks: Arc<dyn Communicator>,
    stretch: Option<usize>,
    recompute: bool,
}

impl SequenceParallel {
    /// The ranks, each of which calls this with the same configuration.
    pub fn new(ranks: Arc<dyn Communicator>, config: &ParallelConfig) -> Self {
        Self {
            ranks,
            stretch: config.stretch,
            recompute: config.recompute,
        }
    }

    /// Σ weight · −log p over all targets of the batch, and the sums over the whole batch of gradients and weights, the same on every
    /// rank: as [`Differentiable::loss`] of the whole batch from empty states and its backward pass, but for the order of additions.
    /// `parameters` are those of the leaves that `graph` makes; all ranks give the same ones, and the same batch.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::time::Duration;
    /// use burn::tensor::Device;
    /// use spillway_models::init::preset;
    /// use spillway_models::parallel::Threads;
    /// use spillway_models::registry::layouts;
    /// use spillway_models::train::{Batch, ParallelConfig, Parameters, Precision, SequenceParallel, TrainError};
    ///
    /// let layout = layouts()[0];
    /// let config = serde_json::from_str(preset(layout, "tiny").unwrap().config)?;
    /// let parameters = Parameters::random(layout, &config, 1, &Device::flex())?;
    /// let batch = Batch {
    ///     sequences: 1,
    ///     time: 6,
    ///     ids: vec![1, 2, 3, 4, 5, 6],
    ///     targets: vec![2, 3, 4, 5, 6, 7],
    ///     weights: None,
    ///     continues: vec![false],
    /// };
    /// let graph = || -> Result<_, TrainError> {
    ///     let leaves = parameters.leaves(&Device::flex().autodiff(), Precision::F32);
    ///     let network = leaves.network()?;
    ///     Ok((leaves, network))
    /// };
    /// let losses = Threads::run(2, Duration::from_secs(60), |ranks| -> Result<f64, TrainError> {
    ///     let ranks = SequenceParallel::new(Arc::new(ranks.clone()), &ParallelConfig::default());
    ///     let (loss, gradients) = ranks.gradients(&graph, &batch, parameters.list())?;
    ///     assert_eq!(gradients.weight(), 6.0);
    ///     Ok(loss)
    /// });
    /// let (_, alone) = graph()?;
    /// let (expected, _) = alone.loss(&batch.whole(), &mut alone.start(1))?;
    /// let expected = f64::from(expected.inner().into_scalar::<f32>());
    /// for loss in losses {
    ///     assert!((loss? / expected - 1.0).abs() < 1e-5);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Differentiable::loss`]; [`ModelError::SeesLater`](crate::ModelError::SeesLater) for a model with a layer that sees later
    /// tokens; [`TrainError::Parallel`] when another rank fails or is lost.
    pub fn gradients(
        &self,
        graph: &Graphs<'_>,
        batch: &Batch,
        parameters: &[Parameter],
    ) -> Result<(f64, Accumulator), TrainError> {
        let all = || -> Result<_, TrainError> {
            let mut sums = Accumulator::default();
            let recorded = self.forward(graph, batch)?;
            let mut loss = recorded.loss();
            recorded.backward(&mut sums)?;
            self.complete(&mut sums, parameters)?;
            self.add_up(&mut loss, &mut sums)?;
            Ok((loss, sums))
        };
        or_fail(self.ranks.as_ref(), all())
    }

    /// Puts the sums over all ranks in the place of this one's, of which each has those of the same parameters.
    fn add_up(&self, loss: &mut f64, sums: &mut Accumulator) -> Result<(), TrainError> {
        let mut totals = [*loss, sums.weight()];
        all_sum(self.ranks.as_ref(), &mut totals)?;
        let mut added = Vec::with_capacity(sums.sums().len());
        for sum in sums.sums() {
            let Some(sum) = sum else {
                added.push(None);
                continue;
            };
            let mut values: Vec<f32> = sum.to_data().iter::<f32>().collect();
            all_reduce_sum(self.ranks.as_ref(), &mut values)?;
            let shape = [values.len()];
            added.push(Some(Tensor::from_data(
                TensorData::new(values, shape),
                &sum.device(),
            )));
        }
        *loss = totals[0];
        sums.replace(added, totals[1]);
        Ok(())
    }

    /// This rank's stretches of the batch, forward.
    ///
    /// # Errors
    /// As [`SequenceParallel::gradients`].
    pub(super) fn forward<'a>(
        &self,
        graph: &'a Graphs<'a>,
        batch: &'a Batch,
    ) -> Result<Recorded<'a>, TrainError> {
        Recorded::forward(
            Arc::clone(&self.ranks),
            (self.stretch, self.recompute),
            graph,
            batch,
        )
    }

    /// Gradients of 0 where this rank's tokens have none of a parameter that has one on another rank.
    ///
    /// # Errors
    /// [`TrainError::Parallel`].
    pub(super) fn complete(
        &self,
        sums: &mut Accumulator,
        parameters: &[Parameter],
    ) -> Result<(), TrainError> {
        let has = |index: usize| sums.sums().get(index).is_some_and(Option::is_some);
        let own: Vec<bool> = (0..parameters.len()).map(has).collect();
        let mut ranks: Vec<f64> = own.iter().map(|has| f64::from(u8::from(*has))).collect();
        all_sum(self.ranks.as_ref(), &mut ranks)?;
        let missing = parameters
            .iter()
            .zip(own)
            .zip(ranks)
            .map(|((parameter, own), ranks)| (!own && ranks > 0.0).then(|| parameter.value.zeros_like()));
        Ok(sums.add(missing.collect(), 0.0)?)
    }
}
