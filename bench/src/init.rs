//! `spillway init`: a random checkpoint in a published layout, for benchmarks.

use crate::context::Context;
use crate::error::ProgramError;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use models::checkpoint::WriteDtype;
use models::mamba2::init::{Shape, write_random};
use std::path::PathBuf;

/// Options of `spillway init`.
#[derive(Debug, Args)]
#[command(after_help = "\
The weights are random, as before training: good for timing and for trying things out, not for reading what it writes.

Example:
  spillway init --arch mamba2 --shape 130m --out mamba2-130m-random
  spillway bench mamba2-130m-random")]
pub struct InitArgs {
    /// Architecture
    #[arg(long, value_enum)]
    pub arch: Architecture,
    /// Size
    #[arg(long, value_parser = PossibleValuesParser::new(Shape::NAMES))]
    pub shape: String,
    /// Folder to create; it must not exist yet
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The same seed gives the same weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Type to store the weights in
    #[arg(long, value_enum, default_value_t = StoredDtype::F32)]
    pub dtype: StoredDtype,
}

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Architecture {
    /// Mamba-2, in the layout of the original code
    Mamba2,
}

/// Types that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoredDtype {
    /// 32-bit floats
    F32,
    /// bfloat16
    Bf16,
}

/// Runs `spillway init`.
///
/// # Errors
/// [`ProgramError::Model`] when the folder exists or cannot be written; nothing is left behind then.
pub fn run(args: &InitArgs, context: &Context) -> Result<(), ProgramError> {
    let expected = || format!("one of {}", Shape::NAMES.join(", "));
    let shape = Shape::named(&args.shape)
        .ok_or_else(|| ProgramError::usage("--shape", expected(), args.shape.clone()))?;
    let dtype = match args.dtype {
        StoredDtype::F32 => WriteDtype::F32,
        StoredDtype::Bf16 => WriteDtype::Bf16,
    };
    match args.arch {
        Architecture::Mamba2 => write_random(&args.out, &shape, dtype, args.seed)?,
    }
    context.print_line(format_args!(
        "random {} weights are in {}",
        args.shape,
        args.out.display()
    ))
}
