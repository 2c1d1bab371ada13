//! `spillway inspect`: what a checkpoint is, and what it costs per token.

use crate::context::Context;
use crate::costs::Costs;
use crate::error::ProgramError;
use crate::model_args::ModelArgs;
use clap::Args;
use models::Info;
use serde::Serialize;

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
    costs: Costs,
}

/// Runs `spillway inspect`.
///
/// # Errors
/// [`ProgramError::Model`] for a checkpoint that cannot be used.
pub fn run(args: &InspectArgs, context: &Context) -> Result<(), ProgramError> {
    let model = args.model.load()?;
    let costs = Costs::of(&model, args.model.dtype.into());
    match args.json {
        true => context.print_json(&Output {
            info: model.info(),
            costs,
        }),
        false => context.print_line(table(model.info(), &costs)),
    }
}

fn table(info: &Info, costs: &Costs) -> String {
    let lines = [
        ("model", info.name.clone()),
        (
            "architecture",
            format!(
                "{}, {} layers of width {}",
                info.architecture, info.layers, info.model_dim
            ),
        ),
        ("layout", format!("{}, by {}", info.layout, info.recognised_by)),
        ("stored as", info.stored_as.join(", ")),
        ("parameters", grouped(info.parameters)),
        ("vocabulary", vocabulary(info)),
        ("tokenizer", info.tokenizer.to_string()),
        ("recurrences", recurrences(info)),
        (
            "training length",
            info.train_length
                .map_or("not stated".into(), |n| format!("{} tokens", grouped(n))),
        ),
        (
            "weights",
            format!("{} as {}", size(info.weight_bytes), info.kept_as),
        ),
        (
            "state",
            format!("{} a sequence, at any length", size(info.state_bytes)),
        ),
        (
            "decode, a token",
            format!(
                "{} read and written, {}",
                size(costs.decode_bytes),
                flops(costs.decode_flops)
            ),
        ),
        ("prefill, a token", flops(costs.prefill_flops)),
    ];
    lines.map(|(name, value)| format!("{name:<18}{value}")).join("\n")
}

/// The recurrences by their shapes, with the number of layers that have each.
fn recurrences(info: &Info) -> String {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for site in &info.sites {
        let kind = format!(
            "{} heads, state {} × {} (key × value), {} query/key group{}",
            site.heads,
            site.key_dim,
            site.value_dim,
            site.groups,
            if site.groups == 1 { "" } else { "s" }
        );
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    match kinds.is_empty() {
        true => "none".into(),
        false => kinds
            .iter()
            .map(|(kind, count)| format!("{count} of {kind}"))
            .collect::<Vec<_>>()
            .join("; "),
    }
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
