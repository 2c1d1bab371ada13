//! A folder under a temporary name until it is complete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::error::OutputError;
use super::lock::{FolderLock, LOCK};
use super::{parent, sync_folder, temporary};

/// A folder under a temporary name. [`NewFolder::commit`] gives it its real name, or, where there is a folder of that name, its
/// files theirs; dropping it before that removes it.
#[derive(Debug)]
pub struct NewFolder {
    temporary: PathBuf,
    path: PathBuf,
    replace: bool,
    /// On the folder that is there already.
    in_use: Option<FolderLock>,
    /// On the temporary one, so that nobody takes it for abandoned.
    _held: Option<File>,
}

impl NewFolder {
    /// Begins a folder that will be called `path`.
    ///
    /// # Errors
    /// [`OutputError::Exists`] when there is something of that name but an empty folder, [`OutputError::Io`] when it
    /// cannot be made.
    pub fn create(path: &Path) -> Result<Self, OutputError> {
        Self::begin(path, false)
    }

    /// Begins a folder that will be called `path`; if there is one, its files of the same names will be replaced, one by one,
    /// and its others will stay. No other process may write there meanwhile.
    ///
    /// # Errors
    /// [`OutputError::Exists`] when `path` is no folder, [`OutputError::InUse`], [`OutputError::Io`] when it cannot
    /// be made.
    pub fn replace(path: &Path) -> Result<Self, OutputError> {
        Self::begin(path, true)
    }

    fn begin(path: &Path, replace: bool) -> Result<Self, OutputError> {
        // The folder behind a link, not the link, is what is filled.
        let path = &path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        check_free(path, replace)?;
        let mut in_use = None;
        if path.is_dir() {
            temporary::sweep(path);
            in_use = Some(FolderLock::acquire(path)?);
        }
        let creating = || OutputError::io(path, "creating");
        fs::create_dir_all(parent(path)).map_err(creating())?;
        let (held, temporary) = temporary::new_folder(parent(path)).map_err(creating())?;
        Ok(Self {
            temporary,
            path: path.clone(),
            replace,
            in_use,
            _held: held,
        })
    }

    /// Path that the folder has once it is complete.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where to write the folder's files meanwhile.
    pub fn temporary_path(&self) -> &Path {
        &self.temporary
    }

    /// Brings everything to the disk and gives the folder its real name, or its files theirs.
    ///
    /// # Errors
    /// [`OutputError::Exists`] when the name has been taken meanwhile, [`OutputError::Io`] otherwise.
    pub fn commit(mut self) -> Result<(), OutputError> {
        check_free(&self.path, self.replace)?;
        let writing = || OutputError::io(&self.path, "writing");
        let entries = fs::read_dir(&self.temporary).map_err(writing())?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(writing())?;
        // The configuration, by which others know what the folder is, comes after what it stands for.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
        for entry in entries.iter().filter(|entry| entry.path().is_file()) {
            let file = File::open(entry.path()).map_err(writing())?;
            file.sync_all().map_err(writing())?;
        }
        sync_folder(&self.temporary).map_err(writing())?;
        if self.path.exists() && self.replace && !is_free(&self.path) {
            for entry in entries {
                let target = self.path.join(entry.file_name());
                fs::rename(entry.path(), &target).map_err(OutputError::io(&target, "renaming"))?;
            }
            return sync_folder(&self.path).map_err(writing());
        }
        // An empty folder may be renamed onto, and its lock is in the way of that.
        self.in_use = None;
        match fs::rename(&self.temporary, &self.path) {
            // Another process has filled it since.
            Err(_) if self.path.exists() && !is_empty(&self.path) => Err(OutputError::Exists {
                path: self.path.clone(),
            }),
            Err(error) => Err(OutputError::io(&self.path, "renaming")(error)),
            Ok(()) => sync_folder(parent(&self.path)).map_err(writing()),
        }
    }
}

/// Whether there is nothing of that name, or a folder with nothing in it but what killed processes have left.
pub fn is_free(path: &Path) -> bool {
    let is_left = |name: &str| name == LOCK || temporary::is_leftover(name);
    match fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .all(|entry| is_left(&entry.file_name().to_string_lossy())),
        Err(_) => !path.exists(),
    }
}

/// Refuses what is no folder and, unless files are to be replaced, what is no empty one.
fn check_free(path: &Path, replace: bool) -> Result<(), OutputError> {
    match is_free(path) || replace && path.is_dir() {
        true => Ok(()),
        false => Err(OutputError::Exists {
            path: path.to_path_buf(),
        }),
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        // After a commit there is nothing of that name any more, and this fails harmlessly.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("entry").file_name();
        let mut names: Vec<String> = entries.map(|e| name(e).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn filled(folder: NewFolder) -> Result<(), OutputError> {
        fs::write(folder.temporary_path().join("a"), "new").expect("written");
        folder.commit()
    }

    #[test]
    fn an_empty_folder_and_one_that_a_killed_process_has_left_are_as_good_as_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, left) in [("empty", ""), ("locked", LOCK), ("half", ".spillway-half.tmp")] {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("made");
            if !left.is_empty() {
                fs::write(path.join(left), "").expect("written");
            }
            filled(NewFolder::create(&path).expect("free")).expect("committed");
            assert_eq!(names(&path), ["a"]);
        }
        assert_eq!(names(folder.path()), ["empty", "half", "locked"]);
    }

    #[test]
    fn a_folder_that_another_process_fills_is_not_mixed_with() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("out");
        let (first, second) = (NewFolder::create(&path), NewFolder::create(&path));
        filled(first.expect("free")).expect("committed");
        let error = filled(second.expect("free then")).expect_err("taken since");
        assert!(matches!(error, OutputError::Exists { .. }), "{error}");
        let replacing = NewFolder::replace(&path).expect("asked for");
        let error = NewFolder::replace(&path).expect_err("in use");
        assert!(matches!(error, OutputError::InUse(_)), "{error}");
        filled(replacing).expect("committed");
        assert_eq!(names(&path), ["a"]);
        assert_eq!(names(folder.path()), ["out"]);
    }
}
