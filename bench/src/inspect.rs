//! `spillway inspect`: what a checkpoint is, and what it costs per token.

use crate::context::Context;
use crate::costs::Costs;
use crate::error::ProgramError;
use crate::kit::format::{bytes, count, counted, scaled};
use crate::model_args::ModelArgs;
use clap::Args;
use serde::Serialize;
use spillway_models::{Info, Model};
use spillway_ssm_core::{Chain, MixerState, RecurrentState, Rule, Site};

/// Options of `spillway inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
The whole checkpoint is read and checked, so that one that passes here can be used by every other subcommand.

Examples:
  spillway inspect mamba2-130m
  spillway inspect mamba2-130m --dtype int8 --json")]
pub struct InspectArgs {
    /// The model to inspect.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// The JSON document that `spillway inspect --json` prints.
#[derive(Debug, Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    info: &'a Info,
    /// What the sequence mixer of each layer is, first layer first.
    layer_kinds: &'a [String],
    costs: Costs,
}

/// Runs `spillway inspect`.
///
/// # Errors
/// [`ProgramError::Model`] for a checkpoint that cannot be used.
pub fn run(args: &InspectArgs, context: &Context) -> Result<(), ProgramError> {
    let model = args.model.load()?;
    let costs = Costs::of(&model);
    let layer_kinds = layer_kinds(&model)?;
    match context.is_json() {
        true => context.print_json(&Output {
            info: model.info(),
            layer_kinds: &layer_kinds,
            costs,
        }),
        false => context.print_line(table(model.info(), &layer_kinds, &costs)),
    }
}

fn table(info: &Info, layer_kinds: &[String], costs: &Costs) -> String {
    let mut lines = vec![
        ("model", info.name.clone()),
        (
            "architecture",
            format!(
                "{}, {} of width {}",
                info.architecture,
                counted(info.layers as u64, "layer"),
                info.model_dim
            ),
        ),
        ("layout", format!("{}, by {}", info.layout, info.recognised_by)),
        ("details", details(info)),
        ("stored as", info.stored_as.join(", ")),
        ("parameters", count(info.parameters)),
        ("vocabulary", vocabulary(info)),
        ("tokenizer", info.tokenizer.to_string()),
    ];
    lines.extend(runs_of(layer_kinds).map(|(layers, kind)| ("layers", format!("{layers}: {kind}"))));
    lines.extend([
        (
            "training length",
            info.train_length
                .map_or("not stated".into(), |n| format!("{} tokens", count(n))),
        ),
        (
            "weights",
            format!("{} as {}", bytes(info.weight_bytes), info.kept_as),
        ),
        ("state", state(info)),
        (
            "decode, a token",
            format!(
                "{} read and written, {}",
                bytes(costs.decode_bytes),
                scaled(costs.decode_flops, "FLOP")
            ),
        ),
        ("prefill, a token", scaled(costs.prefill_flops, "FLOP")),
    ]);
    let line = |(name, value): &(&str, String)| format!("{name:<18}{value}");
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn details(info: &Info) -> String {
    let details = info.details.iter().map(|(name, value)| format!("{name} {value}"));
    match info.details.is_empty() {
        true => "none".into(),
        false => details.collect::<Vec<_>>().join(", "),
    }
}

fn state(info: &Info) -> String {
    match info.cache_bytes_per_token {
        0 => format!("{} a sequence, at any length", bytes(info.state_bytes)),
        growth => format!(
            "{} a sequence before its first token, and {} more with every token",
            bytes(info.state_bytes),
            bytes(growth)
        ),
    }
}

/// What a mixer carries that interventions do not reach: convolutions, linear state spaces.
fn without_sites(state: &RecurrentState) -> String {
    let kept: usize = state.conv_states.iter().map(|inputs| inputs.dims()[2]).sum();
    let convolution = (!state.conv_states.is_empty()).then(|| format!("convolution, {kept} inputs kept"));
    let systems = state.systems.iter().map(|system| {
        let [_, channels, modes, _] = system.dims();
        format!("linear state space, {modes} complex numbers in each of {channels} channels")
    });
    let carried = state.carried.iter().map(|tensor| {
        let [_, rows, columns] = tensor.dims();
        format!("{rows} × {columns} values kept of long convolutions, cells and contexts")
    });
    let parts: Vec<String> = convolution.into_iter().chain(systems).chain(carried).collect();
    parts.join(", and ")
}

/// What a mixer of several parts carries that interventions do not reach, all parts together.
fn of_parts(parts: &[MixerState]) -> String {
    let (mut systems, mut numbers, mut carried) = (0, 0, 0);
    for part in parts {
        if let MixerState::Recurrent(state) = part {
            systems += state.systems.len();
            let of_system = state.systems.iter().map(|system| system.dims());
            numbers += of_system
                .map(|[_, channels, modes, _]| channels * modes)
                .sum::<usize>();
            let of_tensor = state.carried.iter().map(|tensor| tensor.dims());
            carried += of_tensor.map(|[_, rows, columns]| rows * columns).sum::<usize>();
        }
    }
    format!(
        "{} of {} complex numbers together, and {} kept",
        counted(systems as u64, "linear state space"),
        count(numbers as u64),
        counted(carried as u64, "value")
    )
}

/// What the sequence mixer of every layer is, by what it carries.
fn layer_kinds(model: &Model) -> Result<Vec<String>, ProgramError> {
    let state = model.start(&Chain::default(), 1)?;
    let blocks = model.network().blocks().iter().enumerate();
    let kinds = blocks.zip(&state.layers).map(|((layer, block), state)| {
        let sites = block.mixer.sites(layer);
        match &state.mixer {
            MixerState::Several(parts) if sites.is_empty() && !state.mixer.attends() => of_parts(parts),
            MixerState::Several(parts) => {
                let parts = parts.iter().map(|part| match part {
                    MixerState::Attention(_) => attention(block.mixer.cache_bytes_per_token()),
                    MixerState::Recurrent(state) if sites.is_empty() => without_sites(state),
                    _ => sites.iter().map(recurrence).collect::<Vec<_>>().join(", then "),
                });
                parts.collect::<Vec<_>>().join(", and ")
            }
            _ if !sites.is_empty() => sites.iter().map(recurrence).collect::<Vec<_>>().join(", then "),
            MixerState::Attention(_) => attention(block.mixer.cache_bytes_per_token()),
            MixerState::Recurrent(state) => without_sites(state),
            MixerState::Stateless => "nothing carried from token to token".into(),
        }
    });
    Ok(kinds.collect())
}

fn recurrence(site: &Site) -> String {
    let shape = match site.rule {
        Rule::Mean => "numerator, denominator, maximum".into(),
        _ => format!("{} × {} (key × value)", site.key_dim, site.value_dim),
    };
    let rule = match site.rule {
        Rule::WeightedSum => "weighted sum",
        Rule::Delta => "delta rule",
        Rule::Mean => "weighted mean",
    };
    let groups = match site.groups {
        groups if groups == site.heads => String::new(),
        1 => ", 1 query/key group".into(),
        groups => format!(", {groups} query/key groups"),
    };
    format!(
        "{rule}, {} of {shape}{groups}",
        counted(site.heads as u64, "head")
    )
}

fn attention(growth: u64) -> String {
    match growth {
        0 => "attention over a window, a cache of bounded size".into(),
        growth => format!("attention, {} more kept with every token", bytes(growth)),
    }
}

/// Equal neighbours as one: `0-2`, `3`.
fn runs_of(kinds: &[String]) -> impl Iterator<Item = (String, &str)> {
    let mut start = 0;
    kinds.chunk_by(|a, b| a == b).map(move |run| {
        let (first, last) = (start, start + run.len() - 1);
        start += run.len();
        let layers = match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        (layers, run[0].as_str())
    })
}

fn vocabulary(info: &Info) -> String {
    let padded = match info.padded_vocab_size == info.vocab_size {
        true => String::new(),
        false => format!(", padded to {}", count(info.padded_vocab_size as u64)),
    };
    let head = if info.tied {
        "head tied to the embedding"
    } else {
        "head of its own"
    };
    format!("{}{padded}, {head}", count(info.vocab_size as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_neighbours_are_one_line() {
        let kinds = ["a", "a", "b", "a", "a", "a"].map(String::from);
        let runs: Vec<_> = runs_of(&kinds).collect();
        let expected = [("0-1", "a"), ("2", "b"), ("3-5", "a")];
        assert_eq!(runs, expected.map(|(layers, kind)| (layers.to_string(), kind)));
    }
}
