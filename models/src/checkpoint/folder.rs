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

/// The weights in a folder, or their index.
pub(super) fn find_weights(folder: &Path) -> Result<PathBuf, CheckpointError> {
    let entries = std::fs::read_dir(folder).map_err(CheckpointError::io(folder, "listing"))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .collect();
    files.sort();
    for (names, ending) in KINDS {
        let mut known = names.iter().map(|name| folder.join(name));
        if let Some(path) = known.find(|path| path.exists()) {
            return Ok(path);
        }
        let mut found = files.iter().filter(|path| has_ending(path, ending));
        match (found.next(), found.next()) {
            (None, _) => {}
            (Some(only), None) => return Ok(only.clone()),
            (Some(first), Some(second)) => {
                let name = |path: &PathBuf| {
                    path.file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned()
                };
                return Err(CheckpointError::Ambiguous {
                    folder: folder.to_path_buf(),
                    found: [first, second].into_iter().chain(found).map(name).collect(),
                });
            }
        }
    }
    Err(CheckpointError::Missing {
        path: folder.join("model.safetensors"),
        expected: ACCEPTED,
    })
}

/// An index comes from strangers: it may name files in its own folder and nowhere else.
pub(super) fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}
