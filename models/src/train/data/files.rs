//! The files that data are read from: which ones they are, and their bytes.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::DataError;
use crate::input;

/// The extension that stands for every ending of a name.
const ANY: &str = "*";

/// The files that `paths` name: a file as it is, a folder with everything below it whose name ends in one of `extensions`,
/// sorted by path. Names that begin with a dot are passed over.
///
/// # Errors
/// [`DataError::Io`] for what is not there, [`DataError::NoFiles`] for a folder with nothing to read.
pub(super) fn list(paths: &[PathBuf], extensions: &[String]) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for path in paths {
        let kind = fs::metadata(path).map_err(DataError::io(path, "opening"))?;
        if !kind.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut below = Vec::new();
        walk(path, &mut below)?;
        let all = below.len();
        below.retain(|file| is_read(file, extensions));
        if below.is_empty() {
            return Err(DataError::NoFiles {
                path: path.clone(),
                expected: endings(extensions),
                found: all,
            });
        }
        below.sort();
        files.extend(below);
    }
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    for entry in fs::read_dir(folder).map_err(DataError::io(folder, "listing"))? {
        let entry = entry.map_err(DataError::io(folder, "listing"))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        // The entry's own kind: a link to a folder above would be walked for ever. A link to a file is a file.
        let kind = entry.file_type().map_err(DataError::io(&path, "opening"))?;
        if kind.is_dir() {
            walk(&path, files)?;
        } else if kind.is_file() || path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

fn is_read(path: &Path, extensions: &[String]) -> bool {
    let found = path.extension().map(|ending| ending.to_string_lossy());
    extensions.iter().any(|wanted| {
        let wanted = wanted.trim_start_matches('.');
        wanted == ANY
            || found
                .as_ref()
                .is_some_and(|found| found.eq_ignore_ascii_case(wanted))
    })
}

fn endings(extensions: &[String]) -> String {
    let names = extensions
        .iter()
        .map(|wanted| format!(".{}", wanted.trim_start_matches('.')));
    names.collect::<Vec<_>>().join(", ")
}

/// A file's bytes, mapped: pages come when they are touched, and the system takes them back when it needs the memory.
#[derive(Debug)]
pub(super) struct Mapped(Option<Mmap>);

impl Mapped {
    /// Maps a file.
    ///
    /// # Errors
    /// [`DataError::Io`] when there is none or it cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let (file, metadata) = input::open(path).map_err(DataError::io(path, "opening"))?;
        if metadata.len() == 0 {
            // An empty file cannot be mapped.
            return Ok(Self(None));
        }
        // SAFETY: the mapping is read-only and private, and values are copied out of it. The one hazard left is another process
        // truncating the file meanwhile, which ends this process with a bus error, as it does every program that maps its input.
        let map = unsafe { Mmap::map(&file) }.map_err(DataError::io(path, "mapping"))?;
        Ok(Self(Some(map)))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
