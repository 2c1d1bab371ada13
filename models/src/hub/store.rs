//! What is put into the cache: blobs under locks, links to them, and where a branch is.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::cache::Repository;
use super::{HubError, Reference};
use crate::output::{NewFile, OutputError};

impl Repository {
    /// Where a blob is, or will be.
    pub(super) fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    /// Waits until no other process, of other tools neither, fetches this blob, and keeps them from it until it is dropped.
    pub(super) fn lock(&self, hash: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{hash}.lock"));
        make_folder_of(&path)?;
        let mut options = File::options();
        let file = options.create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(HubError::io(&path, "locking"))?;
        // A file system without locks has none for others either.
        let _ = file.lock();
        Ok(file)
    }

    /// Lets a name of a commit be a blob.
    pub(super) fn link(&self, commit: &str, name: &str, hash: &str) -> Result<(), HubError> {
        let place = self.snapshot(commit).join(name);
        if place.exists() {
            return Ok(());
        }
        make_folder_of(&place)?;
        // There may be a link to what has been removed.
        let _ = fs::remove_file(&place);
        let up = "../".repeat(2 + name.matches('/').count());
        if symlink(Path::new(&format!("{up}blobs/{hash}")), &place).is_ok() {
            return Ok(());
        }
        let blob = self.blob(hash);
        let linked = fs::hard_link(&blob, &place).or_else(|_| fs::copy(&blob, &place).map(drop));
        linked.map_err(HubError::io(&place, "writing"))
    }

    /// Remembers that a branch or tag is at `commit`.
    pub(super) fn remember(&self, reference: &Reference, commit: &str) -> Result<(), HubError> {
        if reference.is_commit() {
            return Ok(());
        }
        let path = self.folder.join("refs").join(reference.revision());
        make_folder_of(&path)?;
        let mut file = NewFile::create(&path)?;
        let written = file.writer().write_all(commit.as_bytes());
        written.map_err(OutputError::io(&path, "writing"))?;
        Ok(file.commit()?)
    }
}

/// Makes the folder that a file is to lie in.
pub(super) fn make_folder_of(path: &Path) -> Result<(), HubError> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(HubError::io(folder, "making a folder")),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn symlink(to: &Path, from: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(to, from)
}

/// Links to files need rights there that few users have.
#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
