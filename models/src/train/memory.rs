//! The memory of a training, asked for before it begins.

use super::config::TrainConfig;
use super::data::DataConfig;
use super::error::TrainError;
use super::forward::Differentiable;
use super::parameters::Parameters;
use crate::budget::{self, product, sum};
use crate::error::ModelError;

/// Asks for the memory of a step on one of `ranks` ranks before the first one is tried, as far as it is certain: beside the
/// parameters, their gradients and a rank's part of the two moments of the optimiser; the states; and of what the graph remembers
/// the residual stream before and after every block, and the logits where every token has a target.
///
/// # Errors
/// [`TrainError::Model`] when there is less.
pub(super) fn ask_for_step(
    config: &TrainConfig,
    parameters: &Parameters,
    network: &Differentiable,
    ranks: usize,
) -> Result<(), TrainError> {
    network.ask_for_states(config.sequences)?;
    let values = parameters
        .list()
        .iter()
        .map(|parameter| parameter.value.dims()[0] as u64);
    let values: u64 = values.sum();
    let moments = product([values.div_ceil(ranks.max(1) as u64), 2]);
    let weights = sum([Some(values), moments]).and_then(|values| product([values, 4]));
    let outline = network.outline();
    let layers = network.network().blocks().len() as u64;
    let width = product([2, layers, outline.model_dim as u64]);
    let all_count = matches!(config.data, Some(DataConfig::Text(_) | DataConfig::Tokens(_)));
    let logits = if all_count {
        outline.padded_vocab_size as u64
    } else {
        0
    };
    let width = sum([width, Some(logits)]);
    let tokens = tokens_at_once(config, ranks);
    let graph = width.and_then(|width| product([width, config.sequences as u64, tokens, 4]));
    let advice = "take fewer sequences and more accumulation, shorter segments, or a smaller model";
    Ok(budget::ask(
        "parameters, gradients and one step's activations",
        sum([weights, graph]),
        advice,
    )
    .map_err(ModelError::from)?)
}

/// Tokens of every sequence whose graph one of `ranks` ranks holds at a time, as far as it is certain.
fn tokens_at_once(config: &TrainConfig, ranks: usize) -> u64 {
    let length = match config.parallel.sequence {
        // Each rank holds the graphs of its own share, or of one layer at a time.
        true if config.parallel.recompute => 0,
        true => config.length / ranks.max(1),
        false => config.length,
    };
    config.carry.segment.map_or(length, |segment| segment.min(length)) as u64
}
