//! A task as the trainer sees it.

use burn::tensor::{Device, Tensor};
use serde_json::Value;

use super::adapter::Adapter;
use super::batch::{TaskBatch, TaskStream, held_out};
use super::config::TaskConfig;
use super::report::{Tally, TaskReport, TaskResult};
use crate::layout::Outline;
use crate::tasks::{Input, Task, TaskData, TaskError};
use crate::train::config::TrainConfig;
use crate::train::data::DataError;
use crate::train::error::TrainError;
use crate::train::forward::{Differentiable, Leaves, Precision, loss_value};
use crate::train::optimizer::ends_with;
use crate::train::parameters::{Parameter, Parameters};

/// A task with its batches, its own weights' shapes, and what it is evaluated on.
#[derive(Debug)]
pub(in crate::train) struct TaskWork {
    stream: TaskStream,
    adapter: Adapter,
    sets: Vec<Set>,
}

/// Examples that a model is evaluated on, always the same.
#[derive(Debug)]
struct Set {
    name: String,
    batches: Vec<TaskBatch>,
    /// Ends of parameters' names, and what is added to their values.
    add: Vec<(String, f64)>,
}

impl TaskWork {
    /// Opens the task of a training of a model of this outline.
    pub(in crate::train) fn open(
        config: &TrainConfig,
        task: &TaskConfig,
        outline: &Outline,
    ) -> Result<Self, TrainError> {
        let (length, sequences, seed) = (config.length, config.sequences, config.seed);
        let opened = open(&task.data, config, length, "task.data")?;
        let shape = opened.shape();
        if let Input::Tokens(vocab_size) = shape.input
            && vocab_size > outline.vocab_size
        {
            let expected = format!("tokens below the model's vocabulary size {}", outline.vocab_size);
            return Err(TrainError::field(
                "task.data",
                expected,
                format!("tokens below {vocab_size}"),
            ));
        }
        task.expect_head(shape, outline.vocab_size)?;
        let size = (task.evaluation.examples, sequences);
        let mut sets = vec![Set {
            name: String::new(),
            batches: held_out(opened.as_ref(), length, size, seed),
            add: Vec::new(),
        }];
        for other in &task.evaluation.others {
            let field = format!("task.evaluation.others.{}", other.name);
            let length = other.length.unwrap_or(length);
            let data = open(&other.data, config, length, &format!("{field}.data"))?;
            if (data.shape().input, data.shape().answer) != (shape.input, shape.answer) {
                let found = format!("{:?}", data.shape());
                return Err(TrainError::field(
                    field,
                    format!("a task of the shape {shape:?}"),
                    found,
                ));
            }
            sets.push(Set {
                name: other.name.clone(),
                batches: held_out(data.as_ref(), length, size, seed),
                add: other
                    .add
                    .iter()
                    .map(|(end, value)| (end.clone(), *value))
                    .collect(),
            });
        }
        Ok(Self {
            adapter: Adapter {
                shape,
                readout: task.readout(shape)?,
                head: task.head,
                model_dim: outline.model_dim,
            },
            stream: TaskStream::new(opened, length, sequences, seed),
            sets,
        })
    }

    /// Fresh encoder and head.
    pub(in crate::train) fn parameters(&self, seed: u64, device: &Device) -> Vec<Parameter> {
        self.adapter.parameters(seed, device)
    }

    /// Refuses an evaluation that changes parameters which there are not.
    pub(in crate::train) fn expect_names(&self, parameters: &Parameters) -> Result<(), TrainError> {
        let known = |end: &str| {
            parameters
                .list()
                .iter()
                .any(|parameter| ends_with(&parameter.name, end))
        };
        let ends = self
            .sets
            .iter()
            .flat_map(|set| set.add.iter().map(move |(end, _)| (set, end)));
        match ends.into_iter().find(|(_, end)| !known(end)) {
            None => Ok(()),
            Some((set, end)) => Err(TrainError::field(
                format!("task.evaluation.others.{}.add", set.name),
                "ends of parameters' names, in whole parts between dots",
                format!("{end:?}"),
            )),
        }
    }

    /// The next batch of training examples.
    pub(in crate::train) fn next(&mut self) -> TaskBatch {
        self.stream.next()
    }

    /// Where the batches are.
    pub(in crate::train) fn position(&self) -> Value {
        self.stream.position()
    }

    /// Goes to a position.
    pub(in crate::train) fn seek(&mut self, position: &Value) -> Result<(), DataError> {
        self.stream.seek(position)
    }

    /// Σ weight · loss of a batch, `[1]`, and Σ weight.
    pub(in crate::train) fn loss(
        &self,
        batch: &TaskBatch,
        leaves: &Leaves,
        network: &Differentiable,
    ) -> Result<(Tensor<1>, f64), TrainError> {
        let answered = self.adapter.answer(batch, leaves, network)?;
        Ok(self.adapter.loss(batch, answered)?)
    }

    /// How good the answers of the weights are as they are now.
    pub(in crate::train) fn evaluate(
        &self,
        parameters: &Parameters,
        device: &Device,
        precision: Precision,
    ) -> Result<TaskReport, TrainError> {
        let result = |set: &Set| self.evaluate_set(set, &set.changed(parameters).leaves(device, precision));
        let results = self.sets.iter().map(result);
        Ok(TaskReport {
            results: results.collect::<Result<_, _>>()?,
        })
    }

    fn evaluate_set(&self, set: &Set, leaves: &Leaves) -> Result<TaskResult, TrainError> {
        let network = leaves.network()?;
        let mut tally = Tally::of(self.adapter.shape.answer, &set.batches);
        for batch in &set.batches {
            let answered = self.adapter.answer(batch, leaves, &network)?;
            let outputs: Vec<f32> = answered
                .outputs
                .clone()
                .inner()
                .into_data()
                .iter::<f32>()
                .collect();
            let places = answered.places.clone();
            let (loss, _) = self.adapter.loss(batch, answered)?;
            let loss = loss_value(&loss);
            tally.add(batch, &places, &outputs, loss);
        }
        Ok(tally.result(&set.name))
    }
}

impl Set {
    /// The parameters with what is added for this set.
    fn changed(&self, parameters: &Parameters) -> Parameters {
        let mut changed = parameters.clone();
        for parameter in changed.list_mut() {
            for (_, value) in self.add.iter().filter(|(end, _)| ends_with(&parameter.name, end)) {
                parameter.value = parameter.value.clone().add_scalar(*value);
            }
        }
        changed
    }
}

fn open(
    data: &TaskData,
    config: &TrainConfig,
    length: usize,
    table: &str,
) -> Result<Box<dyn Task>, TrainError> {
    data.open(config.base(), length).map_err(|error| match error {
        TaskError::Option {
            option,
            expected,
            found,
        } => {
            let field = match option {
                "length" => option.to_string(),
                option => format!("{table}.{option}"),
            };
            TrainError::field(field, expected, found)
        }
        other => TrainError::Task(other),
    })
}
