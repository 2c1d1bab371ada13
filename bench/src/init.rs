//! `spillway init`: a random checkpoint in a published layout, for benchmarks.

use crate::context::Context;
use crate::error::ProgramError;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::init::{preset, write_random, write_random_over};
use spillway_models::layout::Layout;
use spillway_models::registry::{layouts_of, written_layouts};
use std::borrow::Cow;
use std::path::PathBuf;

/// Options of `spillway init`.
#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub struct InitArgs {
    /// Architecture of the model (--list shows them)
    #[arg(long, value_name = "NAME", default_value = "mamba2")]
    pub arch: String,
    /// Layout, where the architecture has several, by a word of its name [default: the first]
    #[arg(long, value_name = "NAME")]
    pub layout: Option<String>,
    /// Published size of the model, such as 130m (--list shows them)
    #[arg(long, value_name = "NAME", required_unless_present_any = ["list", "config"])]
    pub shape: Option<String>,
    /// A config.json of the layout instead of a published size
    #[arg(long, value_name = "FILE", conflicts_with = "shape")]
    pub config: Option<PathBuf>,
    /// Folder to write to, new or empty
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    pub out: Option<PathBuf>,
    /// Write into a folder that is not empty: files of the same names are replaced, all others stay
    #[arg(long, requires = "out")]
    pub force: bool,
    /// Print every architecture, layout and size, and write nothing
    #[arg(long)]
    pub list: bool,
    /// Seed of the random weights: the same seed gives the same weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Type to store the weights in
    #[arg(long, value_enum, default_value_t = StoredDtype::F32)]
    pub dtype: StoredDtype,
}

/// Types that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoredDtype {
    /// 32-bit floats
    F32,
    /// bfloat16
    Bf16,
}

impl From<StoredDtype> for WriteDtype {
    fn from(dtype: StoredDtype) -> Self {
        match dtype {
            StoredDtype::F32 => Self::F32,
            StoredDtype::Bf16 => Self::Bf16,
        }
    }
}

/// Runs `spillway init`.
///
/// # Errors
/// [`ProgramError::Model`] when the folder exists or cannot be written; nothing is left behind then.
pub fn run(args: &InitArgs, context: &Context) -> Result<(), ProgramError> {
    let (Some(out), false) = (&args.out, args.list) else {
        context.print_json(&json!({ "layouts": layouts_as_data() }))?;
        return context.print_line(table());
    };
    let layout = choose_layout(args)?;
    let (config, size) = choose_config(args, layout)?;
    let waiting = context.waiting("writing random weights");
    let (dtype, seed) = (args.dtype.into(), args.seed);
    let written = match args.force {
        true => write_random_over(out, layout, &config, dtype, seed),
        false => write_random(out, layout, &config, dtype, seed),
    };
    written.map_err(|error| ProgramError::from(error).with_force_for("--out"))?;
    drop(waiting);
    context.print_folder(
        out,
        &["config.json", "model.safetensors"],
        json!({ "architecture": args.arch, "layout": layout.name, "size": size }),
    )?;
    context.print_line(format_args!(
        "random {} {size} weights ({}) are in {}",
        args.arch,
        layout.name,
        out.display()
    ))
}

/// The configuration that `--config` or `--shape` names, and what to call its size.
fn choose_config<'a>(
    args: &'a InitArgs,
    layout: &'static Layout,
) -> Result<(Cow<'static, str>, Cow<'a, str>), ProgramError> {
    if let Some(path) = &args.config {
        let text = spillway_models::input::read_text(path, spillway_models::input::MAX_SETTINGS)
            .map_err(ProgramError::file("read", path))?;
        return Ok((text.into(), path.to_string_lossy()));
    }
    let size = args.shape.as_deref().unwrap_or_default();
    let sizes: Vec<&str> = layout.presets.iter().map(|preset| preset.size).collect();
    let expected = || format!("one of {}", sizes.join(", "));
    let preset =
        preset(layout, size).ok_or_else(|| ProgramError::usage("--shape", expected(), size.to_string()))?;
    Ok((preset.config.into(), size.into()))
}

fn after_help() -> String {
    format!(
        "\
The weights are random, as before training: good for timing and for trying things out, not for reading what it writes.

Architectures, layouts and sizes:
{}

Examples:
  spillway init --arch mamba2 --shape 130m --out mamba2-130m-random
  spillway bench mamba2-130m-random
  spillway init --arch gla --config my-config.json --out gla-random",
        table()
    )
}

/// Every layout that random checkpoints can be made in, with its sizes.
fn table() -> String {
    let layouts = written_layouts;
    let width = |name: fn(&Layout) -> &str| layouts().map(|layout| name(layout).len()).max().unwrap_or(0);
    let (first, second) = (width(|layout| layout.architecture), width(|layout| layout.name));
    let line = |layout: &Layout| {
        let sizes: Vec<&str> = layout.presets.iter().map(|preset| preset.size).collect();
        format!(
            "  {:<first$}  {:<second$}  {}",
            layout.architecture,
            layout.name,
            sizes.join(", ")
        )
    };
    layouts().map(line).collect::<Vec<_>>().join("\n")
}

/// The list of layouts and sizes as JSON.
fn layouts_as_data() -> Vec<Value> {
    let layouts = written_layouts();
    let sizes = |layout: &Layout| {
        layout
            .presets
            .iter()
            .map(|preset| preset.size)
            .collect::<Vec<_>>()
    };
    let entry = |layout: &Layout| json!({ "architecture": layout.architecture, "layout": layout.name, "sizes": sizes(layout) });
    layouts.map(entry).collect()
}

/// The layout that `--arch` and `--layout` name.
fn choose_layout(args: &InitArgs) -> Result<&'static Layout, ProgramError> {
    let candidates: Vec<&Layout> = layouts_of(&args.arch).collect();
    let Some(first) = candidates.first() else {
        let mut names: Vec<&str> = written_layouts().map(|layout| layout.architecture).collect();
        names.dedup();
        let expected = format!("one of {}", names.join(", "));
        return Err(ProgramError::usage("--arch", expected, args.arch.clone()));
    };
    let Some(asked) = &args.layout else {
        return Ok(first);
    };
    let lower = asked.to_lowercase();
    let named = |layout: &&&Layout| layout.name.to_lowercase().contains(&lower);
    candidates.iter().find(named).copied().ok_or_else(|| {
        let names: Vec<&str> = candidates.iter().map(|layout| layout.name).collect();
        let expected = format!("a word of one of: {}", names.join(", "));
        ProgramError::usage("--layout", expected, asked.clone())
    })
}
