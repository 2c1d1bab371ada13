//! A training, step by step: from the next batches to the next weights.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | [`Trainer`]: how it begins; a step |
//! | `saved.rs` | what it goes on from: snapshots of it, on one rank or several |

mod saved;

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::Prefix;

use super::batch::Batch;
use super::carry::Carry;
use super::config::TrainConfig;
use super::data::Source;
use super::data::seed::mix;
use super::encoder::EncoderConfig;
use super::error::TrainError;
use super::forward::{Differentiable, Leaves, loss_value};
use super::log::{Seconds, StepEvent};
use super::memory::ask_for_step;
use super::optimizer::{Accumulator, Optimizer};
use super::parameters::Parameters;
use super::sequence_parallel::SequenceParallel;
use super::task::{TaskBatch, TaskReport, TaskWork};
use super::team::{Call, Team};
use crate::dropout::Dropout;
use crate::layout::Outline;
use crate::model::Model;
use crate::parallel::{Communicator, Threads};
use crate::tokenizer::Tokenizer;

/// What tells the seeds of masks from those of data, whose streams count from 0.
const DROPOUT: u64 = u64::MAX;

/// A training under way.
pub struct Trainer {
    config: TrainConfig,
    parameters: Parameters,
    tokenizer: Tokenizer,
    lessons: Lessons,
    optimizer: Optimizer,
    carry: Carry,
    /// The device that gradients are computed on, with autodiff.
    device: Device,
    step: u64,
    tokens: u64,
    /// The ranks, where there are several.
    team: Option<Team>,
    /// The ranks that sequences are cut over, where they are; in one process it is one.
    sequence: Option<SequenceParallel>,
}

/// Where batches come from.
enum Lessons {
    /// Data whose next token is foretold.
    Tokens(Box<dyn Source>),
    /// Examples of a task, with right answers of its own.
    Task(TaskWork),
}

/// What the batches of a step add up to.
#[derive(Default)]
struct Sum {
    /// Weighted −log p of all targets so far.
    loss: f64,
    /// Sums of the gradients of `loss` and of the targets' weights.
    gradients: Accumulator,
}

impl Trainer {
    /// A training at its beginning.
    ///
    /// # Errors
    /// [`TrainError`]: a model, data or option that cannot be used.
    pub fn new(config: TrainConfig) -> Result<Self, TrainError> {
        let device = config.device()?;
        Self::with(config, &device, None)
    }

    /// As [`Trainer::new`], then [`Trainer::on`] these ranks; only the memory that a rank of so many needs has to be there.
    ///
    /// # Errors
    /// As there.
    pub fn new_on(ranks: Arc<dyn Communicator>, config: TrainConfig) -> Result<Self, TrainError> {
        let device = config.device()?;
        Self::of_share(config, &device, None, ranks.size())?.on(ranks)
    }

    /// As [`Trainer::new`] on any device, and with data from elsewhere if there is a `source`; then `config.device` or
    /// `config.data` is not read.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with(
        config: TrainConfig,
        device: &Device,
        source: Option<Box<dyn Source>>,
    ) -> Result<Self, TrainError> {
        Self::of_share(config, device, source, 1)
    }

    /// As [`Trainer::with`], to be one of `ranks` ranks.
    fn of_share(
        config: TrainConfig,
        device: &Device,
        source: Option<Box<dyn Source>>,
        ranks: usize,
    ) -> Result<Self, TrainError> {
        let inner = device.clone().inner();
        let device = inner.clone().autodiff();
        let mut parameters = config.model.parameters(config.base(), config.seed, &inner)?;
        let network = parameters.leaves(&device, config.precision).network()?;
        let outline = network.outline();
        let tokenizer = config.model.tokenizer(config.base(), outline)?;
        let lessons = match (source, &config.task) {
            (None, Some(task)) => {
                let work = TaskWork::open(&config, task, outline)?;
                parameters.add(work.parameters(config.seed, &inner));
                if let Some(path) = config.model.task_file(config.base()) {
                    parameters.load_added(&path)?;
                }
                work.expect_names(&parameters)?;
                Lessons::Task(work)
            }
            (Some(source), _) => Lessons::Tokens(expect_ids(source, outline)?),
            (None, None) => Lessons::Tokens(expect_ids(open(&config, &tokenizer)?, outline)?),
        };
        if let Lessons::Tokens(_) = lessons {
            network.network().expect_causal()?;
        }
        if let Some(encoder) = &config.encoder {
            expect_encoder(encoder, &network)?;
        }
        ask_for_step(&config, &parameters, &network, ranks)?;
        let carry = Carry::new(&config.carry, config.seed, network.sites())?;
        let optimizer = Optimizer::new(&config.optimizer, parameters.list(), config.steps)?;
        let sequence = cut_over(&config, || Arc::new(Threads::alone()));
        Ok(Self {
            config,
            parameters,
            tokenizer,
            lessons,
            optimizer,
            carry,
            device,
            step: 0,
            tokens: 0,
            team: None,
            sequence,
        })
    }

    /// This training on several ranks, each of which calls this, once. Rank 0 makes the steps; on the others [`Trainer::follow`]
    /// makes the same ones. Each keeps the optimiser's moments of its part of the values.
    ///
    /// # Errors
    /// As [`Team::new`].
    pub fn on(mut self, ranks: Arc<dyn Communicator>) -> Result<Self, TrainError> {
        let team = Team::new(Arc::clone(&ranks), &self.config, &self.parameters)?;
        self.optimizer.keep(team.places());
        self.team = Some(team);
        self.sequence = cut_over(&self.config, || ranks);
        Ok(self)
    }

    /// On every rank but 0: makes the steps that rank 0 makes, until it ends.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn follow(&mut self) -> Result<(), TrainError> {
        while let Some(team) = self.team.clone().filter(|team| !team.leads()) {
            match team.hears()? {
                Call::Step => {
                    self.step()?;
                }
                Call::Moments => team.give_moments(&self.optimizer)?,
                Call::End => break,
            }
        }
        Ok(())
    }

    /// On rank 0: lets the other ranks end.
    ///
    /// # Errors
    /// [`TrainError::Parallel`].
    pub fn end(&self) -> Result<(), TrainError> {
        self.team.as_ref().map_or(Ok(()), Team::end)
    }

    /// What is trained, on what, and how.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The weights as they are now.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What makes the steps, with the moments that this rank keeps.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Text to ids and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Number of steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// The model as it is now, to be evaluated.
    ///
    /// # Errors
    /// [`TrainError::Model`].
    pub fn model(&self) -> Result<Model, TrainError> {
        Ok(self.parameters.model(self.tokenizer.clone())?)
    }

    /// One step of the optimiser.
    ///
    /// The loss is the sum of all targets' losses over the sum of their weights, over all batches of the step together: `k`
    /// accumulated batches give the gradients of one batch `k` times as large.
    ///
    /// # Errors
    /// [`TrainError`]: data that cannot be read, a loss or a gradient that is not finite. The weights are then those from
    /// before the step.
    pub fn step(&mut self) -> Result<StepEvent, TrainError> {
        if let Some(team) = &self.team {
            team.begin_step()?;
        }
        let (mut sum, mut seconds) = (Sum::default(), Seconds::default());
        let (mut tokens, accumulation) = (0, self.config.accumulation as u64);
        let mut clock = Instant::now();
        for index in self.step * accumulation..(self.step + 1) * accumulation {
            match &mut self.lessons {
                Lessons::Tokens(source) => {
                    let batch = source.next()?;
                    tokens += (batch.sequences * batch.time) as u64;
                    seconds.data += lap(&mut clock);
                    match (&self.sequence, &self.team) {
                        (Some(ranks), _) => {
                            self.add_stretches(ranks, &batch, index, &mut sum, &mut seconds)?
                        }
                        (None, None) => self.add(&batch, (index, 0), &mut sum, &mut seconds)?,
                        (None, Some(team)) => {
                            let rows = team.rows(batch.sequences);
                            let first = rows.start;
                            self.add(&batch.rows(rows), (index, first), &mut sum, &mut seconds)?;
                        }
                    }
                }
                Lessons::Task(work) => {
                    let batch = work.next();
                    tokens += (batch.sequences * batch.length) as u64;
                    seconds.data += lap(&mut clock);
                    self.add_task(&batch, index, &mut sum, &mut seconds)?;
                }
            }
            clock = Instant::now();
        }
        if let Some(team) = &self.team {
            if let Some(ranks) = &self.sequence {
                ranks.complete(&mut sum.gradients, self.parameters.list())?;
            }
            team.add_up(&mut sum.loss, &mut sum.gradients)?;
        }
        let weight = sum.gradients.weight();
        let gradients = sum.gradients.mean()?;
        let (optimizer, parameters) = (&mut self.optimizer, self.parameters.list_mut());
        let update = match &self.team {
            None => optimizer.step(parameters, gradients, self.step)?,
            Some(team) => team.step(optimizer, parameters, gradients, self.step)?,
        };
        seconds.optimizer = lap(&mut clock);
        self.step += 1;
        self.tokens += tokens;
        Ok(StepEvent {
            step: self.step,
            loss: sum.loss / weight,
            learning_rate: update.learning_rate,
            gradient_norm: update.gradient_norm,
            clipped: update.clipped,
            tokens: self.tokens,
            tokens_per_second: tokens as f64 / seconds.sum(),
            seconds,
        })
    }

    /// Adds the loss and the gradients of one batch, segment by segment; `first` of its sequences come before those at hand.
    fn add(
        &mut self,
        batch: &Batch,
        (index, first): (u64, usize),
        sum: &mut Sum,
        seconds: &mut Seconds,
    ) -> Result<(), TrainError> {
        let mut clock = Instant::now();
        let (mut leaves, mut network) = self.network(index, first)?;
        let mut state = self.carry.begin(network.start(batch.sequences), batch, index)?;
        let hidden = self.config.encoder.map(|encoder| {
            state.read_both_ways(Prefix::new(encoder.length));
            encoder.hide(batch.clone(), self.config.seed, index)
        });
        let batch = hidden.as_ref().unwrap_or(batch);
        let mut segments = batch.segments(self.carry.segment(batch)).peekable();
        let mut total: Option<(Tensor<1>, f64)> = None;
        while let Some(segment) = segments.next() {
            let (loss, weight) = network.loss(&segment, &mut state)?;
            total = Some(match total.take() {
                Some((sum, before)) => (sum + loss, before + weight),
                None => (loss, weight),
            });
            let last = segments.peek().is_none();
            if !last {
                state = self.carry.between(state)?;
            }
            if (last || self.carry.is_truncated())
                && let Some(total) = total.take()
            {
                seconds.forward += lap(&mut clock);
                sum.add(total, &leaves, self.step)?;
                seconds.backward += lap(&mut clock);
                if !last {
                    (leaves, network) = self.network(index, first)?;
                }
            }
        }
        self.carry.end(state)?;
        seconds.forward += lap(&mut clock);
        Ok(())
    }

    /// Adds the loss and the gradients of this rank's tokens of one batch.
    fn add_stretches(
        &self,
        ranks: &SequenceParallel,
        batch: &Batch,
        index: u64,
        sum: &mut Sum,
        seconds: &mut Seconds,
    ) -> Result<(), TrainError> {
        let mut clock = Instant::now();
        let graph = || self.network(index, 0);
        let recorded = ranks.forward(&graph, batch)?;
        sum.add_loss(recorded.loss(), self.step)?;
        seconds.forward += lap(&mut clock);
        recorded.backward(&mut sum.gradients)?;
        seconds.backward += lap(&mut clock);
        Ok(())
    }

    /// Adds the loss and the gradients of one batch of a task.
    fn add_task(
        &self,
        batch: &TaskBatch,
        index: u64,
        sum: &mut Sum,
        seconds: &mut Seconds,
    ) -> Result<(), TrainError> {
        let Lessons::Task(work) = &self.lessons else {
            return Ok(());
        };
        let mut clock = Instant::now();
        let (leaves, network) = self.network(index, 0)?;
        let total = work.loss(batch, &leaves, &network)?;
        seconds.forward += lap(&mut clock);
        sum.add(total, &leaves, self.step)?;
        seconds.backward += lap(&mut clock);
        Ok(())
    }

    /// How good the answers to a task are as the weights are now; `None` where there is none.
    ///
    /// # Errors
    /// [`TrainError::Model`].
    pub fn evaluate_task(&self) -> Result<Option<TaskReport>, TrainError> {
        match &self.lessons {
            Lessons::Tokens(_) => Ok(None),
            Lessons::Task(work) => {
                let report = work.evaluate(&self.parameters, &self.device, self.config.precision)?;
                Ok(Some(report))
            }
        }
    }

    /// New leaves and the network over them. Each backward pass needs its own: it takes the network's graph apart as it goes
    /// through, down to what the network computes once from its weights. All networks of one batch leave out the same channels.
    fn network(&self, index: u64, first: usize) -> Result<(Leaves, Differentiable), TrainError> {
        let leaves = self.parameters.leaves(&self.device, self.config.precision);
        let probability = self.config.dropout;
        let dropout = (probability > 0.0).then(|| Dropout {
            probability,
            seed: mix(self.config.seed, DROPOUT, index),
            first,
        });
        let network = leaves.network()?.with_dropout(dropout);
        Ok((leaves, network))
    }
}

/// Whether the model has an encoder, and a row for what hides a token.
fn expect_encoder(encoder: &EncoderConfig, network: &Differentiable) -> Result<(), TrainError> {
    if network.network().encoder_length() == 0 {
        let expected = "none, or a model with an encoder such as arch = \"jrt\"";
        return Err(TrainError::field("encoder", expected, "a model without one"));
    }
    let rows = network.outline().padded_vocab_size;
    if encoder.mask_id as usize >= rows {
        let expected = format!("an id below {rows}, the rows of the embedding");
        return Err(TrainError::field("encoder.mask_id", expected, encoder.mask_id));
    }
    Ok(())
}

/// The data of a configuration.
fn open(config: &TrainConfig, tokenizer: &Tokenizer) -> Result<Box<dyn Source>, TrainError> {
    let (base, sequences, length) = (config.base(), config.sequences, config.length);
    let Some(data) = &config.data else {
        let expected = "data whose next token is foretold, or a task";
        return Err(TrainError::field("data", expected, "neither"));
    };
    let source = data.open(base, sequences, length, tokenizer, config.seed);
    source.map_err(|error| TrainError::data("data", error))
}

/// Refuses data with ids that the model does not have.
fn expect_ids(source: Box<dyn Source>, outline: &Outline) -> Result<Box<dyn Source>, TrainError> {
    if source.vocab_size() > outline.vocab_size {
        let expected = format!("ids below the model's vocabulary size {}", outline.vocab_size);
        let found = format!("ids below {}", source.vocab_size());
        return Err(TrainError::field("data", expected, found));
    }
    Ok(source)
}

impl Sum {
    /// Adds a loss that is a sum over targets of this weight, and its gradients.
    fn add(
        &mut self,
        (total, weight): (Tensor<1>, f64),
        leaves: &Leaves,
        step: u64,
    ) -> Result<(), TrainError> {
        self.add_loss(loss_value(&total), step)?;
        let gradients = leaves.gradients(&mut total.backward());
        Ok(self.gradients.add(gradients, weight)?)
    }

    fn add_loss(&mut self, loss: f64, step: u64) -> Result<(), TrainError> {
        if !loss.is_finite() {
            return Err(TrainError::NotFinite { step, loss });
        }
        self.loss += loss;
        Ok(())
    }
}

/// The ranks that sequences are cut over, where the configuration says so.
fn cut_over(config: &TrainConfig, ranks: impl FnOnce() -> Arc<dyn Communicator>) -> Option<SequenceParallel> {
    config
        .parallel
        .sequence
        .then(|| SequenceParallel::new(ranks(), &config.parallel))
}

/// Seconds since `clock`, which starts again.
fn lap(clock: &mut Instant) -> f64 {
    let now = Instant::now();
    now.duration_since(std::mem::replace(clock, now)).as_secs_f64()
}
