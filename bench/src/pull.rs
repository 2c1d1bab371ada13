//! `spillway pull`: a checkpoint by the name that it has on a hub. And such names in the place of paths, in every command.

use crate::context::{Context, Progress};
use crate::error::ProgramError;
use crate::kit::format::bytes;
use clap::Args;
use indicatif::HumanCount;
use serde_json::{Value, json};
use spillway_models::hub::{self, HubError, OnProgress, Pulled, PulledFile, Reference, Settings};
use std::path::PathBuf;

/// Options of `spillway pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
Of a repository only what is read here is fetched: one checkpoint's weights (safetensors, else PyTorch's, else GGUF), config.json, the
tokenizer, the chat template, spillway.json. What came in part goes on from there; every file is held against the hash that the hub names
it by. The cache is that of Hugging Face's own tools, ~/.cache/huggingface/hub unless set otherwise, and so are the variables: HF_ENDPOINT,
HF_HUB_CACHE, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE=1 for what is there already.

In every command hf:OWNER/NAME may stand where a checkpoint's path does. It is fetched when it is not in the cache; what is there is taken as it is,
until it is pulled again.

Examples:
  spillway pull state-spaces/mamba2-130m
  spillway pull BlinkDL/rwkv-7-world:RWKV-x070-World-0.1B-v2.8-20241210-ctx4096.pth
  spillway inspect hf:state-spaces/mamba2-130m")]
pub struct PullArgs {
    /// The repository; @REV is a branch, tag or commit of it [default: main], and :FILE one of several files of weights in it
    #[arg(value_name = "OWNER/NAME[@REV][:FILE]")]
    pub model: String,
}

/// Runs `spillway pull`.
///
/// # Errors
/// [`ProgramError::Usage`] for what is no name of a repository, [`ProgramError::Failed`] where it cannot be fetched.
pub fn run(args: &PullArgs, context: &Context) -> Result<(), ProgramError> {
    let reference: Reference = args.model.parse()?;
    let settings = Settings::from_environment()?;
    let pulled = watched(context, |on_progress| {
        hub::pull(&settings, &reference, on_progress)
    })?;
    let sum = |of: fn(&PulledFile) -> u64| pulled.files.iter().map(of).sum::<u64>();
    context.remark(format_args!(
        "{} files, {}, of which {} were fetched",
        HumanCount(pulled.files.len() as u64),
        bytes(sum(|file| file.bytes)),
        bytes(sum(|file| file.fetched))
    ));
    context.print_line(pulled.path.display())?;
    context.print_json(&document(&reference, &pulled))
}

fn document(reference: &Reference, pulled: &Pulled) -> Value {
    let files = pulled
        .files
        .iter()
        .map(|file| json!({ "name": file.name, "bytes": file.bytes, "fetched": file.fetched }));
    json!({
        "model": reference.to_string(),
        "commit": pulled.commit,
        "path": pulled.path.display().to_string(),
        "files": files.collect::<Vec<_>>(),
    })
}

/// Puts paths in the place of names on the hub, and fetches what is not in the cache.
///
/// # Errors
/// As [`run`].
pub fn resolve(checkpoints: Vec<&mut PathBuf>, context: &Context) -> Result<(), ProgramError> {
    for path in checkpoints {
        if let Some(reference) = Reference::of_path(path)? {
            let settings = Settings::from_environment()?;
            let found = watched(context, |on_progress| {
                hub::resolve(&settings, &reference, on_progress)
            });
            *path = found?.path;
        }
    }
    Ok(())
}

/// Runs something that fetches files, with a bar for each.
fn watched(
    context: &Context,
    fetch: impl FnOnce(&mut OnProgress<'_>) -> Result<Pulled, HubError>,
) -> Result<Pulled, ProgramError> {
    let mut watched: Option<(String, Progress)> = None;
    let mut on_progress = |name: &str, done: u64, total: u64| {
        let (_, bar) = match watched.take() {
            Some(going) if going.0 == name => watched.insert(going),
            _ => {
                let bar = context.progress_from(done, total, "bytes");
                bar.set_message(name.to_string());
                watched.insert((name.to_string(), bar))
            }
        };
        bar.set_position(done);
    };
    Ok(fetch(&mut on_progress)?)
}

impl From<HubError> for ProgramError {
    fn from(error: HubError) -> Self {
        match error {
            HubError::Reference { found } => {
                let expected = "OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME:FILE of a hub";
                Self::usage("CHECKPOINT", expected, found)
            }
            other => Self::Failed(other.to_string()),
        }
    }
}
