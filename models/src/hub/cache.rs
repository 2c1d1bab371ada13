//! The folder of a repository in the cache.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::reference::is_commit;
use super::selection::Selection;
use super::{HubError, Pulled, PulledFile, Reference, Settings};
use crate::input;

/// The longest text of a reference: a commit and a line's end.
const MAX_REF: u64 = 1 << 10;
/// The longest index of shards.
pub(super) const MAX_INDEX: u64 = input::MAX_SETTINGS;
/// Folders of a snapshot within one another that are looked into.
const DEEPEST: usize = 8;

/// A repository in the cache, whether it is there or not.
#[derive(Clone, Debug)]
pub(super) struct Repository {
    pub(super) folder: PathBuf,
    /// Where other tools have their locks, too.
    #[cfg(feature = "hub")]
    pub(super) locks: PathBuf,
}

impl Repository {
    pub(super) fn new(settings: &Settings, reference: &Reference) -> Self {
        let name = format!("models--{}--{}", reference.owner(), reference.name());
        Self {
            folder: settings.cache.join(&name),
            #[cfg(feature = "hub")]
            locks: settings.cache.join(".locks").join(name),
        }
    }

    /// The files of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// What the cache has of a reference, if that is all that is read of it.
    pub(super) fn find(&self, reference: &Reference) -> Result<Pulled, HubError> {
        let not_cached = |missing: String| HubError::NotCached {
            repository: reference.to_string(),
            folder: self.folder.clone(),
            missing,
        };
        let Some(commit) = self.commit_of(reference) else {
            return Err(not_cached(format!("revision {}", reference.revision())));
        };
        let snapshot = self.snapshot(&commit);
        let mut names = Vec::new();
        list(&snapshot, "", DEEPEST, &mut names);
        names.sort();
        let selection = match Selection::of(reference, &names) {
            Err(HubError::NoWeights { .. }) => {
                let missing = reference.file().unwrap_or("weights");
                return Err(not_cached(format!("{missing} of {commit}")));
            }
            selection => selection?,
        };
        let mut wanted = selection.beside.clone();
        wanted.push(selection.weights.clone());
        if selection.is_index() {
            let path = snapshot.join(&selection.weights);
            let text = input::read_text(&path, MAX_INDEX).map_err(HubError::io(&path, "reading"))?;
            // What is no index is told of where it is opened.
            wanted.extend(selection.shards(&text).unwrap_or_default());
        }
        if let Some(missing) = wanted.iter().find(|name| !names.contains(name)) {
            return Err(not_cached(format!("{missing} of {commit}")));
        }
        let files = wanted.into_iter().map(|name| {
            let path = snapshot.join(&name);
            let bytes = fs::metadata(&path).map_err(HubError::io(&path, "reading"))?.len();
            Ok(PulledFile {
                name,
                bytes,
                fetched: 0,
            })
        });
        Ok(Pulled {
            files: files.collect::<Result<_, HubError>>()?,
            path: place(snapshot, reference),
            commit,
        })
    }

    /// The commit that a revision was at when it was fetched last.
    fn commit_of(&self, reference: &Reference) -> Option<String> {
        if reference.is_commit() {
            return Some(reference.revision().to_ascii_lowercase());
        }
        let path = self.folder.join("refs").join(reference.revision());
        let text = input::read_text(&path, MAX_REF).ok()?;
        Some(text.trim().to_string()).filter(|commit| is_commit(commit))
    }
}

/// What is loaded of a snapshot.
pub(super) fn place(snapshot: PathBuf, reference: &Reference) -> PathBuf {
    match reference.file() {
        Some(file) => snapshot.join(file),
        None => snapshot,
    }
}

/// The names of all files below a folder that are there, those that links lead to included.
fn list(folder: &Path, before: &str, deepest: usize, names: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let (path, Ok(name)) = (entry.path(), entry.file_name().into_string()) else {
            continue;
        };
        let name = format!("{before}{name}");
        match fs::metadata(&path) {
            Ok(found) if found.is_file() => names.push(name),
            Ok(found) if found.is_dir() && deepest > 0 => {
                list(&path, &format!("{name}/"), deepest - 1, names);
            }
            // A link to what has been removed.
            _ => {}
        }
    }
}

/// The name of a model that lies in a cache: its repository's, or that of the file in it; `None` for every other path.
pub(crate) fn name_of(path: &Path) -> Option<String> {
    let parts: Vec<&str> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    let at = parts.iter().rposition(|part| *part == "snapshots")?;
    let repository = parts.get(at.checked_sub(1)?)?.strip_prefix("models--")?;
    let (_, name) = repository.split_once("--")?;
    is_commit(parts.get(at + 1)?).then_some(())?;
    match parts.get(at + 2..)? {
        [] => Some(name.into()),
        [.., file] => Some(file.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_in_the_cache_is_called_by_its_repository() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let at = |rest: &str| {
            name_of(&PathBuf::from(format!(
                "/c/hub/models--a--mamba-130m/snapshots/{commit}{rest}"
            )))
        };
        assert_eq!(at("").as_deref(), Some("mamba-130m"));
        assert_eq!(at("/x.pth").as_deref(), Some("x.pth"));
        for path in [
            "a",
            "snapshots/x",
            "models--a--b/snapshots/main",
            "models--a/snapshots",
        ] {
            assert_eq!(name_of(Path::new(path)), None, "{path}");
        }
    }
}
