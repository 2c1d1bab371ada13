//! `spillway inspect`: what a checkpoint is, and what it costs per token.

use crate::context::Context;
use crate::costs::Costs;
use crate::error::ProgramError;
use crate::model_args::ModelArgs;
use clap::Args;
use models::{Info, Model};
use serde::Serialize;
use ssm_core::{Chain, MixerState, Rule, Site};

/// Options of `spillway inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
The whole checkpoint is read and checked, so that one that passes here can be used by every other subcommand.

Examples:
  spillway inspect mamba2-130m
  spillway inspect mamba2-130m --dtype int8 --json")]
pub struct InspectArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
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
    let costs = Costs::of(&model, args.model.dtype.into());
    let layer_kinds = layer_kinds(&model)?;
    match args.json {
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
                "{}, {} layers of width {}",
                info.architecture, info.layers, info.model_dim
            ),
        ),
        ("layout", format!("{}, by {}", info.layout, info.recognised_by)),
        ("details", details(info)),
        ("stored as", info.stored_as.join(", ")),
        ("parameters", grouped(info.parameters)),
        ("vocabulary", vocabulary(info)),
        ("tokenizer", info.tokenizer.to_string()),
    ];
    lines.extend(runs_of(layer_kinds).map(|(layers, kind)| ("layers", format!("{layers}: {kind}"))));
    lines.extend([
        (
            "training length",
            info.train_length
                .map_or("not stated".into(), |n| format!("{} tokens", grouped(n))),
        ),
        (
            "weights",
            format!("{} as {}", size(info.weight_bytes), info.kept_as),
        ),
        ("state", state(info)),
        (
            "decode, a token",
            format!(
                "{} read and written, {}",
                size(costs.decode_bytes),
                flops(costs.decode_flops)
            ),
        ),
        ("prefill, a token", flops(costs.prefill_flops)),
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
        0 => format!("{} a sequence, at any length", size(info.state_bytes)),
        growth => format!(
            "{} a sequence before its first token, and {} more with every token",
            size(info.state_bytes),
            size(growth)
        ),
    }
}

/// What the sequence mixer of every layer is, by what it carries.
fn layer_kinds(model: &Model) -> Result<Vec<String>, ProgramError> {
    let state = model.start(&Chain::default(), 1)?;
    let blocks = model.network().blocks().iter().enumerate();
    let kinds = blocks.zip(&state.layers).map(|((layer, block), state)| {
        let sites = block.mixer.sites(layer);
        match &state.mixer {
            _ if !sites.is_empty() => sites.iter().map(recurrence).collect::<Vec<_>>().join(", then "),
            MixerState::Attention(_) => attention(block.mixer.cache_bytes_per_token()),
            MixerState::Recurrent(state) => format!(
                "convolution, {} inputs kept",
                state.taps.iter().map(|taps| taps.dims()[2]).sum::<usize>()
            ),
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
    format!("{rule}, {} heads of {shape}{groups}", site.heads)
}

fn attention(growth: u64) -> String {
    match growth {
        0 => "attention over a window, a cache of bounded size".into(),
        growth => format!("attention, {} more kept with every token", size(growth)),
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
        false => format!(", padded to {}", grouped(info.padded_vocab_size as u64)),
    };
    let head = if info.tied {
        "head tied to the embedding"
    } else {
        "head of its own"
    };
    format!("{}{padded}, {head}", grouped(info.vocab_size as u64))
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in decimal units, as memory bandwidths are given.
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes, &[(1e9, "GB"), (1e6, "MB"), (1e3, "kB")], "B")
}

fn flops(count: u64) -> String {
    scaled(count, &[(1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")], "FLOP")
}

fn scaled(count: u64, units: &[(f64, &str)], plain: &str) -> String {
    let number = count as f64;
    match units.iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", number / unit),
        None => format!("{count} {plain}"),
    }
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

    #[test]
    fn numbers_are_grouped_and_scaled() {
        assert_eq!(
            [0, 999, 1000, 138_456].map(grouped),
            ["0", "999", "1,000", "138,456"]
        );
        assert_eq!(
            [12, 19_400_000, 2_500_000_000].map(size),
            ["12 B", "19.4 MB", "2.5 GB"]
        );
        assert_eq!(flops(204_000_000), "204.0 MFLOP");
    }
}
