//! Which of a folder's files are the weights.

use std::path::{Component, Path, PathBuf};

use super::error::CheckpointError;

/// What may be opened.
pub(super) const ACCEPTED: &str = "a folder with config.json and model.safetensors (or model.safetensors.index.json and \
                                   its shards, or the same as PyTorch files), a .safetensors or .pth file with \
                                   config.json beside it, or a .gguf file";

/// Names that say all, and the ending of files that are taken under any name if they are the only ones of their kind; the
/// preferred kinds first.
const KINDS: [(&[&str], &str); 5] = [
    (
        &["model.safetensors", "model.safetensors.index.json"],
        "safetensors",
    ),
    (&["pytorch_model.bin", "pytorch_model.bin.index.json"], "pth"),
    (&[], "bin"),
    // Ai00's name for safetensors.
    (&[], "st"),
    (&[], "gguf"),
];
/// Endings of the files that `torch.save` writes.
const PYTORCH_ENDINGS: [&str; 5] = ["pth", "pt", "bin", "ckpt", "pkl"];

/// Whether a file is read as PyTorch's.
pub(super) fn is_pytorch(path: &Path) -> bool {
    PYTORCH_ENDINGS.iter().any(|ending| has_ending(path, ending))
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension()
        .is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// Which of several files are the weights of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// This one, or it is the index of their shards.
    One(PathBuf),
    /// Any of these could be.
    Several(Vec<String>),
    /// None of the files is a file of weights.
    None,
}

/// The weights among files by their names, sorted; `has` says whether there is something of a name that says all.
pub(crate) fn weights_among(files: &[PathBuf], has: impl Fn(&str) -> bool) -> Weights {
    for (names, ending) in KINDS {
        if let Some(name) = names.iter().find(|name| has(name)) {
            return Weights::One(name.into());
        }
        let found = files.iter().filter(|name| has_ending(name, ending));
        match found.collect::<Vec<_>>().as_slice() {
            [] => {}
            [only] => return Weights::One(only.to_path_buf()),
            several => {
                let names = several.iter().map(|name| name.to_string_lossy().into_owned());
                return Weights::Several(names.collect());
            }
        }
    }
    Weights::None
}

/// The weights in a folder, or their index.
pub(super) fn find_weights(folder: &Path) -> Result<PathBuf, CheckpointError> {
    let entries = std::fs::read_dir(folder).map_err(CheckpointError::io(folder, "listing"))?;
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    let mut files: Vec<PathBuf> = files.map(|entry| entry.file_name().into()).collect();
    files.sort();
    match weights_among(&files, |name| folder.join(name).exists()) {
        Weights::One(name) => Ok(folder.join(name)),
        Weights::Several(found) => Err(CheckpointError::Ambiguous {
            folder: folder.to_path_buf(),
            found,
        }),
        Weights::None => Err(CheckpointError::Missing {
            path: folder.join("model.safetensors"),
            expected: ACCEPTED,
        }),
    }
}

/// An index comes from strangers: it may name files in its own folder and nowhere else.
pub(super) fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}
