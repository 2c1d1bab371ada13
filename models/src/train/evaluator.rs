//! What a training is evaluated on, read once: the same at every evaluation.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::config::TrainConfig;
use super::data::{DataConfig, PasskeyLite};
use super::error::TrainError;
use super::evaluation::{EvaluationConfig, EvaluationData, EvaluationReport, PasskeyConfig, evaluate};
use crate::evaluation::passkey::{Question, questions};
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// The evaluation of a training.
#[derive(Debug)]
pub struct Evaluator {
    config: EvaluationConfig,
    data: EvaluationData,
    train_length: u64,
}

impl Evaluator {
    /// Reads the data that `config` asks for; `None` where it asks for no evaluation.
    ///
    /// Without `evaluation_data`, the streams are of the held-out part of `data`; passkeys are asked for where they are trained.
    ///
    /// # Errors
    /// [`TrainError::Field`] or [`TrainError::Data`] for data that cannot be read.
    pub fn open(config: &TrainConfig, tokenizer: &Tokenizer) -> Result<Option<Self>, TrainError> {
        let Some(evaluation) = &config.evaluation else {
            return Ok(None);
        };
        let train_length = config.length as u64;
        let mut data = streams(config, evaluation, tokenizer)?;
        if let Some(passkey) = &evaluation.passkey {
            data.questions = passkeys(config, passkey)?;
        }
        Ok(Some(Self {
            config: evaluation.clone(),
            data,
            train_length,
        }))
    }

    /// Evaluates a model.
    ///
    /// # Errors
    /// [`TrainError::Model`].
    pub fn evaluate(&self, model: &Model) -> Result<EvaluationReport, TrainError> {
        Ok(evaluate(model, &self.config, &self.data, self.train_length)?)
    }
}

fn streams(
    config: &TrainConfig,
    evaluation: &EvaluationConfig,
    tokenizer: &Tokenizer,
) -> Result<EvaluationData, TrainError> {
    let data = match &config.evaluation_data {
        Some(data) => data.clone(),
        None => config
            .data
            .as_ref()
            .and_then(DataConfig::held_out)
            .ok_or_else(|| {
                let expected = "a table [evaluation_data], or data.held_out above 0";
                TrainError::field("evaluation", expected, "neither")
            })?,
    };
    let long = usize::try_from(evaluation.length)
        .ok()
        .and_then(|length| length.checked_mul(config.length));
    let Some(length) = long else {
        return Err(TrainError::field(
            "evaluation.length",
            "a length that memory can hold",
            evaluation.length,
        ));
    };
    // Other draws than those of the training, where data are drawn.
    let seed = !config.seed;
    let named = |error| TrainError::data("evaluation_data", error);
    let opened = data.open(config.base(), evaluation.streams, length, tokenizer, seed);
    let batch = opened.map_err(named)?.next().map_err(named)?;
    Ok(EvaluationData::of_batch(&batch))
}

fn passkeys(config: &TrainConfig, passkey: &PasskeyConfig) -> Result<Vec<Question>, TrainError> {
    let Some(task) = config.data.as_ref().and_then(passkey_task) else {
        let expected = "data of kind passkey-lite, whose questions the model learns to answer";
        return Err(TrainError::field("evaluation.passkey", expected, "other data"));
    };
    let lengths: Vec<u64> = passkey
        .lengths
        .iter()
        .map(|length| length.saturating_mul(config.length as u64))
        .collect();
    let mut rng = StdRng::seed_from_u64(!config.seed);
    questions(&lengths, passkey.depths, passkey.samples, |length, depth, _| {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let prompt = task.prompt(length, depth, &mut rng);
        let prompt = prompt.map_err(|error| TrainError::data("evaluation.passkey", error))?;
        Ok((prompt.ids, prompt.answer.to_vec()))
    })
}

/// The passkeys among the data, if there are some.
fn passkey_task(data: &DataConfig) -> Option<&PasskeyLite> {
    match data {
        DataConfig::PasskeyLite(task) => Some(task),
        DataConfig::Mix(mix) => mix.parts.iter().find_map(|part| passkey_task(&part.source)),
        _ => None,
    }
}
