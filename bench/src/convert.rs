//! `spillway convert`: any checkpoint as a folder of safetensors.

use crate::context::Context;
use crate::error::ProgramError;
use crate::init::StoredDtype;
use crate::kit::format::bytes;
use clap::Args;
use serde_json::json;
use spillway_models::convert::{ConvertOptions, Converted, convert};
use std::path::PathBuf;

/// Options of `spillway convert`.
#[derive(Debug, Args)]
#[command(after_help = "\
The folder gets config.json, model.safetensors and the tokenizer's files; names and shapes of the tensors stay as they are. \
f32 holds f32, f16 and bf16 exactly; bf16 rounds to nearest even. Nothing in a .pth or .bin file is ever run.

Examples:
  spillway convert RWKV-x060-World-1B6-v2.1.pth rwkv6-1b6 --dtype bf16
  spillway convert mamba-130m mamba-130m-bf16 --dtype bf16 --force")]
pub struct ConvertArgs {
    /// Folder or file of weights, in any layout
    pub model: PathBuf,
    /// Folder to write to, new or empty
    pub out: PathBuf,
    /// Type to store the weights in
    #[arg(long, value_enum, default_value_t = StoredDtype::F32)]
    pub dtype: StoredDtype,
    /// Write into a folder that is not empty: files of the same names are replaced, all others stay
    #[arg(long)]
    pub force: bool,
}

/// Runs `spillway convert`.
///
/// # Errors
/// [`ProgramError::Model`] for a checkpoint that cannot be read, an existing folder without `--force`, or a disk that is full;
/// nothing half-written is left behind then.
pub fn run(args: &ConvertArgs, context: &Context) -> Result<(), ProgramError> {
    let options = ConvertOptions {
        dtype: args.dtype.into(),
        replace: args.force,
    };
    let bar = context.progress(0, "bytes");
    bar.set_message("converting");
    let converted = convert(&args.model, &args.out, options, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    drop(bar);
    let converted = converted.map_err(|error| ProgramError::from(error).with_force_for("OUT"))?;
    let mut files = vec!["config.json", "model.safetensors"];
    files.extend(converted.copied.iter().map(String::as_str));
    let more = json!({ "tensors": converted.tensors, "bytes": converted.bytes, "derived_config": converted.derived_config });
    context.print_folder(&args.out, &files, more)?;
    context.print_line(summary(args, &converted))
}

fn summary(args: &ConvertArgs, converted: &Converted) -> String {
    let mut beside = vec![match converted.derived_config {
        true => "config.json (from the tensors' shapes)".to_string(),
        false => "config.json".to_string(),
    }];
    beside.extend(converted.copied.iter().cloned());
    format!(
        "{} tensors, {}, are in {}, with {}",
        converted.tensors,
        bytes(converted.bytes),
        args.out.display(),
        beside.join(", ")
    )
}
