//! `spillway convert`: any checkpoint as a folder of safetensors, or as a GGUF file.

use crate::context::Context;
use crate::error::ProgramError;
use crate::kit::format::bytes;
use clap::{Args, ValueEnum};
use serde_json::json;
use spillway_models::ModelError;
use spillway_models::checkpoint::{GgufDtype, WriteDtype};
use spillway_models::convert::{
    ConvertOptions, Converted, ConvertedGguf, GgufOptions, convert, convert_to_gguf,
};
use std::path::{Path, PathBuf};

/// Options of `spillway convert`.
#[derive(Debug, Args)]
#[command(after_help = "\
A folder gets config.json, model.safetensors and the tokenizer's files; names and shapes of the tensors stay as they are. \
f32 holds f32, f16 and bf16 exactly; bf16 rounds to nearest even. Nothing in a .pth or .bin file is ever run.

A GGUF file is one that llama.cpp reads, tokenizer included: mamba1, mamba2 (original, Hugging Face), rwkv6, rwkv7 (BlinkDL) and llama. \
Vectors stay f32, and so do the matrices that its readers want in full; rows that are no whole blocks of q8_0 or q4_0 are f16.

Examples:
  spillway convert RWKV-x060-World-1B6-v2.1.pth rwkv6-1b6 --dtype bf16
  spillway convert mamba-130m mamba-130m-bf16 --dtype bf16 --force
  spillway convert mamba2-130m mamba2-130m-q8.gguf --dtype q8_0")]
pub struct ConvertArgs {
    /// Folder or file of weights, in any layout
    pub model: PathBuf,
    /// Folder to write to, new or empty; or a file whose name ends in .gguf
    #[arg(required_unless_present = "to")]
    pub out: Option<PathBuf>,
    /// Folder or file to write to, another way to name OUT
    #[arg(long = "out", value_name = "OUT", conflicts_with = "out")]
    pub to: Option<PathBuf>,
    /// What to write [default: as OUT says]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Type to store the weights in; f16, q8_0 and q4_0 are types of GGUF files
    #[arg(long, value_enum, default_value_t = ConvertDtype::F32)]
    pub dtype: ConvertDtype,
    /// Write into a folder that is not empty, where files of the same names are replaced and all others stay; replace a file
    #[arg(long)]
    pub force: bool,
}

/// Form in which a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A folder with config.json and model.safetensors
    Safetensors,
    /// One file, as llama.cpp reads it
    Gguf,
}

/// Types that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConvertDtype {
    /// 32-bit floats
    F32,
    /// 16-bit floats
    F16,
    /// bfloat16
    Bf16,
    /// 8 bits, a scale for 32 values
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits, a scale for 32 values
    #[value(name = "q4_0")]
    Q4_0,
}

impl ConvertDtype {
    /// The type in a folder of safetensors, where it is one of those.
    fn of_folder(self) -> Option<WriteDtype> {
        match self {
            Self::F32 => Some(WriteDtype::F32),
            Self::Bf16 => Some(WriteDtype::Bf16),
            Self::F16 | Self::Q8_0 | Self::Q4_0 => None,
        }
    }

    fn of_gguf(self) -> GgufDtype {
        match self {
            Self::F32 => GgufDtype::F32,
            Self::F16 => GgufDtype::F16,
            Self::Bf16 => GgufDtype::Bf16,
            Self::Q8_0 => GgufDtype::Q8_0,
            Self::Q4_0 => GgufDtype::Q4_0,
        }
    }
}

/// Runs `spillway convert`.
///
/// # Errors
/// [`ProgramError::Usage`] for a type that the format has not, [`ProgramError::Model`] for a checkpoint that cannot be read or that the format
/// cannot hold, something that exists without `--force`, or a disk that is full; nothing half-written is left behind then.
pub fn run(args: &ConvertArgs, context: &Context) -> Result<(), ProgramError> {
    let Some(out) = args.out.as_ref().or(args.to.as_ref()) else {
        return Err(ProgramError::usage("OUT", "a folder or a .gguf file", "nothing"));
    };
    let is_gguf = out
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    match args.format {
        Some(Format::Gguf) => to_gguf(args, out, context),
        None if is_gguf => to_gguf(args, out, context),
        _ => to_folder(args, out, context),
    }
}

/// Runs a conversion behind a bar.
fn with_bar<T>(
    context: &Context,
    convert: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<T, ModelError>,
) -> Result<T, ProgramError> {
    let bar = context.progress(0, "bytes");
    bar.set_message("converting");
    let converted = convert(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    drop(bar);
    converted.map_err(|error| ProgramError::from(error).with_force_for("OUT"))
}

fn to_folder(args: &ConvertArgs, out: &Path, context: &Context) -> Result<(), ProgramError> {
    let Some(dtype) = args.dtype.of_folder() else {
        let found = format!("{}, a type of GGUF files", args.dtype.of_gguf().name());
        return Err(ProgramError::usage(
            "--dtype",
            "f32 or bf16 in a folder of safetensors",
            found,
        ));
    };
    let options = ConvertOptions {
        dtype,
        replace: args.force,
    };
    let converted = with_bar(context, |progress| convert(&args.model, out, options, progress))?;
    let mut files = vec!["config.json", "model.safetensors"];
    files.extend(converted.copied.iter().map(String::as_str));
    let more = json!({ "tensors": converted.tensors, "bytes": converted.bytes, "derived_config": converted.derived_config });
    context.print_folder(out, &files, more)?;
    context.print_line(summary(out, &converted))
}

fn to_gguf(args: &ConvertArgs, out: &Path, context: &Context) -> Result<(), ProgramError> {
    let options = GgufOptions {
        dtype: args.dtype.of_gguf(),
        replace: args.force,
    };
    let converted = with_bar(context, |progress| {
        convert_to_gguf(&args.model, out, options, progress)
    })?;
    let ConvertedGguf {
        architecture,
        tensors,
        bytes: size,
        tokenizer,
    } = converted;
    context.print_json(&json!({
        "file": out.display().to_string(), "architecture": architecture, "tensors": tensors, "bytes": size,
        "tokenizer": tokenizer.as_ref().ok(), "no_tokenizer": tokenizer.as_ref().err(),
    }))?;
    let tokenizer = match tokenizer {
        Ok(kind) => format!("a tokenizer ({kind})"),
        Err(reason) => format!("no tokenizer: {reason}"),
    };
    context.print_line(format!(
        "{tensors} tensors of {architecture}, {}, are in {}, with {tokenizer}",
        bytes(size),
        out.display()
    ))
}

fn summary(out: &Path, converted: &Converted) -> String {
    let mut beside = vec![match converted.derived_config {
        true => "config.json (from the tensors' shapes)".to_string(),
        false => "config.json".to_string(),
    }];
    beside.extend(converted.copied.iter().cloned());
    format!(
        "{} tensors, {}, are in {}, with {}",
        converted.tensors,
        bytes(converted.bytes),
        out.display(),
        beside.join(", ")
    )
}
