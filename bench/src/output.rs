//! Files that are whole or absent, and output folders.
//!
//! A file is written under a temporary name in its own folder, brought to the disk, and renamed: whoever reads it finds the
//! old content or the new, never half of it. A full disk is noticed before the rename. A folder that a failed run has
//! created goes away with the run.

use crate::error::ProgramError;
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a file whole or not at all: `write` fills it under a temporary name, then it is renamed to `path`.
///
/// A path that is there but is no regular file (`/dev/stdout`, a pipe) is written to directly.
///
/// # Errors
/// [`ProgramError::File`], naming `path`; the old file, if any, is then untouched and no temporary file is left.
pub fn write_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), ProgramError> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let file = File::options()
            .write(true)
            .open(path)
            .map_err(ProgramError::file("write", path))?;
        return fill(file, false, write).map_err(ProgramError::file("write", path));
    }
    let temporary = temporary_name(path)
        .ok_or_else(|| ProgramError::usage("output file", "a file name", path.display().to_string()))?;
    let written = File::create(&temporary).and_then(|file| fill(file, true, write));
    written
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source| {
            // The first error is the one to report; the file may not even be there.
            let _ = fs::remove_file(&temporary);
            ProgramError::file("write", path)(source)
        })
}

/// [`write_file`] for indented JSON.
///
/// # Errors
/// As [`write_file`]; numbers that JSON cannot hold (NaN, infinities) become `null`.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ProgramError> {
    write_file(path, |file| {
        serde_json::to_writer_pretty(&mut *file, value).map_err(io::Error::from)?;
        writeln!(file)
    })
}

fn fill(file: File, sync: bool, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut buffered = BufWriter::new(file);
    write(&mut buffered)?;
    let file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    // Some file systems notice a full disk only here.
    if sync { file.sync_all() } else { Ok(()) }
}

/// `dir/report.json` becomes `dir/.report.json.tmp`; `None` if the path ends in no name.
fn temporary_name(path: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name()?);
    name.push(OsStr::new(".tmp"));
    Some(path.with_file_name(name))
}

/// What an output folder may hold when a run starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing: a folder with something in it is refused, so that no earlier result is overwritten.
    Refuse,
    /// The files of an interrupted run that this run goes on with.
    Resume,
}

/// A folder that a run writes its files into.
///
/// Unless [`OutputFolder::keep`] is called, dropping it removes the files written through it and the folders it created: a
/// run that fails leaves nothing behind. Files that were there before stay.
#[derive(Debug)]
pub struct OutputFolder {
    path: PathBuf,
    created: Vec<PathBuf>,
    written: Vec<PathBuf>,
}

impl OutputFolder {
    /// Creates the folder and its parents.
    ///
    /// # Errors
    /// [`ProgramError::FolderExists`] if it holds something and `existing` is [`Existing::Refuse`];
    /// [`ProgramError::File`] if it cannot be created or is no folder.
    pub fn create(path: &Path, existing: Existing) -> Result<Self, ProgramError> {
        let mut folder = Self {
            path: path.to_path_buf(),
            created: Vec::new(),
            written: Vec::new(),
        };
        if path.exists() {
            let mut entries =
                fs::read_dir(path).map_err(ProgramError::file("use as an output folder", path))?;
            if existing == Existing::Refuse && entries.next().is_some() {
                return Err(ProgramError::FolderExists(path.to_path_buf()));
            }
            return Ok(folder);
        }
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
            .collect();
        for part in missing.into_iter().rev() {
            fs::create_dir(part).map_err(ProgramError::file("create", part))?;
            folder.created.push(part.to_path_buf());
        }
        Ok(folder)
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it, whole or not at all.
    ///
    /// # Errors
    /// As [`write_file`].
    pub fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), ProgramError> {
        let path = self.claim(name);
        write_file(&path, write)
    }

    /// Writes indented JSON in it.
    ///
    /// # Errors
    /// As [`write_json`].
    pub fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<(), ProgramError> {
        let path = self.claim(name);
        write_json(&path, value)
    }

    /// The path of a file that something else will write, and that goes away with a failed run like the others, unless it
    /// was there before.
    pub fn claim(&mut self, name: &str) -> PathBuf {
        let path = self.file(name);
        if !path.exists() {
            self.written.push(path.clone());
        }
        path
    }

    /// Removes a file of it, for example the saved state of a run that has finished.
    ///
    /// # Errors
    /// [`ProgramError::File`]; a file that is not there is no error.
    pub fn remove(&mut self, name: &str) -> Result<(), ProgramError> {
        let path = self.file(name);
        self.written.retain(|written| *written != path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ProgramError::file("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// What is written so far is worth having: it stays, whatever happens later. Files written afterwards are again removed
    /// if this is not called once more.
    pub fn keep(&mut self) {
        self.written.clear();
        self.created.clear();
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        // Cleaning up after a failure: if that fails too, the first error is the one worth reporting.
        for file in &self.written {
            let _ = fs::remove_file(file);
        }
        for folder in self.created.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("readable folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary_one() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("report.json");
        write_file(&path, |file| file.write_all(b"old")).expect("first write");
        let error = write_file(&path, |file| {
            file.write_all(b"half of the new")?;
            Err(io::Error::from_raw_os_error(28))
        })
        .expect_err("the second write fails");
        assert!(
            error.to_string().contains("report.json: No space left"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).expect("old file"), "old");
        assert_eq!(names(folder.path()), ["report.json"]);
    }

    #[test]
    fn a_full_device_is_an_error_that_names_it() {
        let error = write_json(Path::new("/dev/full"), &[1, 2, 3]).expect_err("/dev/full takes nothing");
        assert!(
            error
                .to_string()
                .starts_with("cannot write /dev/full: No space left"),
            "{error}"
        );
    }

    #[test]
    fn a_failed_run_removes_what_it_made_and_nothing_else() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let nested = folder.path().join("a/b");
        {
            let mut out = OutputFolder::create(&nested, Existing::Refuse).expect("created");
            out.write("x.csv", |file| file.write_all(b"1")).expect("written");
        }
        assert!(names(folder.path()).is_empty());

        fs::write(folder.path().join("old.csv"), "kept").expect("written");
        {
            let mut out = OutputFolder::create(folder.path(), Existing::Resume).expect("resumed");
            out.write("new.csv", |file| file.write_all(b"1"))
                .expect("written");
        }
        assert_eq!(names(folder.path()), ["old.csv"]);
    }

    #[test]
    fn kept_files_stay() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let nested = folder.path().join("out");
        {
            let mut out = OutputFolder::create(&nested, Existing::Refuse).expect("created");
            out.write("x.csv", |file| file.write_all(b"1")).expect("written");
            out.keep();
            out.write("y.csv", |file| file.write_all(b"2")).expect("written");
        }
        assert_eq!(names(&nested), ["x.csv"]);
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused_unless_resuming() {
        let folder = tempfile::tempdir().expect("temporary folder");
        OutputFolder::create(folder.path(), Existing::Refuse).expect("an empty folder will do");
        fs::write(folder.path().join("x"), "").expect("written");
        let error = OutputFolder::create(folder.path(), Existing::Refuse).expect_err("not empty");
        assert_eq!(error.exit_code(), 2);
        OutputFolder::create(folder.path(), Existing::Resume).expect("resumed");
        OutputFolder::create(&folder.path().join("x"), Existing::Resume).expect_err("a file is no folder");
    }
}
