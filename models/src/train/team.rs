//! One training on several ranks: each takes some of the sequences of every batch, and the gradients are added up.
//!
//! ```text
//! rank 0 ──"a step"──► all          batch i, the same on every rank ──► rows of this rank ──► Σ loss, Σ weight, Σ gradients
//!                                                                                                    │ all-reduce, in the order of the ranks
//!                                          the same step of the optimiser on every rank ◄── mean ◄───┘
//! ```
//!
//! Which sequences a batch has does not depend on the number of ranks, and neither does what is divided by what: the loss is
//! Σ loss / Σ weight over all of them. So a training with any number of ranks is the same but for the order of additions.
//! Parameters and moments are the same bits on all ranks, since each makes the same step from the same sums. Rank 0 has the
//! folder, evaluates, and says when to stop.
//!
//! What goes from one batch to the next within a row, and what is drawn for a row by its place, is refused: carried states,
//! initial noise, encoders, and tasks other than foretelling tokens.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};

use super::batch::Batch;
use super::carry::Initial;
use super::config::TrainConfig;
use super::error::TrainError;
use super::optimizer::Accumulator;
use super::parameters::Parameters;
use crate::error::ModelError;
use crate::parallel::collectives::{agree, all_reduce_sum, all_sum, broadcast, share};
use crate::parallel::{AsParallel, Communicator, ParallelError};
use crate::state::fingerprint::Fingerprint;

const STEP: &[u8] = b"a step";
const END: &[u8] = b"the end";

/// The ranks of a training.
#[derive(Clone, Debug)]
pub struct Team(Arc<dyn Communicator>);

impl Team {
    /// The team of `ranks`, each of which calls this with the configuration of the same training.
    ///
    /// # Errors
    /// [`TrainError::Field`] for what a training on several ranks cannot have, [`TrainError::Parallel`] where ranks have
    /// other configurations.
    pub fn new(ranks: Arc<dyn Communicator>, config: &TrainConfig) -> Result<Self, TrainError> {
        expect_shareable(config, ranks.size())?;
        agree(
            ranks.as_ref(),
            "version of the program",
            env!("CARGO_PKG_VERSION"),
        )?;
        agree(ranks.as_ref(), "configuration", &config.identity()?)?;
        Ok(Self(ranks))
    }

    /// Whether this rank has the folder.
    pub fn leads(&self) -> bool {
        self.0.rank() == 0
    }

    /// The communicator of the training's ranks.
    pub fn ranks(&self) -> &dyn Communicator {
        self.0.as_ref()
    }

    /// Rows of a batch that are this rank's.
    pub(super) fn rows(&self, sequences: usize) -> Range<usize> {
        share(sequences, self.0.rank(), self.0.size())
    }

    /// Refuses ranks with other weights.
    pub(super) fn expect_same(&self, parameters: &Parameters) -> Result<(), TrainError> {
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

    /// On rank 0: a step begins on every rank.
    pub(super) fn begin_step(&self) -> Result<(), TrainError> {
        match self.leads() {
            true => self.share(STEP.to_vec()).map(drop),
            false => Ok(()),
        }
    }

    /// On rank 0: there are no more steps.
    pub(super) fn end(&self) -> Result<(), TrainError> {
        match self.leads() {
            true => self.share(END.to_vec()).map(drop),
            false => Ok(()),
        }
    }

    /// On the other ranks: whether rank 0 begins a step. It may evaluate and write first, for as long as it takes.
    pub(super) fn hears_step(&self) -> Result<bool, TrainError> {
        let heard = self.share(Vec::new())?;
        match heard.as_slice() {
            STEP => Ok(true),
            END => Ok(false),
            other => Err(ParallelError::Message {
                what: "what to do next",
                from: 0,
                expected: "a step or the end".into(),
                found: format!("{} bytes", other.len()),
            }
            .into()),
        }
    }

    /// The loss and the gradients of all ranks in the place of this one's.
    pub(super) fn add_up(&self, loss: &mut f64, gradients: &mut Accumulator) -> Result<(), TrainError> {
        let mut sums = [*loss, gradients.weight()];
        all_sum(self.ranks(), &mut sums)?;
        let present: Vec<f64> = gradients
            .sums()
            .iter()
            .map(|sum| f64::from(u8::from(sum.is_some())))
            .collect();
        let mut everywhere = present;
        all_sum(self.ranks(), &mut everywhere)?;
        let mut flat = Vec::new();
        for (sum, anywhere) in gradients.sums().iter().zip(&everywhere) {
            // Where it has come to some ranks only, nothing has come to the others.
            match sum {
                Some(sum) => flat.extend(sum.to_data().iter::<f32>()),
                None if *anywhere > 0.0 => return Err(unequal(self.0.rank())),
                None => {}
            }
        }
        all_reduce_sum(self.ranks(), &mut flat)?;
        let mut rest = flat.as_slice();
        for sum in gradients.sums_mut().iter_mut().flatten() {
            let (mine, others) = rest.split_at(sum.dims()[0]);
            *sum = Tensor::from_data(TensorData::new(mine.to_vec(), [mine.len()]), &sum.device());
            rest = others;
        }
        *loss = sums[0];
        gradients.set_weight(sums[1]);
        Ok(())
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
    if config.sequences < ranks {
        let expected = format!("at least {ranks}, one for every rank");
        return Err(TrainError::field("sequences", expected, config.sequences));
    }
    Ok(())
}

impl AsParallel for TrainError {
    fn as_parallel(&self) -> Option<&ParallelError> {
        match self {
            Self::Parallel(error) | Self::Model(ModelError::Parallel(error)) => Some(error),
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
