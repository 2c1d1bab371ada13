//! One training on several ranks: each takes some of the sequences of every batch, and keeps the moments of some of the values.
//!
//! ```text
//! rank 0 ──"a step"──► all          batch i, the same on every rank ──► rows of this rank ──► Σ loss, Σ weight, Σ gradients
//!                                                                                                    │ reduce-scatter, in the order of the ranks
//!   all parameters on every rank ◄── all-gather ── AdamW on the values of this rank ◄── mean ◄── gradients of its values
//! ```
//!
//! With [`parallel.sequence`](super::sequence_parallel) a rank takes some of the tokens of every sequence in the place of some of the sequences.
//!
//! Which sequences a batch has does not depend on the number of ranks, and neither does what is divided by what: the loss is
//! Σ loss / Σ weight over all of them, and gradients are clipped by the norm of all of them. So a training with any number of
//! ranks is the same but for the order of additions. Parameters are the same bits on all ranks, and those that one optimiser with
//! all moments would give. Rank 0 has the folder, evaluates, and says when to stop.
//!
//! What goes from one batch to the next within a row, and what is drawn for a row by its place, is refused: carried states,
//! initial noise, encoders, and tasks other than foretelling tokens.
//!
//! # Memory
//!
//! This is the first stage of ZeRO (Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*,
//! 1910.02054): with n parameters and R ranks a rank has 4 n bytes of parameters, 4 n of gradients until they are added up, and
//! 8 n / R of moments. [`Partition`] says which values are a rank's.
//!
//! # When gradients go out
//!
//! When the last backward pass of the step is over. Burn 0.22 hands gradients out only then: what it calls when a single gradient
//! is complete leads to its own sums over the devices of one process (`Tensor::set_distributed`) and can lead nowhere else. With
//! accumulation a gradient is complete only in the last pass anyway. What overlaps is the way of one bucket with the addition of
//! the one before ([`reduction`](crate::parallel::reduction)).
//!
//! # Failures
//!
//! A step that fails before parameters are gathered, as one with a loss or a gradient that is not finite does, changes nothing. A
//! rank that is lost while they are gathered leaves the others with parameters of two steps: the training goes on from its
//! last snapshot.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | [`Team`]: what the ranks tell each other; a step |
//! | `moments.rs` | moments to and from snapshots |

mod moments;

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;

use super::batch::Batch;
use super::carry::Initial;
use super::config::TrainConfig;
use super::error::TrainError;
use super::optimizer::{Accumulator, Gradients, Optimizer, Partition, Update, Weights, square_sums};
use super::parameters::{Parameter, Parameters};
use super::snapshot::SnapshotError;
use crate::error::ModelError;
use crate::parallel::collectives::{agree, all_sum, broadcast, share};
use crate::parallel::reduction::{all_gather, reduce_scatter};
use crate::parallel::{AsParallel, Communicator, ParallelError};
use crate::state::fingerprint::Fingerprint;

const STEP: &[u8] = b"a step";
const MOMENTS: &[u8] = b"the moments";
const END: &[u8] = b"the end";

/// What rank 0 asks of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// To make a step with it.
    Step,
    /// To give it their moments for a snapshot.
    Moments,
    /// To end.
    End,
}

/// The ranks of a training, and what each has of the optimiser's moments.
#[derive(Clone, Debug)]
pub struct Team {
    ranks: Arc<dyn Communicator>,
    partition: Partition,
}

impl Team {
    /// The team of `ranks`, each of which calls this with the configuration and the parameters of the same training.
    ///
    /// # Errors
    /// [`TrainError::Field`] for what a training on several ranks cannot have, [`TrainError::Parallel`] where ranks have
    /// other configurations or weights.
    pub fn new(
        ranks: Arc<dyn Communicator>,
        config: &TrainConfig,
        parameters: &Parameters,
    ) -> Result<Self, TrainError> {
        expect_shareable(config, ranks.size())?;
        agree(
            ranks.as_ref(),
            "version of the program",
            env!("CARGO_PKG_VERSION"),
        )?;
        agree(ranks.as_ref(), "configuration", &config.identity()?)?;
        let counts = parameters
            .list()
            .iter()
            .map(|parameter| parameter.value.dims()[0]);
        let partition = Partition::new(counts, ranks.size());
        let team = Self { ranks, partition };
        team.expect_same(parameters)?;
        Ok(team)
    }

    /// Whether this rank has the folder.
    pub fn leads(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// The communicator of the training's ranks.
    pub fn ranks(&self) -> &dyn Communicator {
        self.ranks.as_ref()
    }

    /// Rows of a batch that are this rank's.
    pub(super) fn rows(&self, sequences: usize) -> Range<usize> {
        share(sequences, self.ranks.rank(), self.ranks.size())
    }

    /// Refuses ranks with other weights.
    fn expect_same(&self, parameters: &Parameters) -> Result<(), TrainError> {
        let mut hash = Fingerprint::new();
        for parameter in parameters.list() {
            hash.text(&parameter.name);
            hash.bytes(parameter.value.to_data().as_bytes());
        }
        Ok(agree(
            self.ranks(),
            "weights",
            &format!("{:032x}", hash.digest()),
        )?)
    }

    /// Rank 0's `message` on every rank.
    pub(super) fn share(&self, message: Vec<u8>) -> Result<Vec<u8>, TrainError> {
        Ok(broadcast(self.ranks(), 0, message)?)
    }

    /// The values that this rank has the moments of, for each parameter.
    pub(super) fn places(&self) -> Vec<Range<usize>> {
        self.partition.places(self.ranks.rank())
    }

    /// On rank 0: a step begins on every rank.
    pub(super) fn begin_step(&self) -> Result<(), TrainError> {
        self.call(STEP)
    }

    /// On rank 0: there are no more steps.
    pub(super) fn end(&self) -> Result<(), TrainError> {
        self.call(END)
    }

    fn call(&self, what: &[u8]) -> Result<(), TrainError> {
        match self.leads() {
            true => self.share(what.to_vec()).map(drop),
            false => Ok(()),
        }
    }

    /// On the other ranks: what rank 0 asks for. It may evaluate and write first, for as long as it takes.
    pub(super) fn hears(&self) -> Result<Call, TrainError> {
        let heard = self.share(Vec::new())?;
        match heard.as_slice() {
            STEP => Ok(Call::Step),
            MOMENTS => Ok(Call::Moments),
            END => Ok(Call::End),
            other => Err(ParallelError::Message {
                what: "what to do next",
                from: 0,
                expected: "a step, the moments or the end".into(),
                found: format!("{} bytes", other.len()),
            }
            .into()),
        }
    }

    /// Puts the sums over all ranks in the place of this one's: the loss, the weight, and of the gradients those of this rank's
    /// part.
    pub(super) fn add_up(&self, loss: &mut f64, gradients: &mut Accumulator) -> Result<(), TrainError> {
        let present = gradients.sums().iter().map(Option::is_some);
        let mut sums = vec![*loss, gradients.weight()];
        sums.extend(present.map(|is_there| f64::from(u8::from(is_there))));
        all_sum(self.ranks(), &mut sums)?;
        let (of_losses, everywhere) = sums.split_at(2);
        let mut pairs = gradients.sums().iter().zip(everywhere);
        // Where it has come to some ranks only, nothing has come to the others.
        if pairs.any(|(sum, anywhere)| sum.is_none() && *anywhere > 0.0) {
            return Err(unequal(self.ranks.rank()));
        }
        let mut row = Gradients::new(&self.partition, self.ranks.rank(), gradients.sums());
        reduce_scatter(self.ranks(), self.partition.parts(), &mut row)?;
        let own = row.into_own();
        *loss = of_losses[0];
        gradients.replace(own, of_losses[1]);
        Ok(())
    }

    /// Updates all parameters on every rank by the gradients of the mean loss, of which each has those of its part.
    pub(super) fn step(
        &self,
        optimizer: &mut Optimizer,
        parameters: &mut [Parameter],
        gradients: Vec<Option<Tensor<1>>>,
        step: u64,
    ) -> Result<Update, TrainError> {
        let (ranks, partition) = (self.ranks(), &self.partition);
        let squares = square_sums(ranks, partition, &gradients)?;
        let update = optimizer.step_by(parameters, gradients, &squares, step)?;
        let mut row = Weights {
            partition,
            parameters,
        };
        all_gather(ranks, partition.parts(), &mut row)?;
        Ok(update)
    }
}

/// The error of `rank`, which lacks a gradient that others have: one network gives gradients of the same parameters everywhere.
fn unequal(rank: usize) -> TrainError {
    let (what, from) = ("its gradients", rank);
    let (expected, found) = (
        "those of the same parameters on every rank".into(),
        "fewer".into(),
    );
    ParallelError::Message {
        what,
        from,
        expected,
        found,
    }
    .into()
}

fn expect_shareable(config: &TrainConfig, ranks: usize) -> Result<(), TrainError> {
    let alone = "on several ranks; train on one";
    if config.task.is_some() {
        return Err(TrainError::field("task", format!("none {alone}"), "one"));
    }
    if config.encoder.is_some() {
        return Err(TrainError::field("encoder", format!("none {alone}"), "one"));
    }
    if config.carry.carry || config.carry.initial != Initial::Zero {
        let expected = format!("neither carried states nor initial noise {alone}");
        return Err(TrainError::field("carry", expected, "one of them"));
    }
    if config.sequences < ranks && !config.parallel.sequence {
        let expected = format!("at least {ranks}, one for every rank, or parallel.sequence = true");
        return Err(TrainError::field("sequences", expected, config.sequences));
    }
    Ok(())
}

impl AsParallel for TrainError {
    fn as_parallel(&self) -> Option<&ParallelError> {
        match self {
            Self::Parallel(error)
            | Self::Model(ModelError::Parallel(error))
            | Self::Snapshot(SnapshotError::Parallel(error)) => Some(error),
            _ => None,
        }
    }
}

impl Batch {
    /// Some of its sequences.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let tokens = rows.start * self.time..rows.end * self.time;
        Self {
            sequences: rows.len(),
            time: self.time,
            ids: self.ids[tokens.clone()].to_vec(),
            targets: self.targets[tokens.clone()].to_vec(),
            weights: self.weights.as_ref().map(|weights| weights[tokens].to_vec()),
            continues: self.continues[rows].to_vec(),
        }
    }
}
